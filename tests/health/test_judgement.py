"""The rules of rise and fall, without a clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlb.health.verdict import Judgement


def turns(results: str, *, rise: int = 2, fall: int = 3) -> tuple[Judgement, list[int]]:
    """Apply results, ``+`` or ``-``. Return the judgement and the return value of each call."""
    judgement = Judgement()
    return judgement, [judgement.take(result == "+", rise=rise, fall=fall) for result in results]


def test_healthy_until_the_first_result() -> None:
    """A new judgement is healthy."""
    assert Judgement().healthy


@pytest.mark.parametrize(
    ("results", "turned", "healthy"),
    [
        ("+", [0], True),
        ("-", [1], False),
        ("-+", [1, 0], False),
        ("-++", [1, 0, 2], True),
        ("-+-++", [1, 0, 0, 0, 2], True),
        ("+--", [0, 0, 0], True),
        ("+---", [0, 0, 0, 3], False),
        ("+--+---", [0, 0, 0, 0, 0, 0, 3], False),
        ("+----", [0, 0, 0, 3, 0], False),
    ],
)
def test_first_decides_then_rise_and_fall(results: str, turned: list[int], healthy: bool) -> None:
    """The first result decides alone. Later ones change the verdict only in a row."""
    judgement, found = turns(results)
    assert (found, judgement.healthy) == (turned, healthy)


def test_doubtful_results_never_decide_alone() -> None:
    """A doubtful first result (a packet may be lost) counts only in a row. The next result without doubt decides."""
    judgement = Judgement()
    assert [judgement.take(False, rise=2, fall=3, doubtful=True) for _ in range(3)] == [0, 0, 3]
    judgement = Judgement()
    assert judgement.take(False, rise=2, fall=3, doubtful=True) == 0
    assert judgement.take(False, rise=2, fall=3) == 2
    assert not judgement.healthy


def test_beginning_anew_lets_one_result_decide() -> None:
    """After begin_anew() the verdict stays, and one result is enough to change it."""
    judgement, _ = turns("-")
    judgement.begin_anew()
    assert not judgement.healthy
    assert judgement.take(True, rise=5, fall=5) == 1
    assert judgement.healthy


def test_a_streak_ends_with_a_result_that_confirms_after_beginning_anew() -> None:
    """After begin_anew() and a confirming result, earlier results do not count towards a later change."""
    judgement, _ = turns("+--")
    judgement.begin_anew()
    assert [judgement.take(ok, rise=2, fall=3) for ok in (True, False, False, False)] == [0, 0, 0, 3]


def test_a_streak_from_before_is_not_counted_after_beginning_anew() -> None:
    """Results from before begin_anew() are no part of the row that is returned."""
    judgement, _ = turns("+--")
    judgement.begin_anew()
    assert judgement.take(False, rise=2, fall=3) == 1


def test_thresholds_may_change_between_results() -> None:
    """New thresholds apply to the next result."""
    judgement, _ = turns("+--", fall=9)
    assert judgement.take(False, rise=2, fall=2) == 3


@given(st.text("+-", max_size=40), st.integers(1, 5), st.integers(1, 5))
def test_against_the_definition(results: str, rise: int, fall: int) -> None:
    """The verdict is the last sign that came often enough in a row, or the first sign."""
    judgement, found = turns(results, rise=rise, fall=fall)
    expected = True
    for at, sign in enumerate(results):
        if at == 0:
            expected = sign == "+"
        needed = rise if sign == "+" else fall
        if results[max(0, at + 1 - needed) : at + 1] == sign * needed:
            expected = sign == "+"
    assert judgement.healthy is expected
    assert sum(map(bool, found)) % 2 == (0 if judgement.healthy else 1)
