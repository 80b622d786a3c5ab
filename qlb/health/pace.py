"""The pace of the probes: when the next one begins, and which backends have a handshake if that is the default.

A handshake costs this node some 8 ms of processor time. The default probe therefore begins about PER_S handshakes a
second. With up to 20 backends and the default interval every probe is a handshake. In a larger pool the backends take
turns, and between two turns a backend has the probe ``quic``, which costs a fortieth of that.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from qlb.health.watch import Watch

JITTER: Final = 0.1
"""An interval is up to this share longer or shorter."""


class Pace:
    """The clock, the sleep and the random numbers of the monitor. Tests replace them."""

    __slots__ = ("_draw", "_sleep", "now")

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """now: seconds of a monotonic clock. draw: a number from 0 to 1."""
        self.now = now
        self._sleep = sleep
        self._draw = draw

    async def rest(self, began_s: float, interval_s: float) -> None:
        """Sleep until about interval_s after began_s. Do not sleep if that moment is over."""
        jittered_s = interval_s * (1 + JITTER * (2 * self._draw() - 1))
        await self._sleep(max(began_s + jittered_s - self.now(), 0.0))


PER_S: Final = 10.0
"""Handshakes of all backends together."""
_REFILL_PER_S: Final = 1.25 * PER_S
"""More than the periods of all backends need. Otherwise those that ask last would never have a turn."""
BURST: Final = 20.0
"""Turns that can accumulate: so many backends are checked at the start at once."""


class Turns:
    """The turns of all backends of one monitor."""

    def __init__(self) -> None:
        """Start with BURST turns."""
        self._left = BURST
        self._filled_s = float("-inf")

    def take(self, watch: Watch, backends: int, now_s: float) -> bool:
        """Return whether a backend has its turn now, and use the turn. backends: the number of all of them."""
        self._left = min(self._left + (now_s - self._filled_s) * _REFILL_PER_S, BURST)
        self._filled_s = now_s
        if self._left < 1 or now_s - watch.shaken_s < (1 - JITTER) * backends / PER_S:
            return False
        self._left -= 1
        watch.shaken_s = now_s
        return True
