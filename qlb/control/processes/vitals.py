"""Vital signs of a process in Linux's /proc: whether it could run, and the processor time that it has got.

They tell a process that hangs from one that gets no processor: the latter waits in state R and uses none.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
_RUNNABLE: Final = "R"
_UTIME: Final = 11
"""Index of the user time among the fields that follow the command's name; the system time is next."""
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_ENOUGH_CPU_S: Final = 2.0
"""Processor time that is enough for whatever is waited for."""


class Vitals(NamedTuple):
    """One look at a process.

    runnable: some thread runs, or waits for a processor. main_runnable: its first thread does. cpu_s: seconds of
    processor time of all threads together. state: letter of the first thread's state, as in ps(1).
    """

    runnable: bool
    main_runnable: bool
    cpu_s: float
    state: str


def read_vitals(pid: int, proc: Path = _PROC) -> Vitals | None:
    """Look at a process. None if it has ended, or if the system has no /proc."""
    try:
        state, cpu_s = _read_stat(proc / str(pid) / "stat")
        threads = [_read_stat(stat)[0] for stat in _thread_stats(proc / str(pid) / "task")]
    except (OSError, ValueError, IndexError):
        return None
    return Vitals(_RUNNABLE in (state, *threads), state == _RUNNABLE, cpu_s, state)


def read_children(pid: int, proc: Path = _PROC) -> tuple[int, ...]:
    """Return the processes that a process has started; none if the system does not tell."""
    try:
        listed = (proc / str(pid) / "task" / str(pid) / "children").read_text()
    except OSError:
        return ()
    return tuple(map(int, listed.split()))


def _thread_stats(task: Path) -> Iterator[Path]:
    for thread in task.iterdir():
        with suppress(FileNotFoundError):  # a thread has ended meanwhile
            yield thread / "stat"


def _read_stat(path: Path) -> tuple[str, float]:
    """Return the state and the processor time of a process or a thread; its name may hold anything, even brackets."""
    fields = path.read_text(errors="replace").rpartition(")")[2].split()
    return fields[0], (int(fields[_UTIME]) + int(fields[_UTIME + 1])) / _TICKS_PER_S


class Starvation:
    """Tells whether a process that is late only waits for a processor, and with it those that it has started."""

    def __init__(self, pid: int, look: Callable[[int], Vitals | None] = read_vitals) -> None:
        """Begin to look at a process now. look: reads vital signs."""
        self._pid = pid
        self._look = look
        self._begun_cpu_s = self._cpu_s(self._read())

    def goes_on(self) -> bool:
        """Return whether some thread could run, although all together have used little time since the beginning."""
        seen = self._read()
        return any(one.runnable for one in seen) and self._cpu_s(seen) - self._begun_cpu_s < _ENOUGH_CPU_S

    def _read(self) -> list[Vitals]:
        found = map(self._look, (self._pid, *read_children(self._pid)))
        return [vitals for vitals in found if vitals is not None]

    @staticmethod
    def _cpu_s(seen: Sequence[Vitals]) -> float:
        return sum(vitals.cpu_s for vitals in seen)
