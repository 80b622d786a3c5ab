"""The bounds of notices: how much, for how long, and when they are over."""

from collections.abc import Iterable

import pytest

from lab.deploy.metric_names import rules
from qlb.observe.bounds import KERNEL_DROPS, SESSIONS, UNCONFIGURED, WINDOW_S, Bound, RecentShare


class Counting:
    """A share whose counters and clock a test advances."""

    def __init__(self, bound: Bound) -> None:
        """Start at a time and at counts that are not zero."""
        self.share = RecentShare(bound)
        self.now_s, self.part, self.whole = 1000.0, 70, 7000
        self.share.note(self.part, self.whole, self.now_s)

    def pass_seconds(self, seconds: int, *, part: int, whole: int) -> list[bool]:
        """Count so many packets each second. Return for each second whether the bound is exceeded."""
        found = []
        for _ in range(seconds):
            self.now_s, self.part, self.whole = self.now_s + 1, self.part + part, self.whole + whole
            self.share.note(self.part, self.whole, self.now_s)
            found.append(self.share.over > 0)
        return found


def first(found: Iterable[bool]) -> int:
    """Return the second in which a bound is exceeded for the first time."""
    return list(found).index(True) + 1


def test_nothing_is_exceeded_at_the_start() -> None:
    """Without notes, with one note, and at exactly the bound, there is no notice. Earlier packets do not count."""
    assert RecentShare(KERNEL_DROPS).over == 0.0
    counting = Counting(Bound(0.01))
    assert counting.share.over == 0.0
    assert not any(counting.pass_seconds(100, part=1, whole=100))


def test_a_loss_is_reported_at_once_and_for_a_minute() -> None:
    """A bound without a duration is exceeded in the next second, and no more after a minute without such packets."""
    counting = Counting(KERNEL_DROPS)
    assert counting.pass_seconds(1, part=5, whole=1000) == [True]
    assert counting.share.over == pytest.approx(5 / 1000)
    quiet = counting.pass_seconds(70, part=0, whole=10)
    assert quiet == [True] * (round(WINDOW_S) - 1) + [False] * 11


def test_a_burst_is_no_evidence() -> None:
    """A burst of packets with a wrong config ID never exceeds the bound, however large it is."""
    counting = Counting(UNCONFIGURED)
    assert not any(counting.pass_seconds(1, part=4000, whole=4000))
    assert not any(counting.pass_seconds(300, part=0, whole=1))


def test_wrong_ids_for_minutes_are_reported_and_end_with_a_quiet_minute() -> None:
    """A share above 1 % counts after three minutes, and no more after a quiet minute."""
    counting = Counting(UNCONFIGURED)
    assert first(counting.pass_seconds(200, part=2, whole=100)) == UNCONFIGURED.lasts_s + 1
    quiet = counting.pass_seconds(61, part=0, whole=100)
    assert quiet[0] is True
    assert quiet[-1] is False


def test_a_pause_starts_the_duration_again() -> None:
    """After a minute without such packets, the three minutes begin again."""
    counting = Counting(UNCONFIGURED)
    assert not any(counting.pass_seconds(119, part=5, whole=100))
    assert not any(counting.pass_seconds(61, part=0, whole=100))
    assert not any(counting.pass_seconds(119, part=5, whole=100))


def test_a_small_share_of_much_traffic_is_never_reported() -> None:
    """Below 1 % there is no notice, however long such packets arrive."""
    assert not any(Counting(UNCONFIGURED).pass_seconds(600, part=9, whole=1000))


def test_a_few_packets_of_an_idle_daemon_are_no_large_share() -> None:
    """The share is of at least one packet a second, as in the alerts."""
    counting = Counting(Bound(0.5))
    counting.pass_seconds(10, part=0, whole=0)
    counting.pass_seconds(1, part=1, whole=1)
    assert counting.share.over == 0.0


@pytest.mark.parametrize(
    ("alert", "bound"),
    [("QlbKernelDrops", KERNEL_DROPS), ("QlbSessionsNearMax", SESSIONS), ("QlbUnconfiguredConfigId", UNCONFIGURED)],
)
def test_the_bounds_are_those_of_the_alerts(alert: str, bound: Bound) -> None:
    """A notice and the alert about the same figure agree on how much is too much."""
    (expression,) = [rule["expr"] for rule in rules() if rule.get("alert") == alert]
    assert float(expression.rpartition(">")[2]) == bound.above
