"""Three backends and two CID configs, packets for them, and the sockets of a small network."""

from __future__ import annotations

import asyncio
import dataclasses
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

from lab.dataplane.settings import DEFAULTS
from qlb.addresses import Endpoint
from qlb.cid import CidCodec, CidParams
from qlb.dataplane.base import Orders, PlaneSettings
from qlb.routing.backends import Backend, BackendIndexes
from qlb.routing.maglev import DEFAULT_KEY
from qlb.routing.snapshot import compile_snapshot

Socket = socket.socket
"""The name inside Network, whose method socket() hides the module."""

FOUR_PASS = CidParams(1, 4, 10, bytes(range(16)))
PLAINTEXT = CidParams(2, 3, 5, length_self_encoded=True)
SETTINGS = dataclasses.replace(DEFAULTS, flow_table_size=100, max_sessions=8, session_timeout_s=60)


def backend(index: int, endpoint: Endpoint, **fields: object) -> Backend:
    """Return a backend whose server IDs repeat its index."""
    return Backend(f"b{index}", endpoint, {1: (bytes([index]) * 4,), 2: (bytes([index]) * 3,)}, **fields)  # type: ignore[arg-type]


def orders(backends: list[Backend], settings: PlaneSettings = SETTINGS, generation: int = 1) -> Orders:
    """Compile the orders for a worker."""
    arranged = BackendIndexes().arrange(backends)
    return Orders(compile_snapshot(generation, [FOUR_PASS, PLAINTEXT], arranged, fallback_key=DEFAULT_KEY), settings)


def cid_of(params: CidParams, index: int) -> bytes:
    """Return an ID of a backend."""
    return CidCodec(params).encode(bytes([index]) * params.server_id_length, bytes(range(params.nonce_length)))


def short_header(cid: bytes, payload: bytes = b"payload") -> bytes:
    """Return a short header packet."""
    return b"\x40" + cid + payload


def long_header(dcid: bytes, scid: bytes = b"client", version: int = 1) -> bytes:
    """Return a long header packet."""
    return b"\xc0" + version.to_bytes(4, "big") + bytes([len(dcid)]) + dcid + bytes([len(scid)]) + scid + b"rest"


@dataclass
class Network:
    """Sockets on loopback, closed at the end of the test."""

    stack: ExitStack = field(default_factory=ExitStack)

    def socket(self, host: str = "127.0.0.1", port: int = 0) -> Socket:
        """Bind a non-blocking UDP socket. port: 0 for any free one."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = self.stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)  # a plane may be faster than the test reads
        sock.bind((host, port))
        return sock

    def pool(self, host: str = "127.0.0.1", ports: Iterable[int] = (0, 0, 0)) -> tuple[list[Socket], list[Backend]]:
        """Open the backends' sockets. Return the sockets and the backends."""
        sockets = [self.socket(host, port) for port in ports]
        return sockets, [backend(n, Endpoint(*sock.getsockname()[:2])) for n, sock in enumerate(sockets)]


async def receive(sock: socket.socket) -> tuple[bytes, tuple[str, int]]:
    """Wait for at most 60 s for a datagram and its sender. Works on any event loop: uvloop has no sock_recvfrom()."""
    async with asyncio.timeout(60):
        while True:
            try:
                datagram, sender = sock.recvfrom(65535)
            except BlockingIOError:
                await _readable(sock)
            else:
                return datagram, sender


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock)
