"""The C router decides as the Python router: the same datagrams at the same times give the same decisions and flows."""

from collections import Counter
from types import ModuleType

import pytest

from lab import pool
from lab.dataplane.worlds import TICK_NS, WORLDS, Item, World, long_header
from qlb.dataplane.core.table import compile_table
from qlb.routing.flows import KEPT_ID_BYTES, FlowTables
from qlb.routing.outcomes import BY_DESTINATION_ID, BY_FALLBACK, DROP_SEND_FAILED, RESERVED_CONFIG, unroutable
from qlb.routing.router import Router
from qlb.routing.snapshot import Snapshot

SECOND_NS = 1_000_000_000
FAST = 10_000
FULL = 100_000
SLOW = 1_000_000
PHASES = 4
"""Between two phases a world changes: snapshots, table sizes, timeouts."""


class Twins:
    """A router in each language, with the same snapshots and the same traffic."""

    def __init__(self, core: ModuleType, snapshot: Snapshot, size: int, timeout_s: int, native: bool = True) -> None:
        """Create both with empty flow tables."""
        self.native = native
        self.python = Router(snapshot, FlowTables(size, timeout_s))
        self.c = core.Router(compile_table(snapshot), size, timeout_s * SECOND_NS, native=native)

    def apply(self, snapshot: Snapshot, size: int, timeout_s: int) -> None:
        """Apply a snapshot and bounds to both."""
        self.python.snapshot = snapshot
        self.python.flows.resize(size, timeout_s)
        self.c.apply(compile_table(snapshot), size, timeout_s * SECOND_NS, native=self.native)

    def decide(self, items: list[Item]) -> Counter[int]:
        """Decide with both, compare, and return the number of packets by outcome."""
        decisions = self.c.decide([(datagram, four_tuple, ticks * TICK_NS) for datagram, four_tuple, ticks in items])
        expected = [self.python.decide(datagram, four_tuple, ticks / 64) for datagram, four_tuple, ticks in items]
        for item, decision, wanted in zip(items, decisions, expected, strict=True):
            assert decision == wanted, (item[0].hex(), item[1:])
        flows = self.python.flows
        assert self.c.flows() == (len(flows.by_source_id), len(flows.by_destination_id), len(flows.by_four_tuple))
        return Counter(outcome for outcome, _ in decisions)


def _compare(core: ModuleType, numbers: range, datagrams: int) -> Counter[int]:
    """Compare both routers in these worlds; return the outcomes that occurred."""
    seen: Counter[int] = Counter()
    batch = -(-datagrams // len(numbers) // PHASES)
    for number in numbers:
        world = World(number)
        sizes, timeouts = (0, 1, 5, 50, 1000), (1, 5, 30)
        bounds = world.dice.choice(sizes), world.dice.choice(timeouts)
        twins = Twins(core, world.snapshot, *bounds, native=number % 2 == 0)
        for phase in range(PHASES):
            if phase:
                world.change()
                twins.apply(world.snapshot, world.dice.choice(sizes), world.dice.choice(timeouts))
            seen += twins.decide(world.traffic(batch))
    return seen


@pytest.mark.parametrize("datagrams", [FAST, pytest.param(FULL, marks=pytest.mark.slow)])
def test_every_outcome(core: ModuleType, datagrams: int) -> None:
    """The routers agree on every shape of connection ID, every backend state and every outcome of the core."""
    seen = _compare(core, range(WORLDS), datagrams)
    assert seen.total() >= datagrams
    assert set(seen) == set(range(DROP_SEND_FAILED))


@pytest.mark.slow
@pytest.mark.parametrize("start", range(WORLDS, 11 * WORLDS, WORLDS))
def test_a_million_datagrams(core: ModuleType, start: int) -> None:
    """The routers agree on ten more sets of worlds, each with other keys, lengths and random traffic."""
    assert _compare(core, range(start, start + WORLDS), SLOW // 10).total() >= SLOW // 10


def test_every_prefix_of_valid_packets(core: ModuleType) -> None:
    """The routers agree on short and long headers with an ID of every shape, cut after every octet."""
    for number in range(WORLDS):
        world = World(number)
        twins = Twins(core, world.snapshot, 1000, 30)
        for codec in world.codecs:
            cid = world.routable(codec)
            for whole in (b"\x40" + cid + b"tail", long_header(cid, b"client") + b"tail"):
                twins.decide([(whole[:size], world.clients[0], 0) for size in range(len(whole) + 1)])


def test_a_mapped_address_is_the_same_flow(core: ModuleType) -> None:
    """::ffff:192.0.2.1 equals 192.0.2.1 in the hash and, unlike in Python, in the flow tables."""
    twins = Twins(core, pool.snapshot(), 100, 30)
    decided = twins.c.decide(
        [
            (b"\x40\xff" + bytes(20), ("192.0.2.1", 5000, "198.51.100.1", 443), 0),
            (b"\x40\xff" + bytes(20), ("::ffff:192.0.2.1", 5000, "::ffff:198.51.100.1", 443), 0),
        ]
    )
    assert decided[0][1] == decided[1][1]
    assert twins.c.flows() == (0, 0, 1)


def test_long_ids_are_known_by_their_start_and_length(core: ModuleType) -> None:
    """IDs that differ only after the stored octets are one flow; IDs of different lengths are not."""
    twins = Twins(core, pool.snapshot(), 100, 30)
    clients = [(f"192.0.2.{n}", 5000, "198.51.100.1", 443) for n in range(3)]
    start = b"\xe0" + bytes(KEPT_ID_BYTES - 1)
    ids = (start + b"12", start + b"34", start + b"567")
    items = [(long_header(dcid, b"client"), client, 0) for dcid, client in zip(ids, clients, strict=True)]
    assert twins.decide(items) == Counter(
        {unroutable(BY_FALLBACK, RESERVED_CONFIG): 2, unroutable(BY_DESTINATION_ID, RESERVED_CONFIG): 1}
    )


@pytest.mark.slow
def test_a_full_table_stays_bounded(core: ModuleType) -> None:
    """After 100,000 flows, tables of 1,000 entries contain 1,000 entries, the same ones as in Python."""
    twins = Twins(core, pool.snapshot(), 1000, 3600)
    for start in range(0, 100_000, 5000):
        items = [
            (
                long_header(b"\xff" + number.to_bytes(8, "big"), b"client"),
                ("192.0.2.1", number % 5000, "198.51.100.1", 443),
                start,
            )
            for number in range(start, start + 5000)
        ]
        twins.decide(items)
        assert twins.c.flows() == (1000, 1000, 1000)


def test_bounds_change_under_traffic(core: ModuleType) -> None:
    """A smaller table retains the most recently used entries; a larger one retains all."""
    world = World(3)
    twins = Twins(core, world.snapshot, 64, 30)
    for size in (64, 7, 0, 3, 500, 65_536):
        twins.apply(world.snapshot, size, 30)
        twins.decide(world.traffic(500))


def test_wrong_arguments(core: ModuleType) -> None:
    """Wrong arguments raise an exception, and the router stays usable."""
    router = core.Router(compile_table(pool.snapshot()), 10, SECOND_NS)
    four_tuple = ("192.0.2.1", 1, "192.0.2.2", 2)
    with pytest.raises(ValueError, match="not an IP address: localhost"):
        router.decide([(b"", ("localhost", 1, "192.0.2.2", 2), 0)])
    with pytest.raises(TypeError):
        router.decide([("text", four_tuple, 0)])
    with pytest.raises(TypeError):
        router.decide(((b"", four_tuple, 0),))
    with pytest.raises(ValueError, match="must be at most"):
        core.Router(compile_table(pool.snapshot()), 1 << 25, SECOND_NS)
    with pytest.raises(TypeError, match="after __init__"):
        core.Router.__new__(core.Router).decide([])
    assert router.decide([(b"", four_tuple, 0)]) != []


def test_a_refused_table_changes_nothing(core: ModuleType) -> None:
    """A table that apply() rejects leaves the current one in place."""
    table = compile_table(pool.snapshot())
    router = core.Router(table, 10, SECOND_NS)
    item = (pool.short(pool.cid(pool.FOUR_PASS, 1)), pool.FLOW, 0)
    assert router.decide([item]) == [(pool.FOUR_PASS.config_id, 1)]
    with pytest.raises(ValueError, match="not a valid table for this core"):
        router.apply(table[:-8], 10, SECOND_NS)
    assert router.decide([item]) == [(pool.FOUR_PASS.config_id, 1)]
