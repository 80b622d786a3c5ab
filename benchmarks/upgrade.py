"""Measure what replacing the daemon costs: unanswered packets and the longest wait for an answer.

``python -m benchmarks.upgrade`` prints the table of docs/upgrading.md, with one row for each change and plane.
Clients send at a steady rate to a server that echoes every packet. The daemon between them is replaced several times.
The packets carry unroutable connection IDs, so each one needs the flow table or the fallback: the harder case.
"""

import asyncio
import itertools
import logging
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import uvloop

from benchmarks.options import command_line
from lab.daemon import Daemon, configuration, running
from lab.managed import start_managed
from lab.nat import Address
from lab.ports import free_port
from lab.service_manager import Manager, managing
from lab.udp_servers import open_socket

CLIENTS: Final = 20
RATE: Final = 1000.0
CHANGES: Final = 5
PAUSE_S: Final = 0.5
LATE_S: Final = 0.05
PLANES: Final = ("batch", "asyncio")
ANYWHERE: Final = ("127.0.0.1", 0)
_NUMBER_BYTES: Final = 8
_TICK_S: Final = 0.001
_LAST_S: Final = 1.5
"""Time to wait for answers after the last packet was sent."""


class Figures(NamedTuple):
    """Result of a run. lost: packets without an answer. worst_s: longest time from a packet to its answer."""

    sent: int
    lost: int
    worst_s: float


class Echo(asyncio.DatagramProtocol):
    """A server that echoes every packet after a delay."""

    def __init__(self, delay_s: float) -> None:
        """Set the delay of each answer."""
        self._delay_s = delay_s

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport for the answers."""
        self._transport: Any = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        """Echo the packet, after the delay if there is one."""
        if self._delay_s:
            asyncio.get_running_loop().call_later(self._delay_s, self._transport.sendto, data, addr)
        else:
            self._transport.sendto(data, addr)


class Clients:
    """Clients that take turns in sending at a steady rate and record the answers."""

    def __init__(self, service: Address) -> None:
        """Start to send. service: address of the daemon."""
        self._loop = asyncio.get_running_loop()
        self._service = service
        self._sockets = [open_socket(ANYWHERE) for _ in range(CLIENTS)]
        self._sent: dict[int, float] = {}
        self._waits: dict[int, float] = {}
        for sock in self._sockets:
            self._loop.add_reader(sock, self._receive, sock)
        self._sending = asyncio.create_task(self._send())

    async def figures(self) -> Figures:
        """Stop sending, wait for outstanding answers, and return the result."""
        self._sending.cancel()
        await asyncio.sleep(_LAST_S)
        for sock in self._sockets:
            self._loop.remove_reader(sock)
            sock.close()
        lost = len(self._sent.keys() - self._waits.keys())
        return Figures(len(self._sent), lost, max(self._waits.values(), default=0.0))

    async def _send(self) -> None:
        begin_s = time.perf_counter()
        for number in itertools.count():
            while number > (time.perf_counter() - begin_s) * RATE:
                await asyncio.sleep(_TICK_S)
            datagram = b"\x40" + bytes(_NUMBER_BYTES) + number.to_bytes(_NUMBER_BYTES)
            self._sent[number] = time.perf_counter()
            self._sockets[number % CLIENTS].sendto(datagram, self._service)

    def _receive(self, sock: socket.socket) -> None:
        while True:
            try:
                datagram = sock.recv(2048)
            except OSError:
                return
            number = int.from_bytes(datagram[-_NUMBER_BYTES:])
            self._waits.setdefault(number, time.perf_counter() - self._sent[number])


Change = Callable[[Daemon, Manager], Awaitable[None]]


async def _nothing(_daemon: Daemon, _manager: Manager) -> None:
    await asyncio.sleep(1.0)


async def _upgrade(daemon: Daemon, _manager: Manager) -> None:
    await daemon.upgrade()


async def _stop_and_start(daemon: Daemon, manager: Manager) -> None:
    await daemon.stop()
    await start_managed(daemon, manager)


async def _kill_and_start(daemon: Daemon, manager: Manager) -> None:
    await daemon.kill()
    await start_managed(daemon, manager)


ROWS: Final[tuple[tuple[str, Change, float], ...]] = (
    ("no change", _nothing, 0.0),
    ("`qlb upgrade`", _upgrade, 0.0),
    ("`qlb upgrade`, servers answer after 50 ms", _upgrade, LATE_S),
    ("SIGTERM, start from the store", _stop_and_start, 0.0),
    ("SIGKILL, start from the store", _kill_and_start, 0.0),
)


async def measure(change: Change, plane: str, delay_s: float) -> Figures:
    """Measure one row: CHANGES changes with a pause between them."""
    with tempfile.TemporaryDirectory(prefix="qlb-upgrade-") as name, managing(Path(name)) as manager:
        async with _echo(delay_s) as server:
            service = ("127.0.0.1", free_port())
            config = configuration([service], [], [], health={"probe": "none"})
            config["backends"] = [{"name": "echo", "address": f"{server[0]}:{server[1]}"}]
            config["forwarding"] = {"plane": plane, "workers": "2"}
            async with running(Path(name) / "daemon", config) as daemon:
                await daemon.stop()
                await start_managed(daemon, manager)
                clients = Clients(service)
                for _ in range(CHANGES):
                    await asyncio.sleep(PAUSE_S)
                    await change(daemon, manager)
                await asyncio.sleep(PAUSE_S)
                return await clients.figures()


@asynccontextmanager
async def _echo(delay_s: float) -> AsyncIterator[Address]:
    sock = open_socket(ANYWHERE)
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(lambda: Echo(delay_s), sock=sock)
    try:
        yield sock.getsockname()
    finally:
        transport.close()


def main(arguments: Sequence[str] = ()) -> None:
    """Measure each row and print it at once."""
    command_line("benchmarks.upgrade", __doc__).parse_args(arguments)
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    print("| | plane | sent | lost | longest wait for an answer |\n| --- | --- | --- | --- | --- |")
    for name, change, delay_s in ROWS:
        for plane in PLANES:
            found = uvloop.run(measure(change, plane, delay_s))
            print(f"| {name} | {plane} | {found.sent:,} | {found.lost:,} | {found.worst_s * 1000:.0f} ms |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
