"""Calls for benchmarks.flood: clients that send at a steady rate, and the server that echoes their packets."""

import asyncio
import os
import socket
import time
from typing import Any, Final, NamedTuple

from qlb.cid import CidCodec, CidParams

CALLS: Final = 10
INTERVAL_S: Final = 0.02
CALL_BYTES: Final = 200


class Answers(NamedTuple):
    """Result of the packets that were sent in a period. Times are from a packet to its answer."""

    sent: int
    lost: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class Calls:
    """CALLS clients that each send a packet every INTERVAL_S. Every packet carries its number."""

    def __init__(self, port: int, params: CidParams, server_id: bytes) -> None:
        """Choose a connection ID for each call. port: the daemon's on 127.0.0.1."""
        codec = CidCodec(params)
        self._port = port
        self._ids = [codec.encode(server_id, os.urandom(params.nonce_length)) for _ in range(CALLS)]
        self._sent_s: list[float] = []
        self._waits_s: dict[int, float] = {}
        self._sockets: list[socket.socket] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Send until the event is set."""
        loop = asyncio.get_running_loop()
        for _ in self._ids:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.connect(("127.0.0.1", self._port))
            loop.add_reader(sock, self._receive, sock)
            self._sockets.append(sock)
        begin_s = time.perf_counter()
        while not stop.is_set():
            number = len(self._sent_s)
            due_s = begin_s + number * INTERVAL_S / CALLS
            await asyncio.sleep(max(due_s - time.perf_counter(), 0))
            self._sent_s.append(time.perf_counter())
            call = number % CALLS
            payload = b"\x40" + self._ids[call] + number.to_bytes(8, "big")
            self._sockets[call].send(payload.ljust(CALL_BYTES, b"\0"))

    def end(self, begin_s: float, end_s: float) -> Answers:
        """Close the sockets, and return the result of the packets sent in this period (perf_counter)."""
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        numbers = [number for number, at_s in enumerate(self._sent_s) if begin_s <= at_s < end_s]
        waits_ms = sorted(1000 * self._waits_s[number] for number in numbers if number in self._waits_s) or [0.0]
        return Answers(
            sent=len(numbers),
            lost=sum(number not in self._waits_s for number in numbers),
            p50_ms=waits_ms[len(waits_ms) // 2],
            p99_ms=waits_ms[len(waits_ms) * 99 // 100],
            max_ms=waits_ms[-1],
        )

    def _receive(self, sock: socket.socket) -> None:
        at = 1 + len(self._ids[0])
        while True:
            try:
                number = int.from_bytes(sock.recv(2048)[at : at + 8], "big")
            except OSError:
                return
            self._waits_s.setdefault(number, time.perf_counter() - self._sent_s[number])


class Echo(asyncio.DatagramProtocol):
    """The called server: it sends every packet back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport for the answers."""
        self._transport: Any = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Send the packet back."""
        self._transport.sendto(data, addr)
