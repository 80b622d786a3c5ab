"""The bounds above which a figure becomes a notice.

A notice that outlives its cause hides the next one. Therefore a bound sees only the last minute: after a quiet minute
it is not exceeded any more. The bounds are those of the alerts in deploy/prometheus, which a test compares.
"""

from collections import deque
from typing import Final, NamedTuple

WINDOW_S: Final = 60.0
"""The time that a bound sees."""


class Bound(NamedTuple):
    """A bound on a share, 0 to 1. lasts_s: it must be exceeded for this time without a break to count."""

    above: float
    lasts_s: float = 0.0


KERNEL_DROPS: Final = Bound(0.001)
"""Of the datagrams that reached this machine, those that the system dropped. Each of them is a loss."""
SESSIONS: Final = Bound(0.9)
"""Of the sessions that may be open."""
UNCONFIGURED: Final = Bound(0.01, lasts_s=180.0)
"""Of the received packets, those with one config ID that is not configured. A burst stays in the window for WINDOW_S,
so such packets must arrive for two minutes. Any host can send a burst: it is no evidence of a server."""


class RecentShare:
    """The share of one counter in another one, within the last minute."""

    __slots__ = ("_bound", "_notes", "_over_since_s", "_share")

    def __init__(self, bound: Bound) -> None:
        """Start without notes."""
        self._bound = bound
        self._notes: deque[tuple[float, int, int]] = deque()
        self._over_since_s: float | None = None
        self._share = 0.0

    def note(self, part: int, whole: int, now_s: float) -> None:
        """Note the present values of both counters. Call this about once a second."""
        self._notes.append((now_s, part, whole))
        while len(self._notes) > 1 and now_s - self._notes[1][0] >= WINDOW_S:
            self._notes.popleft()
        then_s, first_part, first_whole = self._notes[0]
        # Like the alerts, count at least one packet a second, so that one packet alone is no share of 100 %.
        self._share = max(part - first_part, 0) / max(whole - first_whole, now_s - then_s, 1.0)
        if self._share <= self._bound.above:
            self._over_since_s = None
        elif self._over_since_s is None:
            self._over_since_s = now_s

    @property
    def over(self) -> float:
        """The share, if it has exceeded the bound for long enough until the last note; otherwise 0."""
        if self._over_since_s is None or self._notes[-1][0] - self._over_since_s < self._bound.lasts_s:
            return 0.0
        return self._share
