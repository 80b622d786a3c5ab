"""Distinguish workers that hang from workers that only wait for a processor.

Each plane writes the time into the shared counters in every round of its loop, at least once a second: the stamp. A
worker whose stamp is STALE_S old hangs if none of its threads can run (stopped, traced, blocked, deadlocked), or if it
has used processor time without a stamp (an endless loop). It does not hang if one of its threads waits for a processor:
on a busy machine a replacement would wait too.

A worker that stamps but does not apply orders hangs in its first thread. It is replaced after DEAF_S.

Old stamps count only while the supervisor itself checks in time. After the supervisor was stopped, starved or
suspended, every worker has STALE_S for a new stamp, so that the supervisor kills no healthy worker.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, TypeVar

from qlb.handover.processes import Vitals, read_vitals
from qlb.workers.process import WorkerProcess, monotonic_ms

INTERVAL_S: Final = 0.25
"""Between two checks."""
STALE_S: Final = 2.0
"""Twice the longest time between two stamps. Together with a replacement it is below 3 s."""
DEAF_S: Final = 5.0
"""The longest time without an answer to orders, although the plane stamps."""
START_S: Final = 10.0
"""The longest time for a process to import its modules: a disk may be slow."""
_SUSPECT_S: Final = 1.25
"""Only from this age of a stamp on, a check reads the process's vital signs, so that most checks cost nothing."""
_LATE_S: Final = 1.0
"""If a check is this late, the supervisor itself was stopped or starved."""
_STILL_LOOKS: Final = 3
"""Checks in a row without a runnable thread until a worker hangs: a single one may hit a short sleep."""
_SPIN_CPU_S: Final = 1.0
"""Processor time without a stamp that means an endless loop. A round of a plane takes milliseconds."""
_BUSY_CPU_S: Final = 10.0
"""The same while an answer to orders is missing: applying large ones takes seconds."""
_MS: Final = 1000


class Patient(Protocol):
    """The part of a worker's slot that Watch reads."""

    @property
    def process(self) -> WorkerProcess | None:
        """The process in the slot, if any."""
        ...

    @property
    def heard_ms(self) -> int:
        """The time of the worker's last stamp, or of its assignment."""
        ...

    @property
    def is_starting(self) -> bool:
        """True from an assignment before the process has imported everything until its first answer."""
        ...

    @property
    def owes_since_ms(self) -> int | None:
        """The time since which an answer to orders is missing; None if none is."""
        ...


Examined = TypeVar("Examined", bound=Patient)


class Verdict(NamedTuple):
    """The result of a check. hangs: replace the worker; else it only waits for a processor. reason: for the log."""

    hangs: bool
    reason: str
    silent_s: float


@dataclass(slots=True)
class _Suspicion:
    """Observations of a process since its stamp became old."""

    cpu_s: float
    still: int = 0
    main_still: int = 0
    reported: bool = False


class Watch:
    """Checks all workers of one supervisor."""

    def __init__(
        self, now_ms: Callable[[], int] = monotonic_ms, look: Callable[[int], Vitals | None] = read_vitals
    ) -> None:
        """Start. now_ms: the clock of the stamps. look: reads a process's vital signs."""
        self._now_ms = now_ms
        self._look = look
        self._last_ms = now_ms()
        self._awake_since_ms = self._last_ms
        self._suspicions: dict[int, _Suspicion] = {}
        """By process ID."""

    def examine(self, patients: Sequence[Examined]) -> list[tuple[Examined, Verdict]]:
        """Check every worker; call it each INTERVAL_S. Return those that hang, and those that have begun to starve."""
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
            return Verdict(True, "it forwards, but has not applied its orders", owes_s)
        return None

    def _note(self, pid: int, vitals: Vitals | None) -> _Suspicion:
        """Record one check. On a system without /proc, only the age of the stamp decides."""
        seen = self._suspicions.setdefault(pid, _Suspicion(vitals.cpu_s if vitals else 0.0))
        seen.still = 0 if vitals is not None and vitals.runnable else seen.still + 1
        seen.main_still = 0 if vitals is not None and vitals.main_runnable else seen.main_still + 1
        return seen

    def _judge(self, seen: _Suspicion, vitals: Vitals | None, silent_s: float, *, owes: bool) -> Verdict | None:
        """Decide about a worker whose stamp is stale."""
        if seen.still >= _STILL_LOOKS:
            return Verdict(True, f"none of its threads can run (state {vitals.state if vitals else '?'})", silent_s)
        used_s = vitals.cpu_s - seen.cpu_s if vitals is not None else 0.0
        if used_s >= (_BUSY_CPU_S if owes else _SPIN_CPU_S):
            return Verdict(True, f"it has run for {used_s:.1f} s without a round of its loop", silent_s)
        if not seen.reported and vitals is not None and vitals.runnable:
            seen.reported = True
            return Verdict(False, "it gets too little processor time", silent_s)
        return None
