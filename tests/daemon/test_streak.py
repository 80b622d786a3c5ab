"""Streaks: packets that arrive for a minute without a long pause."""

import pytest

from qlb.daemon.meter import LASTS_S, PACKETS, PAUSE_S, Streak


def fed(packets: int, interval_s: float, each: int = 1) -> Streak:
    """Return a streak that got packets at even intervals and was updated every second."""
    streak, total, due_s, now_s = Streak(), 0, 0.0, 0.0
    while total < packets * each:
        if now_s >= due_s:
            total += each
            due_s += interval_s
        streak.note(total, now_s)
        now_s += 1.0
    return streak


@pytest.mark.parametrize(
    ("packets", "interval_s", "each", "counts"),
    [
        (1, 1.0, 1, False),
        (1, 1.0, 1_000_000, False),
        (60, 1.0, 1, False),
        (61, 1.0, 1, True),
        (61, 1.0, 100, True),
        (31, 2.0, 1, False),
        (31, 2.0, 2, True),
        (100, PAUSE_S + 1, 100, False),
        (10, PAUSE_S, 100, True),
    ],
)
def test_streaks_that_count(packets: int, interval_s: float, each: int, counts: bool) -> None:
    """A minute without a long pause and with enough packets counts. A burst of any size does not."""
    assert fed(packets, interval_s, each).counts is counts


def test_it_ends_with_a_pause() -> None:
    """A long pause ends the streak, and a new one must last for a minute again."""
    streak = fed(2 * PACKETS, 1.0)
    assert (streak.counts, streak.has_begun) == (True, True)
    streak.note(2 * PACKETS, 2 * LASTS_S + PAUSE_S + 1)
    assert (streak.counts, streak.has_begun) == (False, False)
    streak.note(3 * PACKETS, 2 * LASTS_S + PAUSE_S + 2)
    assert (streak.counts, streak.has_begun) == (False, True)


def test_it_can_be_ended() -> None:
    """After end(), the streak must last for a minute again."""
    streak = fed(2 * PACKETS, 1.0)
    streak.end()
    assert not streak.counts
    streak.note(2 * PACKETS + 1, 2 * LASTS_S)
    assert not streak.counts
