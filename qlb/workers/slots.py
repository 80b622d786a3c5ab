"""The workers' slots. A slot owns its sockets and its counters for the daemon's life; its process may change.

open_slots() uses the sockets that were passed to this process, and opens new ones for the rest.
"""

import logging
import mmap
import os
import socket
from collections.abc import Sequence
from typing import Final

from qlb.addresses import Endpoint
from qlb.config.model import Config
from qlb.config.sections import Forwarding
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
from qlb.handover.memory import open_anonymous
from qlb.handover.sockets import Inherited
from qlb.routing.counters import HEARTBEAT_MS, SIZE_BYTES, Counters
from qlb.workers.channel import Assignment
from qlb.workers.cores import log_quota, usable_cores, worker_count
from qlb.workers.process import WorkerProcess, monotonic_ms

log = logging.getLogger("qlb")

_FRESH_MS: Final = 3000
"""A worker with an older stamp does not count as forwarding. A worker that hangs is replaced before this age."""


class Slot:
    """A worker's sockets and counters, and its current process."""

    def __init__(self, number: int, listeners: Sequence[socket.socket], cpu: int | None = None) -> None:
        """Create an empty slot. listeners: bound sockets, one for each service address; the slot owns them.

        cpu: the one core for its processes; None = any.
        """
        self.number = number
        self.cpu = cpu
        self.listeners = tuple(listeners)
        self.receive_buffer_bytes = tuple(map(granted_receive_buffer, listeners))
        self.send_buffer_bytes = tuple(map(granted_send_buffer, listeners))
        self.drops = tuple(map(DropCounter, listeners))
        """The packets that the system has dropped at each listener, over all processes of the slot."""
        self._memory_file = open_anonymous("qlb-counters")
        os.ftruncate(self._memory_file, SIZE_BYTES)
        self.counters = Counters(memoryview(mmap.mmap(self._memory_file, SIZE_BYTES)))
        self.process: WorkerProcess | None = None
        self.is_starting = False
        """True from an assignment before the process has imported everything until its first answer."""
        self.begun = False
        """True after a process has forwarded in this slot. It stays true during a replacement of milliseconds."""
        self.applied = 0
        """The generation by which the process forwards; 0 before it does."""
        self.ordered = 0
        """The generation of the latest orders."""
        self.owes_since_ms: int | None = None
        """The time since which an answer to orders is missing; None if none is."""
        self._assigned_ms = monotonic_ms()
        self.paused = False
        """True if the worker has confirmed that it does not read from clients."""
        self.restarts = 0
        self.hangs = 0
        """Workers of this slot that were killed because they hung. They count as restarts too."""

    @property
    def forwards(self) -> bool:
        """True if the process is alive and this slot has forwarded."""
        return self.process is not None and self.process.alive and self.begun

    @property
    def heard_ms(self) -> int:
        """The time of the last stamp, or of the assignment if that is later, on the clock of monotonic_ms()."""
        return max(self.counters.slots[HEARTBEAT_MS], self._assigned_ms)

    @property
    def silent_ms(self) -> int:
        """The age of the worker's last stamp."""
        return max(monotonic_ms() - self.heard_ms, 0)

    @property
    def is_fresh(self) -> bool:
        """True if the worker forwards and has a fresh stamp."""
        return self.forwards and self.silent_ms < _FRESH_MS

    @property
    def is_behind(self) -> bool:
        """True if the worker has not applied the latest orders."""
        return self.applied < self.ordered

    def order(self, orders: Orders, frame: bytes) -> None:
        """Send new orders to the process, if there is one; fill() gives a new process the current ones.

        frame: the orders, packed.
        """
        if self.process is not None:
            self._owe(orders)
            self.process.send(frame)

    async def fill(self, process: WorkerProcess, plane: str, orders: Orders, *, paused: bool) -> None:
        """Assign a process to the slot. Raises OSError if it has ended already."""
        waits = process.waits
        await process.assign(Assignment(plane, orders, self.cpu, paused), self.descriptors)
        self.process, self.paused, self.is_starting, self.applied = process, paused, not waits, 0
        self._assigned_ms = monotonic_ms()
        self._owe(orders)

    def note_applied(self, generation: int) -> None:
        """Record that the worker forwards by a generation."""
        self.is_starting, self.begun, self.applied = False, True, generation
        if not self.is_behind:
            self.owes_since_ms = None

    def _owe(self, orders: Orders) -> None:
        self.ordered = orders.snapshot.generation
        if self.owes_since_ms is None or self.applied == 0:
            self.owes_since_ms = monotonic_ms()

    @property
    def descriptors(self) -> list[int]:
        """The descriptors that a process of this slot needs."""
        return [*(sock.fileno() for sock in self.listeners), self._memory_file]

    def close(self) -> None:
        """Close the sockets and the memory."""
        for sock in self.listeners:
            sock.close()
        os.close(self._memory_file)


def open_slots(config: Config, inherited: Inherited) -> list[Slot]:
    """Take or bind every service address once for each worker. Raises OSError if one cannot be bound."""
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
    return [Slot(number, row, cores[number % len(cores)] if pinned else None) for number, row in enumerate(rows)]


def _take_or_open(endpoint: Endpoint, forwarding: Forwarding, inherited: Inherited) -> socket.socket:
    buffers = Buffers(forwarding.receive_buffer, forwarding.send_buffer)
    sock = inherited.take_udp(endpoint)
    if sock is None:
        return open_listener(endpoint, buffers, freebind=forwarding.freebind)
    adopt_listener(sock, buffers, freebind=forwarding.freebind)
    return sock
