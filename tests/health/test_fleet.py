"""Tests of the distinction whether all backends have failed, or this node."""

from hypothesis import given
from hypothesis import strategies as st

from qlb.health.verdict import Fleet

ALL = ("a", "b", "c")
WINDOW_S = 10.0


def after(*verdicts: tuple[str, bool, float], reached: str = "", window_s: float = WINDOW_S) -> Fleet:
    """Return a fleet after verdicts: (name, healthy, at_s). reached: backends whose host answers."""
    fleet = Fleet()
    for name, healthy, at_s in verdicts:
        fleet.take(name, healthy, at_s=at_s, window_s=window_s, everybody=ALL, reached=name in reached)
        fleet.release(at_s)
    return fleet


def counting(fleet: Fleet) -> str:
    """Return the backends that count as healthy."""
    return "".join(name for name in ALL if fleet.counts_as_healthy(name))


def test_some_fail() -> None:
    """If only some backends fail, they do not count as healthy."""
    fleet = after(("a", False, 0.0), ("b", False, 1.0))
    assert (counting(fleet), fleet.failing) == ("c", False)


def test_all_fail_at_once() -> None:
    """If all backends fail within the window, all still count as healthy."""
    fleet = after(("a", False, 0.0), ("b", False, 5.0), ("c", False, 10.0))
    assert (counting(fleet), fleet.failing) == ("abc", True)


def test_a_backend_that_failed_long_before_stays_down() -> None:
    """If all backends fail, only those that failed within the window are retained."""
    fleet = after(("a", False, 0.0), ("b", False, 95.0), ("c", False, 100.0))
    assert counting(fleet) == "bc"


def test_a_failed_backend_whose_host_answers_is_not_retained() -> None:
    """A refusal or a wrong connection ID shows that the network works, so the backend itself has failed."""
    assert counting(after(("a", False, 0.0), ("b", False, 0.0), ("c", False, 0.0), reached="ac")) == "b"
    fleet = after(("a", False, 0.0), ("b", False, 0.0), ("c", False, 0.0), reached="abc")
    assert (counting(fleet), fleet.failing) == ("", False)


def test_it_can_be_turned_off() -> None:
    """With a window below 0 every verdict takes effect."""
    assert counting(after(*((name, False, 0.0) for name in ALL), window_s=-1.0)) == ""


def test_the_first_recovery_ends_it() -> None:
    """After the first recovery the others have one window to recover too; then verdicts take effect."""
    fleet = after(*((name, False, 0.0) for name in ALL), ("b", True, 50.0))
    assert (counting(fleet), fleet.failing) == ("abc", True)
    assert not fleet.release(59.9)
    fleet.take("c", True, at_s=59.9, window_s=WINDOW_S, everybody=ALL, reached=True)
    assert fleet.release(60.0)
    assert (counting(fleet), fleet.failing) == ("bc", False)


def test_a_removed_backend_is_forgotten() -> None:
    """A removed backend does not count when all others have failed."""
    fleet = after(("a", False, 0.0))
    fleet.forget("a")
    for name in ("b", "c"):
        fleet.take(name, False, at_s=1.0, window_s=WINDOW_S, everybody=("b", "c"), reached=False)
    assert [fleet.counts_as_healthy(name) for name in "bc"] == [True, True]


@given(st.lists(st.tuples(st.sampled_from(ALL), st.booleans(), st.floats(0, 30)), max_size=30))
def test_some_backend_counts_unless_reached(events: list[tuple[str, bool, float]]) -> None:
    """If no host is reached, at least one backend counts as healthy; healthy backends always count."""
    fleet, verdicts, now_s = Fleet(), dict.fromkeys(ALL, True), 0.0
    for name, healthy, pause_s in events:
        now_s += pause_s
        if verdicts[name] is not healthy:
            verdicts[name] = healthy
            fleet.take(name, healthy, at_s=now_s, window_s=WINDOW_S, everybody=ALL, reached=False)
        fleet.release(now_s)
        assert counting(fleet)
        assert all(fleet.counts_as_healthy(one) for one, up in verdicts.items() if up)
