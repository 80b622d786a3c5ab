"""The workers' slots. A slot owns its sockets and its counters for the daemon's life; its process may change.

open_slots() uses the sockets that were passed to this process, and opens new ones for the rest.
"""

import logging
import math
import mmap
import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

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
from qlb.workers.process import WorkerProcess, monotonic_ms

log = logging.getLogger("qlb")

_SELF: Final = Path("/proc/self")
_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


class Quota(NamedTuple):
    """A CPU quota. cores: seconds of processor time per second. group: the folder of the control group that sets it."""

    cores: float
    group: Path


class _Mount(NamedTuple):
    """A mounted hierarchy of control groups. root: the group at the mount's folder."""

    is_v2: bool
    root: str
    folder: Path


def auto_workers(cores: int, process: Path = _SELF) -> int:
    """Return the number of workers for `workers: auto`: one for each core, but no more than the quota allows.

    cores: number of cores that this process may use. process: its folder in /proc.
    """
    quota = read_quota(process)
    return cores if quota is None else min(cores, max(math.ceil(quota.cores), 1))


def log_quota(cores: int, process: Path = _SELF) -> None:
    """Log a quota below the number of cores, because it gives fewer workers than an operator may expect."""
    quota = read_quota(process)
    if quota is not None and quota.cores < cores:
        log.info(
            "workers: auto runs %d for a CPU quota of %g cores; this process may run on %d",
            *(auto_workers(cores, process), quota.cores, cores),
            extra={"cgroup": str(quota.group)},
        )


def read_quota(process: Path = _SELF) -> Quota | None:
    """Return the smallest quota of a process's groups; None if there is none or the system does not report it.

    process: its folder in /proc.
    """
    try:
        mounts = list(_mounts((process / "mountinfo").read_text()))
        groups = (process / "cgroup").read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    found = [quota for mount in mounts for folder in _folders(mount, groups) for quota in _quotas(mount, folder)]
    return min(found, default=None)


def _mounts(mountinfo: str) -> Iterator[_Mount]:
    """Yield the hierarchies that may set CPU quotas."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        if kinds[0] == "cgroup2" or (kinds[0] == "cgroup" and "cpu" in kinds[2].split(",")):
            yield _Mount(kinds[0] == "cgroup2", _unescaped(fields[3]), Path(_unescaped(fields[4])))


def _folders(mount: _Mount, groups: list[str]) -> Iterator[Path]:
    """Yield the folders of this process's group in a hierarchy and of its visible ancestors."""
    for line in groups:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number == "0" and not controllers) if mount.is_v2 else "cpu" in controllers.split(","):
            inner = path.removeprefix(mount.root.rstrip("/")) if path.startswith(mount.root) else ""
            parts = [part for part in inner.split("/") if part]
            if ".." in parts:
                parts = []  # the group is outside this namespace's root
            for depth in range(len(parts), -1, -1):
                yield mount.folder.joinpath(*parts[:depth])


def _quotas(mount: _Mount, folder: Path) -> Iterator[Quota]:
    with suppress(OSError, ValueError):
        if mount.is_v2:
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        if quota != "max" and int(quota) > 0 and int(period) > 0:
            yield Quota(int(quota) / int(period), folder)


def _unescaped(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 8)), text)


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


def worker_count(config: Config) -> int:
    """Return the number of worker processes for a configuration. auto follows the CPU quota."""
    workers = config.forwarding.workers
    return auto_workers(len(usable_cores())) if workers == "auto" else workers


def usable_cores() -> tuple[int, ...]:
    """Return the sorted numbers of the cores that this process may use, at least one."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))
