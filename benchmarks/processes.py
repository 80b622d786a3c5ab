"""CPU time, memory and children of processes, read from /proc."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_UTIME: Final = 11
"""Index of utime among the fields after the name in /proc/PID/stat; stime follows it."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time of processes so far.

    total_ns: as the scheduler counts it. The ticks are only used to split it into user and system time.
    waited_ns: time in which a thread was ready to run and waited for a core.
    """

    total_ns: int
    waited_ns: int
    user_ticks: int
    system_ticks: int

    def __sub__(self, earlier: "Cpu") -> "Cpu":
        """Return the CPU time since an earlier reading."""
        return Cpu(
            self.total_ns - earlier.total_ns,
            self.waited_ns - earlier.waited_ns,
            self.user_ticks - earlier.user_ticks,
            self.system_ticks - earlier.system_ticks,
        )


def cpu(pids: Sequence[int]) -> Cpu:
    """Return the CPU time of all threads of these processes."""
    total_ns = waited_ns = user = system = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            ran, waited = map(int, (thread / "schedstat").read_text().split()[:2])
            total_ns, waited_ns = total_ns + ran, waited_ns + waited
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        user, system = user + int(fields[_UTIME]), system + int(fields[_UTIME + 1])
    return Cpu(total_ns, waited_ns, user, system)


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory in octets. resident: of the processes. slab: the kernel's slab memory of the whole machine."""

    resident: int
    slab: int


def memory(pids: Sequence[int]) -> Memory:
    """Return the resident memory of these processes and the kernel's slab memory."""
    resident = sum(_kib(Path(f"/proc/{pid}/status"), "VmRSS:") for pid in pids)
    return Memory(resident * 1024, _kib(Path("/proc/meminfo"), "Slab:") * 1024)


def children(pid: int) -> list[int]:
    """Return the process IDs of a process's children."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _kib(path: Path, key: str) -> int:
    found = (line.split()[1] for line in path.read_text().splitlines() if line.startswith(key))
    return int(next(found))
