"""Tell workers that hang from workers that only wait for a processor.

Each plane stamps the time into the shared counters when it goes round its loop, at least once a second. A worker whose
stamp is STALE_S old hangs if none of its threads could run (stopped, traced, blocked, deadlocked), or if it has used
processor time without a stamp (an endless loop). It does not hang if a thread of it waits for a processor: on a busy
machine a replacement would wait as well.

A worker may also stamp and not take orders: then its first thread hangs. It is given DEAF_S.

Silence counts only while the supervisor itself looks in time. After a pause of its own (stopped, starved, suspended)
every worker has STALE_S to stamp anew, so a supervisor that wakes up kills no healthy worker.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeVar

from qlb.handover.processes import Vitals, read_vitals
from qlb.workers.process import WorkerProcess, monotonic_ms

INTERVAL_S: Final = 0.25
"""From one look to the next."""
STALE_S: Final = 2.0
"""Twice what a worker may take from one stamp to the next. With a replacement it stays below 3 s in all."""
DEAF_S: Final = 5.0
"""How long orders may stay without an answer, although the plane stamps."""
START_S: Final = 10.0
"""How long a process may take to import its modules: a disk may be slow."""
_SUSPECT_S: Final = 1.25
"""From this age of a stamp on the process is looked at: so that a look costs nothing while all is well."""
_LATE_S: Final = 1.0
"""A look that comes so long after the one before says that this process was stopped or starved."""
_STILL_LOOKS: Final = 3
"""Looks in a row at which no thread could run, until that counts: one may fall into a short sleep."""
_SPIN_CPU_S: Final = 1.0
"""Processor time without a stamp that makes an endless loop. A round of a plane takes milliseconds."""
_BUSY_CPU_S: Final = 10.0
"""The same while orders are outstanding: large ones take seconds to be taken over."""
_MS: Final = 1000


class Patient(Protocol):
    """A worker's slot, as far as it is looked at here."""

    @property
    def process(self) -> WorkerProcess | None:
        """The process that works here, if any."""
        ...

    @property
    def heard_ms(self) -> int:
        """When the worker has stamped last, or was assigned."""
        ...

    @property
    def is_starting(self) -> bool:
        """Whether the process was assigned before it had imported everything, and has not answered yet."""
        ...

    @property
    def owes_since_ms(self) -> int | None:
        """Since when orders are without an answer. None if all were answered."""
        ...


Examined = TypeVar("Examined", bound=Patient)


class Verdict(NamedTuple):
    """hangs: the worker must be replaced; else it only waits for a processor. reason: in words."""

    hangs: bool
    reason: str
    silent_s: float


@dataclass(slots=True)
class _Suspicion:
    """What was seen of a process since it was first suspected."""

    cpu_s: float
    still: int = 0
    main_still: int = 0
    reported: bool = False


class Watch:
    """Looks at all workers of one supervisor."""

    def __init__(
        self, now_ms: Callable[[], int] = monotonic_ms, look: Callable[[int], Vitals | None] = read_vitals
    ) -> None:
        """now_ms: the clock of the stamps. look: reads a process's vital signs."""
        self._now_ms = now_ms
        self._look = look
        self._last_ms = now_ms()
        self._awake_since_ms = self._last_ms
        self._suspicions: dict[int, _Suspicion] = {}
        """By process ID."""

    def examine(self, patients: Sequence[Examined]) -> list[tuple[Examined, Verdict]]:
        """Look at every worker; to be called each INTERVAL_S. Return those that hang, and those that starve anew."""
        now_ms = self._now_ms()
        if now_ms - self._last_ms > _LATE_S * _MS:
            self._awake_since_ms = now_ms
            self._suspicions.clear()
        self._last_ms = now_ms
        present = {one.process.pid for one in patients if one.process is not None and one.process.alive}
        self._suspicions = {pid: seen for pid, seen in self._suspicions.items() if pid in present}
        return [(one, verdict) for one in patients if (verdict := self._examine(one, now_ms)) is not None]

    def _examine(self, patient: Patient, now_ms: int) -> Verdict | None:
        process = patient.process
        if process is None or not process.alive:
            return None
        silent_s = (now_ms - max(patient.heard_ms, self._awake_since_ms)) / _MS
        owes_ms = patient.owes_since_ms
        owes_s = 0.0 if owes_ms is None else (now_ms - max(owes_ms, self._awake_since_ms)) / _MS
        if patient.is_starting:
            silent_s = min(silent_s, (now_ms - process.started_ms) / _MS - START_S + STALE_S)
        if silent_s < _SUSPECT_S and owes_s < _SUSPECT_S:
            self._suspicions.pop(process.pid, None)
            return None
        vitals = self._look(process.pid)
        seen = self._note(process.pid, vitals)
        if silent_s >= STALE_S:
            return self._judge(seen, vitals, silent_s, owes=owes_ms is not None)
        if owes_s >= DEAF_S and seen.main_still >= _STILL_LOOKS:
            return Verdict(True, "it forwards, but has not taken its orders", owes_s)
        return None

    def _note(self, pid: int, vitals: Vitals | None) -> _Suspicion:
        """Note one look. A system without /proc tells nothing: the age of the stamp decides alone."""
        seen = self._suspicions.setdefault(pid, _Suspicion(vitals.cpu_s if vitals else 0.0))
        seen.still = 0 if vitals is not None and vitals.runnable else seen.still + 1
        seen.main_still = 0 if vitals is not None and vitals.main_runnable else seen.main_still + 1
        return seen

    def _judge(self, seen: _Suspicion, vitals: Vitals | None, silent_s: float, *, owes: bool) -> Verdict | None:
        """Decide on a worker whose stamp is stale."""
        if seen.still >= _STILL_LOOKS:
            return Verdict(True, f"no thread of it can run (state {vitals.state if vitals else '?'})", silent_s)
        used_s = vitals.cpu_s - seen.cpu_s if vitals is not None else 0.0
        if used_s >= (_BUSY_CPU_S if owes else _SPIN_CPU_S):
            return Verdict(True, f"it has run for {used_s:.1f} s without going round its loop", silent_s)
        if not seen.reported and vitals is not None and vitals.runnable:
            seen.reported = True
            return Verdict(False, "it gets too little processor time", silent_s)
        return None
