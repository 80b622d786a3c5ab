"""Flow tables: they are bounded, use the caller's time, and remove the least recently used entry first."""

from hypothesis import given
from hypothesis import strategies as st

from qlb.routing.flows import KEPT_ID_BYTES, MISS, FlowTable, FlowTables, id_key


def test_remember_and_forget() -> None:
    """An entry is found until the timeout after its last use."""
    table = FlowTable(10, 5.0)
    assert table.get("a", 0.0) == MISS
    table.remember("a", 1, 0.0)
    assert table.get("a", 4.9) == 1
    assert table.get("a", 5.0) == MISS
    table.remember("a", 2, 3.0)
    assert table.get("a", 7.0) == 2


def test_the_least_recently_used_leaves() -> None:
    """A full table removes the least recently used entry, not the oldest."""
    table = FlowTable(2, 100.0)
    for key in ("a", "b", "a", "c"):
        table.remember(key, 1, 0.0)
    assert [table.get(key, 1.0) for key in "abc"] == [1, MISS, 1]


def test_expired_entries_leave_as_others_come() -> None:
    """Each insert removes up to two expired entries, so that a full table shrinks again."""
    table = FlowTable(100, 1.0)
    for number in range(100):
        table.remember(number, 1, 0.0)
    for number in range(60):
        table.remember(f"new {number}", 1, 10.0)
    assert len(table) == 60


def test_size_0_remembers_nothing() -> None:
    """A table of size 0 is stateless."""
    table = FlowTable(0, 5.0)
    table.remember("a", 1, 0.0)
    assert (table.get("a", 0.0), len(table)) == (MISS, 0)


def test_long_ids_are_known_by_their_start_and_length() -> None:
    """A long ID is known by start and length, as in C and in the kernel; IDs of versions 1 and 2 are complete."""
    start = bytes(range(KEPT_ID_BYTES))
    assert id_key(start) == start
    assert id_key(start + b"12") == id_key(start + b"34") != id_key(start + b"567")
    tables = FlowTables(10, 5.0)
    tables.remember_long(("192.0.2.1", 1, "198.51.100.1", 1), start + b"12", b"scid", 7, 0.0)
    assert tables.by_destination_id.get(id_key(start + b"34"), 1.0) == 7


def test_resize() -> None:
    """A smaller table retains the most recently used entries; resizing applies to all three tables."""
    tables = FlowTables(10, 5.0)
    for number in range(10):
        tables.remember_long(("192.0.2.1", number, "198.51.100.1", 1), b"\1" * 8, b"scid", number, 0.0)
    tables.resize(3, 7.0)
    assert len(tables.by_four_tuple) == len(tables.by_source_id) == 3
    assert tables.by_four_tuple.get(("192.0.2.1", 9, "198.51.100.1", 1), 1.0) == 9
    assert tables.by_destination_id.timeout_s == 7.0


@given(st.integers(0, 5), st.lists(st.tuples(st.integers(0, 9), st.floats(0, 10)), max_size=60))
def test_never_larger_than_its_size(size: int, uses: list[tuple[int, float]]) -> None:
    """A table never exceeds its size, whatever is inserted in whatever order."""
    table, now = FlowTable(size, 3.0), 0.0
    for key, pause in uses:
        now += pause
        table.remember(key, key, now)
        assert len(table) <= size
        assert table.get(key, now) == (key if size else MISS)
