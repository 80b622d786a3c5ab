"""The rule for all backends failing at once."""

from hypothesis import given
from hypothesis import strategies as st

from qlb.health.verdict import Fleet

NAMES = ("a", "b", "c")
WINDOW_S = 10.0


def after(*verdicts: tuple[str, bool, float], reached: str = "", window_s: float = WINDOW_S) -> Fleet:
    """Return a fleet after verdicts: (name, healthy, at_s). reached: the backends whose host answers."""
    fleet = Fleet()
    for name, healthy, at_s in verdicts:
        fleet.take(name, healthy, at_s=at_s, window_s=window_s, names=NAMES, reached=name in reached)
        fleet.release(at_s)
    return fleet


def counting(fleet: Fleet) -> str:
    """Return the backends that count as healthy."""
    return "".join(name for name in NAMES if fleet.counts_as_healthy(name))


def test_some_fail() -> None:
    """If some backends fail, they do not count, and none is retained."""
    fleet = after(("a", False, 0.0), ("b", False, 1.0))
    assert (counting(fleet), fleet.is_retaining) == ("c", False)


def test_all_fail_at_once() -> None:
    """If all backends fail within one round, all are retained."""
    fleet = after(("a", False, 0.0), ("b", False, 5.0), ("c", False, 10.0))
    assert (counting(fleet), fleet.is_retaining) == ("abc", True)


def test_a_backend_that_failed_long_before_is_not_retained() -> None:
    """Only the backends that failed in the last round are retained."""
    fleet = after(("a", False, 0.0), ("b", False, 95.0), ("c", False, 100.0))
    assert counting(fleet) == "bc"


def test_a_backend_whose_host_answers_is_not_retained() -> None:
    """A refusal or a wrong connection ID came over the network, so this node is not at fault."""
    assert counting(after(("a", False, 0.0), ("b", False, 0.0), ("c", False, 0.0), reached="ac")) == "b"
    fleet = after(("a", False, 0.0), ("b", False, 0.0), ("c", False, 0.0), reached="abc")
    assert (counting(fleet), fleet.is_retaining) == ("", False)


def test_backends_with_wrong_ids_are_retained_if_no_other_is_left() -> None:
    """If all backends are down, those that answer with wrong IDs are retained, however long ago that began."""
    fleet = Fleet()
    for name, at_s, wrong in (("a", 0.0, True), ("b", 500.0, False), ("c", 1000.0, True)):
        assert not fleet.is_retaining
        fleet.take(name, False, at_s=at_s, window_s=WINDOW_S, names=NAMES, reached=True, has_wrong_ids=wrong)
    assert counting(fleet) == "ac"
    fleet.take("b", True, at_s=1001.0, window_s=WINDOW_S, names=NAMES, reached=True)
    fleet.release(1001.0 + WINDOW_S)
    assert counting(fleet) == "b"
    obeying = Fleet()
    for name in NAMES:
        obeying.take(name, False, at_s=0.0, window_s=-1.0, names=NAMES, reached=True, has_wrong_ids=True)
    assert counting(obeying) == ""


def test_retention_can_be_turned_off() -> None:
    """With a window below 0, every verdict applies."""
    assert counting(after(*((name, False, 0.0) for name in NAMES), window_s=-1.0)) == ""


def test_the_first_healthy_backend_ends_retention() -> None:
    """After a backend is healthy again, the others are retained for one more round. Then the verdicts apply."""
    fleet = after(*((name, False, 0.0) for name in NAMES), ("b", True, 50.0))
    assert (counting(fleet), fleet.is_retaining) == ("abc", True)
    assert not fleet.release(59.9)
    fleet.take("c", True, at_s=59.9, window_s=WINDOW_S, names=NAMES, reached=True)
    assert fleet.release(60.0)
    assert (counting(fleet), fleet.is_retaining) == ("bc", False)


def test_a_backend_that_has_left_is_forgotten() -> None:
    """The rule applies to the remaining backends after one has left."""
    fleet = after(("a", False, 0.0))
    fleet.forget("a")
    for name in ("b", "c"):
        fleet.take(name, False, at_s=1.0, window_s=WINDOW_S, names=("b", "c"), reached=False)
    assert [fleet.counts_as_healthy(name) for name in "bc"] == [True, True]


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.booleans(), st.floats(0, 30)), max_size=30))
def test_some_backend_always_counts(events: list[tuple[str, bool, float]]) -> None:
    """If no host is reached, at least one backend counts after any verdicts. Healthy backends always count."""
    fleet, verdicts, now_s = Fleet(), dict.fromkeys(NAMES, True), 0.0
    for name, healthy, pause_s in events:
        now_s += pause_s
        if verdicts[name] is not healthy:
            verdicts[name] = healthy
            fleet.take(name, healthy, at_s=now_s, window_s=WINDOW_S, names=NAMES, reached=False)
        fleet.release(now_s)
        assert counting(fleet)
        assert all(fleet.counts_as_healthy(one) for one, up in verdicts.items() if up)
