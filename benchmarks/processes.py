"""What /proc says of processes: CPU time of all their threads, memory, children."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_UTIME: Final = 11
"""Fields after the name in /proc/PID/stat: utime, then stime."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU time so far. total_ns: as the scheduler counts it; the ticks only share it out to user and system.

    waited_ns: time in which a thread could have run and another process had the core.
    """

    total_ns: int
    waited_ns: int
    user_ticks: int
    system_ticks: int

    def __sub__(self, earlier: "Cpu") -> "Cpu":
        """What was used since."""
        return Cpu(
            self.total_ns - earlier.total_ns,
            self.waited_ns - earlier.waited_ns,
            self.user_ticks - earlier.user_ticks,
            self.system_ticks - earlier.system_ticks,
        )


def cpu(pids: Sequence[int]) -> Cpu:
    """Return what all threads of these processes have used."""
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
    """Memory in octets. resident: of the processes. slab: of the kernel, the machine's whole."""

    resident: int
    slab: int


def memory(pids: Sequence[int]) -> Memory:
    """Return the resident memory of these processes and the kernel's slab."""
    resident = sum(_kib(Path(f"/proc/{pid}/status"), "VmRSS:") for pid in pids)
    return Memory(resident * 1024, _kib(Path("/proc/meminfo"), "Slab:") * 1024)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _kib(path: Path, key: str) -> int:
    found = (line.split()[1] for line in path.read_text().splitlines() if line.startswith(key))
    return int(next(found))
