"""Detection of hanging workers by stamps, vital signs and the supervisor's clock. All three are simulated here."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from qlb.handover.processes import Vitals
from qlb.workers import heartbeat
from qlb.workers.heartbeat import Verdict, Watch

INTERVAL_MS = int(heartbeat.INTERVAL_S * 1000)


@dataclass
class FakeSlot:
    """A fake slot with one worker."""

    heard_ms: int = 0
    is_starting: bool = False
    owes_since_ms: int | None = None
    process: Any = field(default_factory=lambda: SimpleNamespace(pid=7, alive=True, started_ms=0))


class WatchStage:
    """One worker's slot, a clock that a test moves, and the vital signs that it sets."""

    def __init__(self) -> None:
        """Start at 0 ms with a worker that sleeps and is well."""
        self.now_ms = 0
        self.vitals: Vitals | None = Vitals(False, False, 0.0, "S")
        self.slot = FakeSlot()
        self.watch = Watch(lambda: self.now_ms, lambda _: self.vitals)

    def until(self, now_ms: int, *, cpu_per_s: float = 0.0, stamps: bool = False) -> tuple[int, Verdict] | None:
        """Examine the slot at every interval until a time. Return the first verdict and when it came."""
        while self.now_ms < now_ms:
            self.now_ms += INTERVAL_MS
            if stamps:
                self.slot.heard_ms = self.now_ms
            if self.vitals is not None:
                self.vitals = self.vitals._replace(cpu_s=self.vitals.cpu_s + cpu_per_s * heartbeat.INTERVAL_S)
            for _, verdict in self.watch.examine([self.slot]):
                return self.now_ms, verdict
        return None


@pytest.fixture
def stage() -> WatchStage:
    """Return a new stage."""
    return WatchStage()


@pytest.mark.parametrize("state", ["T", "t", "S", "D"])
def test_a_worker_that_cannot_run_hangs(stage: WatchStage, state: str) -> None:
    """A stopped, traced or blocked worker hangs after two missed stamps, early enough to replace it within 3 s."""
    assert stage.until(10_000, stamps=True) is None
    stage.vitals = Vitals(False, False, 5.0, state)
    found = stage.until(20_000)
    assert found is not None
    assert found[0] - 10_000 == heartbeat.STALE_S * 1000
    assert found[1].hangs
    assert f"(state {state})" in found[1].reason


def test_a_worker_that_gets_no_processor_does_not_hang(stage: WatchStage) -> None:
    """A worker that gets no processor is reported once and not killed. After a stamp it can be reported again."""
    stage.vitals = Vitals(True, True, 5.0, "R")
    for _ in range(2):
        begun_ms = stage.now_ms
        found = stage.until(begun_ms + 10_000, cpu_per_s=0.01)
        assert found is not None
        assert not found[1].hangs
        assert stage.until(begun_ms + 60_000, cpu_per_s=0.01) is None
        assert stage.until(begun_ms + 61_000, stamps=True) is None


def test_a_short_sleep_between_waits_for_a_processor_does_not_count(stage: WatchStage) -> None:
    """A worker that is asleep at every third look does not hang: between these it waits for a processor."""
    assert stage.vitals is not None
    while stage.now_ms < 60_000:
        stage.vitals = stage.vitals._replace(runnable=stage.now_ms // INTERVAL_MS % 3 != 0)
        found = stage.until(stage.now_ms + INTERVAL_MS)
        assert found is None or not found[1].hangs


@pytest.mark.parametrize("share", [1.0, 0.34])
def test_an_endless_loop_hangs(stage: WatchStage, share: float) -> None:
    """A worker in an endless loop is found in time on its own processor, and later on a shared one."""
    assert stage.until(1_000, stamps=True) is None
    stage.vitals = Vitals(True, True, 5.0, "R")
    found = stage.until(stage.now_ms + 2_000, cpu_per_s=share) or (0, None)
    if found[1] is None or not found[1].hangs:
        found = stage.until(stage.now_ms + 4_000, cpu_per_s=share) or (0, None)
    assert found[1] is not None
    assert found[1].hangs
    assert "without a round of its loop" in found[1].reason
    assert share < 1 or found[0] - 1_000 < 3_000


def test_large_orders_may_take_long(stage: WatchStage) -> None:
    """While orders are outstanding, a worker may use much more processor time before it counts as hanging."""
    stage.vitals = Vitals(True, True, 5.0, "R")
    stage.slot.owes_since_ms = 0
    found = stage.until(8_000, cpu_per_s=1.0)
    assert found is not None
    assert not found[1].hangs
    assert stage.until(8_000, cpu_per_s=1.0) is None
    found = stage.until(20_000, cpu_per_s=1.0)
    assert found is not None
    assert found[1].hangs


def test_a_supervisor_that_was_stopped_kills_no_worker(stage: WatchStage) -> None:
    """After a long gap in the supervisor's own clock, each worker gets time for a new stamp before it is judged."""
    assert stage.until(1_000, stamps=True) is None
    stage.now_ms += 3_600_000
    assert stage.until(stage.now_ms + INTERVAL_MS) is None
    assert stage.until(stage.now_ms + 1_500) is None
    found = stage.until(stage.now_ms + 1_000)
    assert found is not None
    assert found[1].hangs


def test_a_supervisor_that_is_late_again_and_again_kills_no_worker(stage: WatchStage) -> None:
    """A supervisor that is itself late again and again gives no verdict."""
    for _ in range(100):
        stage.now_ms += 1_100
        assert stage.watch.examine([stage.slot]) == []


def test_a_worker_that_still_imports_has_more_time(stage: WatchStage) -> None:
    """A worker that is still importing gets more time, but not unlimited time."""
    stage.slot.is_starting = True
    assert stage.until(9_750) is None
    found = stage.until(10_500)
    assert found is not None
    assert found[1].hangs


def test_a_worker_that_stamps_but_applies_no_orders_hangs(stage: WatchStage) -> None:
    """A worker whose loop runs in a thread stamps, but its first thread sleeps and applies no orders: it hangs."""
    assert stage.until(1_000, stamps=True) is None
    stage.slot.owes_since_ms = 1_000
    stage.vitals = Vitals(True, False, 5.0, "S")
    found = stage.until(20_000, cpu_per_s=0.5, stamps=True)
    assert found is not None
    assert found[0] == 1_000 + heartbeat.DEAF_S * 1000
    assert found[1].hangs
    stage.vitals = Vitals(True, True, 5.0, "R")
    assert WatchStage().until(20_000, stamps=True) is None


def test_a_worker_that_works_on_its_orders_does_not_hang(stage: WatchStage) -> None:
    """A worker whose first thread runs may take long to apply its orders: it compiles."""
    stage.slot.owes_since_ms = 0
    stage.vitals = Vitals(True, True, 5.0, "R")
    assert stage.until(60_000, cpu_per_s=1.0, stamps=True) is None


def test_without_proc(stage: WatchStage) -> None:
    """Without /proc, the age of the stamp decides alone."""
    stage.vitals = None
    found = stage.until(10_000)
    assert found is not None
    assert (found[0], found[1].hangs) == (2_000, True)


@pytest.mark.parametrize("process", [None, SimpleNamespace(pid=7, alive=False, started_ms=0)])
def test_empty_slots_and_dead_workers_are_not_examined(stage: WatchStage, process: object) -> None:
    """An empty slot and a dead worker get no verdict: Workers replaces them already."""
    stage.slot.process = process
    assert stage.until(60_000) is None
