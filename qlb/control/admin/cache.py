"""Rendered pages, kept for a short while so that many readers cost no more than one.

A reading is taken on the event loop and rendered on a thread: with thousands of backends, rendering takes longer than
health probes and /readyz may wait.

A reader who comes alone gets a page made for it. Readings and renderings may use a twentieth of a core; when they have
used more, everybody who asks within a second after a rendering gets what it made. A page that takes longer than a
quarter of a second is made anew after four times as long as it took.
"""

import asyncio
import time
from collections.abc import Callable, Hashable
from typing import Final, Generic, NamedTuple, TypeVar

from qlb.observe.reading import Reading

_SHARE: Final = 0.05
"""Of a core, for readings and renderings."""
_BURST_S: Final = 0.05
"""Of processor time that they may use at once before pages are reused."""
_AGE_S: Final = 1.0
"""The age at which a page is made anew, unless it is expensive."""
_COSTS: Final = 4
"""An expensive page is made anew after this many times the processor time that it took."""

Item = TypeVar("Item")


class _Kept(NamedTuple, Generic[Item]):
    item: Item
    made_at_s: float
    cost_s: float


class PageCache:
    """The pages of one daemon, by a key of few values. For one event loop."""

    def __init__(
        self,
        read: Callable[[], Reading],
        *,
        now: Callable[[], float] = time.monotonic,
        used: Callable[[], float] = time.thread_time,
    ) -> None:
        """read: takes a reading. now: a clock. used: the processor time of the thread that calls it."""
        self._read = read
        self._now = now
        self._used = used
        self._reading: _Kept[Reading] | None = None
        self._pages: dict[Hashable, _Kept[bytes]] = {}
        self._running: dict[Hashable, asyncio.Task[bytes]] = {}
        self._debt_s = 0.0
        self._paid_at_s = now()

    def reading(self) -> Reading:
        """Return a recent reading."""
        if self._reading is None or self._is_due(self._reading):
            self._reading = self._take()
        return self._reading.item

    async def page(self, key: Hashable, render: Callable[[Reading], bytes]) -> bytes:
        """Return the recent page of a key, or what render makes of a new reading. Raises what they raise."""
        kept = self._pages.get(key)
        if kept is not None and not self._is_due(kept):
            return kept.item
        task = self._running.get(key)
        if task is None:
            task = asyncio.create_task(self._make(key, render))
            self._running[key] = task
            task.add_done_callback(lambda done: self._finish(key, done))
        return await asyncio.shield(task)  # a reader that leaves takes the page from nobody else

    def clear(self) -> None:
        """Forget everything: something was changed, and whoever asks next must see it."""
        self._reading = None
        self._pages.clear()
        self._running.clear()

    def _is_due(self, kept: _Kept[Item]) -> bool:
        now_s = self._now()
        self._debt_s = max(self._debt_s - _SHARE * (now_s - self._paid_at_s), 0.0)
        self._paid_at_s = now_s
        if now_s - kept.made_at_s >= max(_AGE_S, _COSTS * kept.cost_s):
            return True
        return self._debt_s + kept.cost_s <= _BURST_S

    def _take(self) -> _Kept[Reading]:
        began_s = self._used()
        reading = self._read()
        cost_s = self._used() - began_s
        self._debt_s += cost_s
        return _Kept(reading, self._now(), cost_s)

    async def _make(self, key: Hashable, render: Callable[[Reading], bytes]) -> bytes:
        self._reading = taken = self._take()
        page, cost_s = await asyncio.to_thread(self._measured, render, taken.item)
        self._debt_s += cost_s
        if self._running.get(key) is asyncio.current_task():  # else clear() was called in between
            self._pages[key] = _Kept(page, taken.made_at_s, taken.cost_s + cost_s)
        return page

    def _measured(self, render: Callable[[Reading], bytes], reading: Reading) -> tuple[bytes, float]:
        began_s = self._used()
        page = render(reading)
        return page, self._used() - began_s

    def _finish(self, key: Hashable, task: asyncio.Task[bytes]) -> None:
        if self._running.get(key) is task:
            del self._running[key]
        if not task.cancelled():
            task.exception()  # every reader that still waits raises it
