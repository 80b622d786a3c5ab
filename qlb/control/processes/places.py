"""The workers' slots: each has its sockets and its counters, which stay, and a process that may change.

The sockets are those that were passed to this process, and new ones for the rest.
"""

import mmap
import os
import socket
from collections.abc import Sequence
from typing import Final

from qlb.config.model import Config, Forwarding
from qlb.control.anonymous import open_anonymous
from qlb.control.preflight import usable_cores, worker_count
from qlb.control.processes.channel import Assignment
from qlb.control.processes.process import WorkerProcess, monotonic_ms
from qlb.control.processes.quota import log_quota
from qlb.control.succession.inherit import Inherited
from qlb.dataplane.base import Orders
from qlb.dataplane.sockets import (
    Buffers,
    DropCounter,
    adopt_listener,
    bound_endpoint,
    granted_receive_buffer,
    granted_send_buffer,
    open_listener,
)
from qlb.routing.backends import Endpoint
from qlb.routing.counters import HEARTBEAT_MS, SIZE_BYTES, Counters

_FRESH_MS: Final = 3000
"""The age of a stamp up to which a worker counts as forwarding: one that hangs is replaced before."""


class Place:
    """Where a worker works: its sockets, its counters, and whoever is there now."""

    def __init__(self, number: int, listeners: Sequence[socket.socket], cpu: int | None = None) -> None:
        """listeners: bound sockets, one for each service address; owned by the place from now on.

        cpu: the one core of whoever works here; None = any.
        """
        self.number = number
        self.cpu = cpu
        self.listeners = tuple(listeners)
        self.receive_buffer_bytes = tuple(map(granted_receive_buffer, listeners))
        self.send_buffer_bytes = tuple(map(granted_send_buffer, listeners))
        self.drops = tuple(map(DropCounter, listeners))
        """What the system has dropped at each listener; workers come and go, the sockets and this stay."""
        self._memory_file = open_anonymous("qlb-counters")
        os.ftruncate(self._memory_file, SIZE_BYTES)
        self.counters = Counters(memoryview(mmap.mmap(self._memory_file, SIZE_BYTES)))
        self.process: WorkerProcess | None = None
        self.is_starting = False
        """Whether the process was assigned before it had imported everything, and has not answered yet."""
        self.begun = False
        """Whether a process has forwarded here: a replacement takes milliseconds, and is no reason to be unready."""
        self.applied = 0
        """The generation by which the process here forwards; 0 until it does."""
        self.ordered = 0
        """The generation that it was given last."""
        self.owes_since_ms: int | None = None
        """Since when orders are without an answer. None if all were answered."""
        self._assigned_ms = monotonic_ms()
        self.held = False
        """Whether the worker here was the last time told, and has said, that it leaves the listeners unread."""
        self.restarts = 0
        self.hangs = 0
        """Workers that were killed here because they hung; they count among the restarts, too."""

    @property
    def forwards(self) -> bool:
        """Whether a process is here that has taken its orders."""
        return self.process is not None and self.process.alive and self.begun

    @property
    def heard_ms(self) -> int:
        """When the worker here has stamped last, or was assigned, on the clock of monotonic_ms()."""
        return max(self.counters.slots[HEARTBEAT_MS], self._assigned_ms)

    @property
    def silent_ms(self) -> int:
        """The age of the worker's last stamp."""
        return max(monotonic_ms() - self.heard_ms, 0)

    @property
    def is_fresh(self) -> bool:
        """Whether the worker here forwards and has shown that it does, lately."""
        return self.forwards and self.silent_ms < _FRESH_MS

    @property
    def is_behind(self) -> bool:
        """Whether the worker here has not taken the orders that it was given last."""
        return self.applied < self.ordered

    def order(self, orders: Orders, frame: bytes) -> None:
        """Give new orders to the worker here, if there is one; one that takes the slot asks for the current ones.

        frame: the orders, packed.
        """
        if self.process is not None:
            self._owe(orders)
            self.process.send(frame)

    async def fill(self, process: WorkerProcess, plane: str, orders: Orders, *, held: bool) -> None:
        """Put a process here. Raises OSError if it has ended already."""
        waits = process.waits
        await process.assign(Assignment(plane, orders, self.cpu, held), self.descriptors)
        self.process, self.held, self.is_starting, self.applied = process, held, not waits, 0
        self._assigned_ms = monotonic_ms()
        self._owe(orders)

    def note_applied(self, generation: int) -> None:
        """Note that the worker here forwards by a generation."""
        self.is_starting, self.begun, self.applied = False, True, generation
        if not self.is_behind:
            self.owes_since_ms = None

    def _owe(self, orders: Orders) -> None:
        self.ordered = orders.snapshot.generation
        if self.owes_since_ms is None or self.applied == 0:
            self.owes_since_ms = monotonic_ms()

    @property
    def descriptors(self) -> list[int]:
        """What a process needs to work here."""
        return [*(sock.fileno() for sock in self.listeners), self._memory_file]

    def close(self) -> None:
        """Close the sockets and the memory."""
        for sock in self.listeners:
            sock.close()
        os.close(self._memory_file)


def open_places(config: Config, inherited: Inherited) -> list[Place]:
    """Take or bind every service address once for each worker. Raises OSError where one cannot be bound."""
    cores, count = usable_cores(), worker_count(config)
    if config.forwarding.workers == "auto":
        log_quota(len(cores))
    rows: list[list[socket.socket]] = []
    try:
        endpoints: Sequence[Endpoint] = config.listen
        for _ in range(count):
            rows.append([])
            for endpoint in endpoints:
                rows[-1].append(_take_or_open(endpoint, config.forwarding, inherited))
            endpoints = [bound_endpoint(sock) for sock in rows[0]]  # port 0 is one port for all workers
    except OSError as error:
        for sock in [sock for row in rows for sock in row]:
            sock.close()
        raise OSError(error.errno, f"cannot listen on {endpoints[len(rows[-1])]}: {error.strerror}") from error
    pinned = config.forwarding.pin_workers
    return [Place(number, row, cores[number % len(cores)] if pinned else None) for number, row in enumerate(rows)]


def _take_or_open(endpoint: Endpoint, forwarding: Forwarding, inherited: Inherited) -> socket.socket:
    buffers = Buffers(forwarding.receive_buffer, forwarding.send_buffer)
    sock = inherited.take_udp(endpoint)
    if sock is None:
        return open_listener(endpoint, buffers, freebind=forwarding.freebind)
    adopt_listener(sock, buffers, freebind=forwarding.freebind)
    return sock
