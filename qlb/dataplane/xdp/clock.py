"""The kernel's clock as the program reads it: ticks (jiffies), and what they are in this process's time."""

import time
from typing import Final

_MONOTONIC_COARSE: Final = 6
"""CLOCK_MONOTONIC_COARSE, which moves by ticks: its resolution is a tick's length."""
_NS: Final = 1_000_000_000
_NS_PER_MS: Final = 1_000_000


def tick_ns() -> int:
    """Return how long a tick is: 1 to 10 ms, as the kernel was built."""
    return round(time.clock_getres(_MONOTONIC_COARSE) * _NS)


class Clock:
    """Ticks to milliseconds of the monotonic clock, by one moment that is known in both."""

    def __init__(self, tick_ns: int, now_ticks: int, now_ns: int) -> None:
        """now_ticks, now_ns: the same moment."""
        self._tick_ns = tick_ns
        self._now_ticks = now_ticks
        self._now_ns = now_ns

    def milliseconds(self, ticks: int) -> int:
        """Return a moment in milliseconds; 0, for never, stays 0."""
        return (self._now_ns - (self._now_ticks - ticks) * self._tick_ns) // _NS_PER_MS if ticks else 0
