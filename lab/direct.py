"""Servers that answer clients directly, on two hosts behind a balancer, and the balancer's configuration."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

from lab.daemon import Yaml, configuration
from lab.hosts import BACKENDS, SERVICES, Hosts
from lab.quic_servers import QuicServerBehind, quic_servers
from lab.stage import NAMES, PARAMS
from lab.stories import Gates
from qlb.cid import CidParams

PORT: Final = 4433


@asynccontextmanager
async def direct_servers(made: Hosts, gates: Gates, family: int, outer: int) -> AsyncIterator[list[QuicServerBehind]]:
    """Run two servers on each backend's host: one at the service's address, and one at its own for the probes."""
    async with AsyncExitStack() as stack:
        servers = []
        for name, host, address in zip(NAMES, made.backends, BACKENDS[outer], strict=False):
            with host.inside():
                for own in (SERVICES[family], address):
                    running_one = quic_servers((name,), PARAMS, gates, host=own, port=PORT)
                    found = await stack.enter_async_context(running_one)
                    servers += found if own == SERVICES[family] else []
        yield servers


def direct_configuration(
    servers: Sequence[QuicServerBehind],
    params: Sequence[CidParams],
    family: int,
    outer: int,
    mode: str,
    **sections: Any,
) -> Yaml:
    """Return the balancer's configuration. family: of the service. outer: family of the backends' own addresses."""
    found = configuration([(SERVICES[family], PORT)], params, servers, **sections)
    for backend, address in zip(found["backends"], BACKENDS[outer], strict=True):
        backend["address"] = f"[{address}]:{PORT}" if ":" in address else f"{address}:{PORT}"
    found["forwarding"] = {"mode": mode, "interfaces": ["in0"], **sections.get("forwarding", {})}
    return found
