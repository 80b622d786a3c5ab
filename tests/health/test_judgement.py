"""Tests of rise and fall, without a clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlb.health.verdict import Judgement


def turns(results: str, *, rise: int = 2, fall: int = 3) -> tuple[Judgement, list[int]]:
    """Feed results, ``+`` or ``-``; return the judgement and the return value of each."""
    judgement = Judgement()
    return judgement, [judgement.take(result == "+", rise=rise, fall=fall) for result in results]


def test_healthy_until_the_first_result() -> None:
    """A backend without results counts as healthy."""
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
    """The first result decides alone; later ones must occur in a row."""
    judgement, found = turns(results)
    assert (found, judgement.healthy) == (turned, healthy)


def test_doubtful_results_never_decide_alone() -> None:
    """A doubtful failure, such as a lost packet at the start, counts only in a row; a certain one decides at once."""
    judgement = Judgement()
    assert [judgement.take(False, rise=2, fall=3, doubtful=True) for _ in range(3)] == [0, 0, 3]
    judgement = Judgement()
    assert judgement.take(False, rise=2, fall=3, doubtful=True) == 0
    assert judgement.take(False, rise=2, fall=3) == 2
    assert not judgement.healthy


def test_after_begin_anew_one_result_decides() -> None:
    """After a change of address the old verdict remains, but one result can change it."""
    judgement, _ = turns("-")
    judgement.begin_anew()
    assert not judgement.healthy
    assert judgement.take(True, rise=5, fall=5) == 1
    assert judgement.healthy


def test_a_confirming_result_after_begin_anew_ends_a_streak() -> None:
    """Results from before begin_anew() do not count towards a later change."""
    judgement, _ = turns("+--")
    judgement.begin_anew()
    assert [judgement.take(ok, rise=2, fall=3) for ok in (True, False, False, False)] == [0, 0, 0, 3]


def test_a_streak_from_before_begin_anew_is_not_counted() -> None:
    """Results of the old address are not part of the new streak."""
    judgement, _ = turns("+--")
    judgement.begin_anew()
    assert judgement.take(False, rise=2, fall=3) == 1


def test_settings_may_change_between_results() -> None:
    """The next result uses the new thresholds."""
    judgement, _ = turns("+--", fall=9)
    assert judgement.take(False, rise=2, fall=2) == 3


@given(st.text("+-", max_size=40), st.integers(1, 5), st.integers(1, 5))
def test_against_the_definition(results: str, rise: int, fall: int) -> None:
    """The verdict is that of the first result, or of the last result that occurred often enough in a row."""
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
