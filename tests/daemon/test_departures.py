"""Removed backends: when their rows are folded, and when their indexes can be used again."""

from collections.abc import Sequence

import pytest

from qlb.addresses import Endpoint
from qlb.daemon import rows as departures
from qlb.daemon.rows import KEPT_S, Departures, Row
from qlb.routing.backends import Backend, BackendIndexes

FLOW_S = 30.0


class FakePool:
    """Backends by index, as in the daemon's wanted state."""

    def __init__(self) -> None:
        """Create an empty pool."""
        self._indexes = BackendIndexes()
        self.present: tuple[Backend | None, ...] = ()
        self.revision = 0
        self.released: list[int] = []

    def put(self, *names: str) -> None:
        """Set the backends of the next revision."""
        self.present = self._indexes.arrange(Backend(name, Endpoint("192.0.2.1", 4433)) for name in names)
        self.revision += 1

    @property
    def names(self) -> Sequence[str]:
        """Return the names by index."""
        return self._indexes.names

    def forget(self, name: str) -> int:
        """Remove the name from its index and return the index."""
        return self._indexes.forget(name)

    def release(self, index: int) -> None:
        """Record that another name may get this index."""
        self.released.append(index)
        self._indexes.release(index)


class Stage:
    """A pool and its departures, on a clock that the test sets."""

    def __init__(self) -> None:
        """Start with two backends. Each index has forwarded one packet."""
        self.now_s = 1000.0
        self.pool = FakePool()
        self.packets: dict[int, int] = {}
        self.applied: int | None = None
        self.flow_s = FLOW_S
        self.departures = Departures(now=lambda: self.now_s)
        self.pool.put("a", "b")

    def after(self, seconds: float) -> None:
        """Advance the clock and note the current rows."""
        self.now_s += seconds
        rows = [Row((self.packets.get(index, 1), 0, 0), 0, 5) for index in range(len(self.pool.names))]
        applied = self.pool.revision if self.applied is None else self.applied
        self.departures.note(self.pool, rows, self.flow_s, applied)


@pytest.fixture
def stage() -> Stage:
    """Return a new stage."""
    return Stage()


def test_a_row_is_folded_after_an_hour_of_silence(stage: Stage) -> None:
    """A removed backend's row is folded after an hour without packets. If it returns, the hour is reset."""
    stage.pool.put("b")
    stage.after(0)
    stage.after(KEPT_S - 1)
    assert stage.pool.names == ("a", "b")
    stage.packets[0] = 2
    stage.after(0)
    stage.after(KEPT_S - 1)
    assert stage.pool.names == ("a", "b")
    stage.pool.put("a", "b")
    stage.after(2)
    stage.pool.put("b")
    stage.after(0)
    stage.after(KEPT_S - 1)
    assert stage.pool.names == ("a", "b")
    stage.after(1)
    assert stage.pool.names == ("", "b")
    assert stage.pool.released == []


def fold(stage: Stage) -> None:
    """Remove backend a, and wait until its row is folded."""
    stage.pool.put("b")
    stage.after(0)
    stage.after(KEPT_S)
    assert stage.pool.names == ("", "b")


def test_an_index_is_released_when_no_flow_can_use_it(stage: Stage) -> None:
    """A folded index is released after the flow timeout and a margin. Then the next new name gets it."""
    fold(stage)
    stage.after(FLOW_S)
    assert stage.pool.released == []
    stage.after(departures._MARGIN_S)
    assert stage.pool.released == [0]
    stage.pool.put("b", "c")
    assert stage.pool.names == ("c", "b")


def test_the_wait_begins_when_every_worker_has_applied_the_removal(stage: Stage) -> None:
    """The wait starts when every worker has applied the removal, because a slow worker may still renew a flow entry."""
    stage.applied = 1
    fold(stage)
    stage.after(10 * FLOW_S)
    assert stage.pool.released == []
    stage.applied = stage.pool.revision
    stage.after(0)
    stage.after(FLOW_S)
    assert stage.pool.released == []
    stage.after(departures._MARGIN_S)
    assert stage.pool.released == [0]


def test_the_longest_flow_timeout_of_all_counts(stage: Stage) -> None:
    """The longest flow timeout so far counts, because a shorter one does not shorten the life of existing entries."""
    stage.flow_s = 10 * FLOW_S
    stage.after(0)
    stage.flow_s = FLOW_S
    fold(stage)
    stage.after(9 * FLOW_S)
    assert stage.pool.released == []
    stage.after(2 * FLOW_S)
    assert stage.pool.released == [0]


def test_an_index_that_still_counts_is_not_released(stage: Stage) -> None:
    """An index that still counts packets is not released: old answers must not count for a new name."""
    fold(stage)
    for packets in range(2, 7):
        stage.packets[0] = packets
        stage.after(FLOW_S)
    assert stage.pool.released == []
    stage.after(FLOW_S + departures._MARGIN_S)
    assert stage.pool.released == [0]


def test_too_many_rows_are_folded_early(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too many removed backends, the oldest rows are folded early. Their indexes are not released earlier."""
    monkeypatch.setattr(departures, "MAX_DEPARTED", 2)
    stage.pool.put("a", "b", "c", "d")
    stage.pool.put("a", "b", "d")
    stage.after(1)
    stage.pool.put("b")
    stage.after(1)
    assert stage.pool.names == ("a", "b", "", "d")
    stage.pool.put()
    stage.after(1)
    assert len([name for name in stage.pool.names if name]) == 2
    assert "b" in stage.pool.names
    assert stage.pool.released == []


def test_a_name_that_comes_back_after_its_row_was_folded_is_a_new_one(stage: Stage) -> None:
    """A name that returns after its row was folded gets a new index at once, while the old index still waits."""
    fold(stage)
    stage.pool.put("a", "b")
    assert stage.pool.names == ("", "b", "a")
    stage.after(FLOW_S + departures._MARGIN_S)
    stage.after(FLOW_S + departures._MARGIN_S)
    assert stage.pool.released == [0]


def test_churn_needs_few_indexes(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that come and go without end use the same few indexes."""
    monkeypatch.setattr(departures, "MAX_DEPARTED", 10)
    for round_ in range(200):
        stage.pool.put(*(f"pod-{round_}-{number}" for number in range(5)))
        for _ in range(3):
            stage.after(FLOW_S)
    assert len(stage.pool.names) < 60


def test_rows_that_are_older_than_the_names(stage: Stage) -> None:
    """A backend that was added and removed between two readings is noted with the next reading."""
    stage.pool.put("a", "b", "c")
    stage.pool.put("a", "b")
    stage.departures.note(stage.pool, [Row()] * 2, FLOW_S, 9)
    stage.after(KEPT_S)
    assert stage.pool.names == ("a", "b", "c")
    stage.after(KEPT_S)
    assert stage.pool.names == ("a", "b", "")
