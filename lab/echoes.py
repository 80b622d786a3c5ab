"""The scene of tests with single datagrams: three echo servers, a daemon before them, and a client's socket."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.daemon import Daemon, Yaml, configuration, running
from lab.nat import Address
from lab.ports import free_port
from lab.stage import LIMIT_S, NAMES, PARAMS
from lab.udp_servers import UdpServer, mark_ecn, open_socket, received, udp_servers
from qlb.cid import CidCodec, CidParams


@dataclass
class Echoes:
    """Three echo servers behind a daemon, and one client's socket. service: the address to send to."""

    servers: list[UdpServer]
    daemon: Daemon
    config: Yaml
    service: Address
    client: socket.socket

    async def ask(self, datagram: bytes, *, ecn: int = 0, service: Address | None = None) -> tuple[bytes, int, Address]:
        """Send a datagram and wait for the answer. Return (datagram, ECN bits, source)."""
        mark_ecn(self.client, ecn)
        self.client.sendto(datagram, service or self.service)
        return await received(self.client)

    def id_of(self, server: UdpServer, params: CidParams = PARAMS) -> bytes:
        """Return a connection ID that belongs to a server."""
        assert server.server_id is not None, "the server has no server ID"
        return CidCodec(params).encode(server.server_id, bytes(params.nonce_length))


@asynccontextmanager
async def echoes(
    folder: Path,
    host: str,
    *,
    listen: str | None = None,
    behind: str | None = None,
    may_log_errors: bool = False,
    **sections: Any,
) -> AsyncIterator[Echoes]:
    """Set up the scene. listen: the host of the daemon; behind: of the servers; by default, both are `host`."""
    service = (host, free_port(listen or host))
    async with asyncio.timeout(LIMIT_S), udp_servers(NAMES, PARAMS, host=behind or host) as servers:
        sections = {"health": {"probe": "none"}, **sections}
        config = configuration([(listen or host, service[1])], [PARAMS], servers, **sections)
        async with running(folder / "daemon", config, may_log_errors=may_log_errors) as daemon:
            with open_socket((host, 0)) as client:
                yield Echoes(servers, daemon, config, service, client)
