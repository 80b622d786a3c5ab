"""Snapshots: compiled once, equal decisions in other processes, stable indexes, bounded memos."""

import pickle

import pytest

from lab.pool import FLOW, FOUR_PASS, KEY, backends, changed, cid, draining, long, router, short, snapshot
from qlb.addresses import Endpoint
from qlb.errors import QlbError
from qlb.routing import backends as backends_module
from qlb.routing import snapshot as snapshot_module
from qlb.routing.backends import MAX_BACKENDS, Backend, BackendIndexes
from qlb.routing.flows import FlowTables
from qlb.routing.router import Router
from qlb.routing.snapshot import fallback_shares


def test_pickle() -> None:
    """A snapshot makes the same decisions after it was sent to a worker."""
    here = router()
    there = Router(pickle.loads(pickle.dumps(here.snapshot)), FlowTables(10, 30.0))
    for datagram in (short(cid(FOUR_PASS, 1)), long(b"\xff" * 8), long(cid(FOUR_PASS, 2))):
        assert here.decide(datagram, FLOW, 0.0) == there.decide(datagram, FLOW, 0.0)
    assert there.snapshot.backends == here.snapshot.backends


def test_no_key_is_shown() -> None:
    """The repr of a snapshot contains no key."""
    assert KEY.hex() not in repr(snapshot())
    assert repr(KEY)[2:-1] not in repr(snapshot())


def test_the_ring_is_reused_where_it_fits() -> None:
    """Health and drain do not change the ring; another weight or name fills a new one."""
    first = snapshot()
    assert snapshot(draining(backends(), 1), first).ring is first.ring
    assert snapshot(changed(backends(), 1, healthy=False), first).ring is first.ring
    assert snapshot(changed(backends(), 1, weight=2), first).ring is not first.ring
    assert snapshot(backends(2), first).ring is not first.ring


def test_a_drain_moves_no_other_client() -> None:
    """Only the drained backend's share of the fallback moves."""
    before, after = snapshot(), snapshot(draining(backends(), 1))
    pairs = list(zip(before.fallback, after.fallback, strict=True))
    assert all(new == old for old, new in pairs if old != 1)
    assert {new for old, new in pairs if old == 1} == {0, 2}


def test_a_backend_may_have_several_server_ids() -> None:
    """Each server ID of a backend decodes to it."""
    ids = (b"\1\1\1", b"\2\2\2")
    r = router([Backend("b", Endpoint("::1", 1), {FOUR_PASS.config_id: ids})])
    for server_id in ids:
        packet = short(r.snapshot.configs[2].codec.encode(server_id, bytes(8)))  # type: ignore[union-attr]
        assert r.decide(packet, FLOW, 0.0) == (2, 0)


def test_the_memo_is_bounded_and_stores_only_routable_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unroutable IDs do not enter the memo, and a full memo is emptied; routing never changes."""
    monkeypatch.setattr(snapshot_module, "MEMO_ENTRIES", 10)
    config = snapshot().configs[2]
    assert config is not None
    for number in range(200):
        config.find(b"\x40" + number.to_bytes(11, "big"))
    assert config.remembered == 0
    for _ in range(25):
        assert config.find(cid(FOUR_PASS, 1)) == 1
        assert config.remembered <= 10
    config.forget()
    assert config.remembered == 0


def test_indexes_stay_and_leave_holes() -> None:
    """A name has the same index for as long as it is not forgotten."""
    indexes = BackendIndexes()
    a, b, c = backends()
    assert indexes.arrange([a, b]) == (a, b)
    assert indexes.arrange([c, b]) == (None, b, c)
    assert indexes.arrange([a, c]) == (a, None, c)
    assert indexes.names == ("b0", "b1", "b2")


def test_indexes_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many names raise an error; known names still work."""
    monkeypatch.setattr(backends_module, "MAX_BACKENDS", 2)
    indexes = BackendIndexes()
    a, b, c = backends()
    indexes.arrange([a, b])
    with pytest.raises(QlbError, match="restart"):
        indexes.arrange([c])
    assert indexes.arrange([b]) == (None, b)


def test_a_config_tells_its_server_ids() -> None:
    """A CID config returns each server ID with the index of its backend."""
    config = snapshot().configs[2]
    assert config is not None
    assert config.server_ids == {b"\xa0" * 3: 0, b"\xa1" * 3: 1, b"\xa2" * 3: 2}


def test_shares_of_the_fallback_go_by_weight() -> None:
    """Shares sum to 1; draining and removed backends have none; without backends there are none."""
    shares = fallback_shares(snapshot(changed(backends(), 2, weight=2)))
    assert shares == pytest.approx((0.25, 0.25, 0.5), abs=0.01)
    assert sum(shares) == pytest.approx(1)
    first, drained, last = fallback_shares(snapshot(draining(backends(), 1)))
    assert (drained, first + last) == (0, pytest.approx(1))
    assert fallback_shares(snapshot([])) == ()
    assert fallback_shares(snapshot(draining(backends(1), 0))) == (0,)


def test_an_index_is_used_again_only_when_it_was_released() -> None:
    """A forgotten name's index is not used again until it is released."""
    indexes = BackendIndexes()
    a, b, c = backends()
    indexes.arrange([a, b])
    assert indexes.forget("b0") == 0
    assert (indexes.names, indexes.room) == (("", "b1"), MAX_BACKENDS - 2)
    assert indexes.arrange([b, a]) == (None, b, a)
    indexes.release(0)
    assert indexes.room == MAX_BACKENDS - 2
    assert indexes.arrange([b, a, c]) == (c, b, a)
    assert (indexes.names, indexes.room) == (("b2", "b1", "b0"), MAX_BACKENDS - 3)


def test_an_index_is_found_by_name() -> None:
    """The index of a removed backend is found too; an unknown name gives None."""
    indexes = BackendIndexes()
    indexes.arrange(backends())
    indexes.arrange(backends()[1:])
    assert [indexes.find(one.name) for one in backends()] == list(range(len(backends())))
    assert indexes.find("unknown") is None


def test_a_pickle_forwards_and_has_no_ring() -> None:
    """A pickled snapshot has the slot table and the key, but not the ring's slots."""
    whole = snapshot(draining(backends(), 0))
    sent = pickle.loads(pickle.dumps(whole))
    assert (sent.fallback, sent.ring.key, len(sent.ring.slots)) == (whole.fallback, whole.ring.key, 0)
    four_tuples = [("192.0.2.1", port, "192.0.2.2", 443) for port in range(64)]
    assert [sent.fallback_backend(one) for one in four_tuples] == [whole.fallback_backend(one) for one in four_tuples]


def test_a_copy_of_indexes_is_independent() -> None:
    """Names that the copy adds, forgets or releases do not change the original, so a change can be refused."""
    indexes = BackendIndexes()
    indexes.arrange(Backend(name, Endpoint("127.0.0.1", 5000)) for name in "ab")
    other = indexes.copy()
    other.release(other.forget("a"))
    other.arrange([Backend("c", Endpoint("127.0.0.1", 5001))])
    assert (indexes.names, other.names) == (("a", "b"), ("c", "b"))
    assert indexes.find("c") is None
