"""Which workers count as hanging: judged by stamps, vital signs and the supervisor's own clock, all made up here."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from qlb.handover.processes import Vitals
from qlb.workers import heartbeat
from qlb.workers.heartbeat import Verdict, Watch

INTERVAL_MS = int(heartbeat.INTERVAL_S * 1000)


@dataclass
class Patient:
    """A worker's slot."""

    heard_ms: int = 0
    is_starting: bool = False
    owes_since_ms: int | None = None
    process: Any = field(default_factory=lambda: SimpleNamespace(pid=7, alive=True, started_ms=0))


class Ward:
    """One patient, a clock that a test moves, and the vital signs that it sets."""

    def __init__(self) -> None:
        """All is well: it stands at 0 ms, and sleeps."""
        self.now_ms = 0
        self.vitals: Vitals | None = Vitals(False, False, 0.0, "S")
        self.patient = Patient()
        self.watch = Watch(lambda: self.now_ms, lambda _: self.vitals)

    def until(self, now_ms: int, *, cpu_per_s: float = 0.0, stamps: bool = False) -> tuple[int, Verdict] | None:
        """Look in time until a moment; return when the first verdict came, and what it was."""
        while self.now_ms < now_ms:
            self.now_ms += INTERVAL_MS
            if stamps:
                self.patient.heard_ms = self.now_ms
            if self.vitals is not None:
                self.vitals = self.vitals._replace(cpu_s=self.vitals.cpu_s + cpu_per_s * heartbeat.INTERVAL_S)
            for _, verdict in self.watch.examine([self.patient]):
                return self.now_ms, verdict
        return None


@pytest.fixture
def ward() -> Ward:
    """Return a new one."""
    return Ward()


@pytest.mark.parametrize("state", ["T", "t", "S", "D"])
def test_one_that_cannot_run_hangs(ward: Ward, state: str) -> None:
    """Stopped, traced, blocked: it has the time for two stamps, and there is time left to replace it within 3 s."""
    assert ward.until(10_000, stamps=True) is None
    ward.vitals = Vitals(False, False, 5.0, state)
    found = ward.until(20_000)
    assert found is not None
    assert found[0] - 10_000 == heartbeat.STALE_S * 1000
    assert found[1].hangs
    assert f"(state {state})" in found[1].reason


def test_one_that_gets_no_processor_does_not_hang(ward: Ward) -> None:
    """It is reported once, and left alone however long it lasts; after a stamp it may be reported again."""
    ward.vitals = Vitals(True, True, 5.0, "R")
    for _ in range(2):
        begun_ms = ward.now_ms
        found = ward.until(begun_ms + 10_000, cpu_per_s=0.01)
        assert found is not None
        assert not found[1].hangs
        assert ward.until(begun_ms + 60_000, cpu_per_s=0.01) is None
        assert ward.until(begun_ms + 61_000, stamps=True) is None


def test_a_short_sleep_between_waits_for_a_processor_does_not_count(ward: Ward) -> None:
    """Asleep at every third look only."""
    assert ward.vitals is not None
    while ward.now_ms < 60_000:
        ward.vitals = ward.vitals._replace(runnable=ward.now_ms // INTERVAL_MS % 3 != 0)
        found = ward.until(ward.now_ms + INTERVAL_MS)
        assert found is None or not found[1].hangs


@pytest.mark.parametrize("share", [1.0, 0.34])
def test_an_endless_loop_hangs(ward: Ward, share: float) -> None:
    """It runs and does not stamp: found in time on a processor of its own, and later where it shares one."""
    assert ward.until(1_000, stamps=True) is None
    ward.vitals = Vitals(True, True, 5.0, "R")
    found = ward.until(ward.now_ms + 2_000, cpu_per_s=share) or (0, None)
    if found[1] is None or not found[1].hangs:
        found = ward.until(ward.now_ms + 4_000, cpu_per_s=share) or (0, None)
    assert found[1] is not None
    assert found[1].hangs
    assert "without going round its loop" in found[1].reason
    assert share < 1 or found[0] - 1_000 < 3_000


def test_large_orders_may_take_long(ward: Ward) -> None:
    """While they are outstanding, processor time is no sign of an endless loop until there is very much of it."""
    ward.vitals = Vitals(True, True, 5.0, "R")
    ward.patient.owes_since_ms = 0
    found = ward.until(8_000, cpu_per_s=1.0)
    assert found is not None
    assert not found[1].hangs
    assert ward.until(8_000, cpu_per_s=1.0) is None
    found = ward.until(20_000, cpu_per_s=1.0)
    assert found is not None
    assert found[1].hangs


def test_a_supervisor_that_was_stopped_kills_nobody(ward: Ward) -> None:
    """After a gap of its own each worker may stamp anew; one that still does not is found then."""
    assert ward.until(1_000, stamps=True) is None
    ward.now_ms += 3_600_000
    assert ward.until(ward.now_ms + INTERVAL_MS) is None
    assert ward.until(ward.now_ms + 1_500) is None
    found = ward.until(ward.now_ms + 1_000)
    assert found is not None
    assert found[1].hangs


def test_a_supervisor_that_is_late_again_and_again_kills_nobody(ward: Ward) -> None:
    """Starved itself, it cannot tell."""
    for _ in range(100):
        ward.now_ms += 1_100
        assert ward.watch.examine([ward.patient]) == []


def test_one_that_still_imports_has_more_time(ward: Ward) -> None:
    """A slow disk, not a hang; but not for ever."""
    ward.patient.is_starting = True
    assert ward.until(9_750) is None
    found = ward.until(10_500)
    assert found is not None
    assert found[1].hangs


def test_one_that_stamps_and_takes_no_orders_hangs(ward: Ward) -> None:
    """Its loop goes round on a thread of its own, while the first thread does nothing for its supervisor."""
    assert ward.until(1_000, stamps=True) is None
    ward.patient.owes_since_ms = 1_000
    ward.vitals = Vitals(True, False, 5.0, "S")
    found = ward.until(20_000, cpu_per_s=0.5, stamps=True)
    assert found is not None
    assert found[0] == 1_000 + heartbeat.DEAF_S * 1000
    assert found[1].hangs
    ward.vitals = Vitals(True, True, 5.0, "R")
    assert Ward().until(20_000, stamps=True) is None


def test_one_that_works_on_its_orders_is_left_alone(ward: Ward) -> None:
    """The first thread runs: it compiles."""
    ward.patient.owes_since_ms = 0
    ward.vitals = Vitals(True, True, 5.0, "R")
    assert ward.until(60_000, cpu_per_s=1.0, stamps=True) is None


def test_where_the_system_tells_nothing(ward: Ward) -> None:
    """Without /proc the age of the stamp decides alone."""
    ward.vitals = None
    found = ward.until(10_000)
    assert found is not None
    assert (found[0], found[1].hangs) == (2_000, True)


@pytest.mark.parametrize("process", [None, SimpleNamespace(pid=7, alive=False, started_ms=0)])
def test_nobody_there_and_dead_are_not_looked_at(ward: Ward, process: object) -> None:
    """The keeper of the slot replaces them already."""
    ward.patient.process = process
    assert ward.until(60_000) is None
