"""The workers' slots: each has its sockets and its counters, which stay, and a process that may change.

The sockets are those that were passed to this process, and new ones for the rest.
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
    """cores: processor time in each second. group: the folder of the control group that sets it."""

    cores: float
    group: Path


class _Mount(NamedTuple):
    """A mounted hierarchy of control groups. root: the group that is shown at the folder."""

    is_v2: bool
    root: str
    folder: Path


def auto_workers(cores: int, process: Path = _SELF) -> int:
    """Return how many workers `workers: auto` runs: one for each core, but no more than the quota feeds.

    cores: that this process may run on. process: its folder in /proc.
    """
    quota = read_quota(process)
    return cores if quota is None else min(cores, max(math.ceil(quota.cores), 1))


def log_quota(cores: int, process: Path = _SELF) -> None:
    """Report a quota below the cores that this process may run on: there are fewer workers than an operator expects."""
    quota = read_quota(process)
    if quota is not None and quota.cores < cores:
        log.info(
            "workers: auto runs %d for a CPU quota of %g cores; this process may run on %d",
            *(auto_workers(cores, process), quota.cores, cores),
            extra={"cgroup": str(quota.group)},
        )


def read_quota(process: Path = _SELF) -> Quota | None:
    """Return the smallest quota of a process's groups. None if there is none, or if the system does not tell.

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
    """Yield the hierarchies that may hold processor quotas."""
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, kinds = before.split(), after.split()
        if len(fields) < 5 or len(kinds) < 3:
            continue
        if kinds[0] == "cgroup2" or (kinds[0] == "cgroup" and "cpu" in kinds[2].split(",")):
            yield _Mount(kinds[0] == "cgroup2", _unescaped(fields[3]), Path(_unescaped(fields[4])))


def _folders(mount: _Mount, groups: list[str]) -> Iterator[Path]:
    """Yield the folders of this process's group in a hierarchy and of all groups around it, as far as they show."""
    for line in groups:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (number == "0" and not controllers) if mount.is_v2 else "cpu" in controllers.split(","):
            inner = path.removeprefix(mount.root.rstrip("/")) if path.startswith(mount.root) else ""
            parts = [part for part in inner.split("/") if part]
            if ".." in parts:
                parts = []  # the group is outside of this namespace's root
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


def worker_count(config: Config) -> int:
    """Return how many worker processes a configuration asks for; auto follows the CPU quota, too."""
    workers = config.forwarding.workers
    return auto_workers(len(usable_cores())) if workers == "auto" else workers


def usable_cores() -> tuple[int, ...]:
    """Return the numbers of the cores that this process may use, in order; at least one."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))
