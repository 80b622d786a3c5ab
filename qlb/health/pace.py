"""The rhythm of probing: an interval with a little chance in it, so that probes do not march in step."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

_JITTER: Final = 0.1
"""An interval is up to this share longer or shorter."""


class Pace:
    """Time and chance, from outside."""

    __slots__ = ("_draw", "_sleep", "now")

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """now: seconds of a clock that only goes forward. draw: a number from 0 to 1."""
        self.now = now
        self._sleep = sleep
        self._draw = draw

    async def rest(self, began_s: float, interval_s: float) -> None:
        """Sleep until about interval_s after began_s; not at all where that is over."""
        jittered_s = interval_s * (1 + _JITTER * (2 * self._draw() - 1))
        await self._sleep(max(began_s + jittered_s - self.now(), 0.0))
