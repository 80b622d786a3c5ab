"""Counts by backend name, although an index may have had other names before."""

import pytest

from qlb.daemon.rows import BackendRows, Row, Rows
from qlb.routing.counters import SIZE_BYTES, Counters
from qlb.routing.outcomes import BY_FALLBACK, BY_FOUR_TUPLE, NO_CONFIG, unroutable

FLOW, FALLBACK = unroutable(BY_FOUR_TUPLE, NO_CONFIG), unroutable(BY_FALLBACK, NO_CONFIG)


@pytest.fixture
def workers() -> list[Counters]:
    """Return the counters of two workers."""
    return [Counters(bytearray(SIZE_BYTES)) for _ in range(2)]


def count(workers: list[Counters], index: int, packets: int, now_ms: int) -> None:
    """Count packets on both workers in turns, two by ID for each one by the fallback, and an answer for each.

    A packet has 100 octets and an answer 7. A packet by the fallback begins a flow.
    """
    for number in range(packets):
        worker = workers[number % 2]
        worker.count(3 if number % 3 else FALLBACK, index, now_ms, 100)
        if number % 3 == 0:
            worker.count_new_flow(index)
        worker.count_returned(index, 7)


def everything(rows: Rows) -> tuple[int, int]:
    """Return the sums over all rows: forwarded and returned packets. Check those of octets and of flows."""
    every = [*rows.by_index, rows.removed]
    forwarded, returned = sum(sum(row.forwarded) for row in every), sum(row.returned for row in every)
    assert sum(row.forwarded_bytes for row in every) == 100 * forwarded
    assert sum(row.returned_bytes for row in every) == 7 * returned
    assert sum(row.new_flows for row in every) == sum(row.forwarded[2] for row in every)
    return forwarded, returned


def test_workers_add_up(workers: list[Counters]) -> None:
    """Counts of workers add up by route. The last packet of any worker sets the time."""
    rows = BackendRows()
    workers[0].count(3, 1, 70)
    workers[1].count(FLOW, 1, 80)
    workers[1].count(FALLBACK, 1, 90)
    rows.follow(workers, ("a", "b"))
    found = rows.read(workers, ("a", "b"))
    assert found.by_index[1].forwarded == (1, 1, 1)
    assert found.by_index[1].last_seen_ms == 90
    assert (sum(found.by_index[0].forwarded), sum(found.removed.forwarded)) == (0, 0)


def test_without_workers() -> None:
    """Before the engine has started, all counts are zero."""
    found = BackendRows().read((), ("a",))
    assert (sum(found.by_index[0].forwarded), found.removed.last_seen_ms) == (0, 0)


def test_the_counts_of_a_forgotten_name(workers: list[Counters]) -> None:
    """The counts of a forgotten name go to the common row, and so do late packets."""
    rows = BackendRows()
    rows.follow(workers, ("a", "b"))
    count(workers, 0, 6, 100)
    rows.follow(workers, ("", "b"))
    assert rows.read(workers, ("", "b")).removed.forwarded == (4, 0, 2)
    count(workers, 0, 3, 200)
    removed = rows.read(workers, ("", "b")).removed
    assert (removed.forwarded, removed.returned, removed.last_seen_ms) == ((6, 0, 3), 9, 200)
    assert (removed.forwarded_bytes, removed.returned_bytes, removed.new_flows) == (900, 63, 3)


def test_a_new_name_starts_at_zero(workers: list[Counters]) -> None:
    """A new name starts at zero. The earlier counts of its index stay in the common row, so that no sum decreases."""
    rows, packets, removed_before = BackendRows(), 0, 0
    for generation, name in enumerate(("a", "", "b", "", "b", "c")):
        names = (name, "other")
        rows.follow(workers, names)
        found = rows.read(workers, names)
        assert sum(found.removed.forwarded) >= removed_before, "a counter went down"
        if name:
            assert found.by_index[0] == Row()
            count(workers, 0, 5, 1000 + generation)
            packets += 5
            found = rows.read(workers, names)
            assert (sum(found.by_index[0].forwarded), found.by_index[0].last_seen_ms) == (5, 1000 + generation)
            assert everything(found) == (packets, packets)
        removed_before = sum(found.removed.forwarded)


def test_new_names_start_at_zero(workers: list[Counters]) -> None:
    """A new index starts with its own counts, and does not change the row of another name."""
    rows = BackendRows()
    rows.follow(workers, ("a",))
    count(workers, 0, 4, 100)
    rows.follow(workers, ("a", "b"))
    count(workers, 1, 2, 100)
    found = rows.read(workers, ("a", "b"))
    assert [sum(row.forwarded) for row in (*found.by_index, found.removed)] == [4, 2, 0]


def test_refused_sends_of_a_forgotten_name(workers: list[Counters]) -> None:
    """A new name does not inherit refused sends. The common row contains them."""
    rows = BackendRows()
    rows.follow(workers, ("a",))
    for worker in workers:
        worker.count_send_error(2, index=0)
        worker.count_send_error(3, index=0)
    assert rows.read(workers, ("a",)).by_index[0].send_errors[:5] == (0, 0, 2, 2, 0)
    rows.follow(workers, ("",))
    rows.follow(workers, ("b",))
    workers[0].count_send_error(3, index=0)
    found = rows.read(workers, ("b",))
    assert found.by_index[0].send_errors[:5] == (0, 0, 0, 1, 0)
    assert found.removed.send_errors[:5] == (0, 0, 2, 2, 0)
