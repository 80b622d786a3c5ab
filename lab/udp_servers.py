"""Backends without QUIC: they see the datagrams unchanged, and send each one back."""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from lab.nat import Address
from lab.server import Server, server_id_of
from qlb.cid import CidParams

ECN_MASK: Final = 3
_RECVTOS: Final = 13
"""IP_RECVTOS on Linux. Only newer Pythons have it in the socket module."""
_MAX_DATAGRAM_BYTES: Final = 65_535
_CONTROL_BYTES: Final = 128
_BUFFER_BYTES: Final = 4 << 20
_BATCH: Final = 64


def open_socket(address: Address) -> socket.socket:
    """Bind a non-blocking socket that receives ECN bits with each datagram."""
    sock = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _RECVTOS, 1)
    sock.bind(address)
    return sock


def mark_ecn(sock: socket.socket, ecn: int) -> None:
    """Send with these ECN bits from now on."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, ecn)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, ecn)


def receive(sock: socket.socket) -> tuple[bytes, int, Address]:
    """Return (datagram, ECN bits, source). Raises BlockingIOError if no datagram waits."""
    datagram, control, _, source = sock.recvmsg(_MAX_DATAGRAM_BYTES, _CONTROL_BYTES)
    marks = [data[0] & ECN_MASK for _, kind, data in control if kind in (socket.IP_TOS, socket.IPV6_TCLASS)]
    return datagram, sum(marks), source[:2]


async def received(sock: socket.socket) -> tuple[bytes, int, Address]:
    """Wait for a datagram. Return it as receive() does."""
    loop, readable = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(sock)
    return receive(sock)


@dataclass
class UdpServer(Server):
    """An echo server. answer_ecn: the ECN bits of its answers; None = those of the question.

    silent: it does not answer. packets: received datagrams. last: the newest datagram, with its ECN bits.
    """

    answer_ecn: int | None = None
    silent: bool = False
    packets: int = 0
    last: tuple[bytes, int] = (b"", 0)
    sock: socket.socket = field(init=False)

    def read(self) -> None:
        """Answer the datagrams that wait."""
        for _ in range(_BATCH):
            try:
                datagram, ecn, source = receive(self.sock)
            except BlockingIOError:
                return
            self.packets += 1
            self.last = datagram, ecn
            if not self.silent:
                mark_ecn(self.sock, ecn if self.answer_ecn is None else self.answer_ecn)
                self.sock.sendto(datagram, source)


@asynccontextmanager
async def udp_servers(
    names: Sequence[str], params: CidParams | None = None, *, host: str = "127.0.0.1", silent: bool = False
) -> AsyncIterator[list[UdpServer]]:
    """Run one echo server for each name."""
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as stack:
        found = []
        for name in names:
            server = UdpServer(name, server_id_of(name, params), (host, 0), silent=silent)
            server.sock = stack.enter_context(open_socket(server.address))
            server.address = server.sock.getsockname()[:2]
            loop.add_reader(server.sock, server.read)
            stack.callback(loop.remove_reader, server.sock)
            found.append(server)
        yield found
