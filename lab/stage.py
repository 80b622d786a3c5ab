"""The scene of most end-to-end tests: backends, a daemon before them, and a NAT before the daemon."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lab.daemon import Daemon, configuration, running
from lab.nat import Address, Nat, NatPort
from lab.ports import free_port
from lab.quic_servers import QuicServerBehind, quic_servers
from lab.stories import Gates
from qlb.cid import CidParams

NAMES: Final = ("agent-a", "agent-b", "agent-c")
KEY: Final = bytes.fromhex("8f95f09245765f80256934e50c66207f")
PARAMS: Final = CidParams(config_id=1, server_id_length=4, nonce_length=12, key=KEY)
NEXT_PARAMS: Final = CidParams(config_id=2, server_id_length=4, nonce_length=8, key=KEY[::-1], cid_length=17)
"""The servers rotate to these: other lengths and another key. Padded, because aioquic parses one length only."""
LIMIT_S: Final = 240.0
"""The time limit of every test that does not set its own."""


@dataclass
class Stage:
    """The parts of the scene. service: the address to which clients send."""

    service: Address
    servers: list[QuicServerBehind]
    daemon: Daemon
    nat: Nat
    gates: Gates

    def ports(self, count: int) -> list[NatPort]:
        """Open ports of the NAT towards the daemon, one for each client."""
        return [self.nat.port(self.service) for _ in range(count)]

    def addresses(self, count: int) -> list[Address]:
        """Open ports of the NAT as ports() does. Return the addresses to which their clients send."""
        return [port.address for port in self.ports(count)]

    def config(self, cid_params: Sequence[CidParams] = (PARAMS,), **sections: Any) -> dict[str, Any]:
        """Return a configuration of this daemon for a reload. sections: replace the sections of the same name."""
        return configuration([self.service], cid_params, self.servers, **sections)

    @property
    def accepted(self) -> int:
        """Return the number of connections that all servers have accepted."""
        return sum(server.accepted for server in self.servers)


@asynccontextmanager
async def stage(
    folder: Path,
    *,
    params: CidParams = PARAMS,
    quic_lb: bool = True,
    retry: bool = False,
    host: str = "127.0.0.1",
    may_log_errors: bool = False,
    limit_s: float = LIMIT_S,
    **sections: Any,
) -> AsyncIterator[Stage]:
    """Set up three aioquic servers, a daemon and a NAT.

    quic_lb: whether the servers issue IDs by params. The daemon has the params in both cases. retry: whether the
    servers validate addresses first. limit_s: the time after which the test fails. sections: of the daemon's
    configuration.
    """
    gates, service = Gates(), (host, free_port(host))
    async with (
        asyncio.timeout(limit_s),
        quic_servers(NAMES, params if quic_lb else None, gates, host=host, retry=retry) as servers,
        running(
            folder / "daemon", configuration([service], [params], servers, **sections), may_log_errors=may_log_errors
        ) as daemon,
    ):
        with Nat() as nat:
            yield Stage(service, servers, daemon, nat, gates)
