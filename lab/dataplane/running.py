"""Run a plane in a test."""

import asyncio
import importlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

from qlb.addresses import Endpoint
from qlb.dataplane import planes
from qlb.dataplane.base import Orders, Plane
from qlb.dataplane.sockets import DEFAULT_BUFFERS, Buffers, bound_endpoint, open_listener
from qlb.routing import counters as layout
from qlb.routing.counters import SIZE_BYTES, Counters
from qlb.routing.sums import total_backend_send_errors, total_return_send_errors

WORKER_PLANES: Final = tuple(sorted(name for name, row in planes.PLANES.items() if not row.in_kernel))
"""The planes that worker processes run."""

_BACKENDS = 8
"""The backend indexes that tests use are below this."""


@dataclass
class Running:
    """A plane that is running."""

    plane: Plane
    counters: Counters
    service: Endpoint
    listener: socket.socket

    async def send(self, client: socket.socket, datagram: bytes, host: str | None = None) -> None:
        """Send a datagram from a client to the service. host: if the listener is on a wildcard address."""
        client.sendto(datagram, (host or self.service.host, self.service.port))
        await asyncio.sleep(0)

    def slot(self, slot: int) -> int:
        """Return one counter."""
        return self.counters.slots[slot]

    def outcome(self, outcome: int) -> int:
        """Return the packets of one outcome."""
        return self.slot(layout.OUTCOME + outcome)

    def send_error(self, kind: str) -> int:
        """Return the failed sends of one kind."""
        found = total_return_send_errors([self.counters])[kind]
        return found + sum(total_backend_send_errors([self.counters], n)[kind] for n in range(_BACKENDS))

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for at most 60 s until the condition is true: planes count on their own threads."""
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0)


Run = Callable[..., AbstractAsyncContextManager[Running]]
"""(orders, host, port, beside, buffers): run one plane until the end of the block. host and port are the service's,
with defaults. beside: another plane, whose listener it shares; it starts paused. buffers: of the listener."""


def runs(name: str) -> Run:
    """Return a context manager that runs one of WORKER_PLANES."""

    @asynccontextmanager
    async def run(
        wanted: Orders,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        beside: Running | None = None,
        buffers: Buffers = DEFAULT_BUFFERS,
    ) -> AsyncIterator[Running]:
        row = planes.PLANES[name]
        make = getattr(importlib.import_module(row.module), row.factory)
        listener = beside.listener.dup() if beside else open_listener(Endpoint(host, port), buffers)
        service = bound_endpoint(listener)
        own = listener.dup()
        memory = memoryview(bytearray(SIZE_BYTES))
        plane: Plane = make([listener.detach()], wanted, memory)
        if beside is not None:
            plane.pause()
        plane.start()
        try:
            yield Running(plane, Counters(memory), service, own)
        finally:
            plane.stop()
            own.close()

    return run
