"""Work that many ask for at the same time and that is done as seldom as possible."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Coalesced(Generic[T]):
    """One run at a time. Requests that come during a run share one more run, which begins when that one ends."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        """work: what a run does."""
        self._work = work
        self._running: asyncio.Task[T] | None = None
        self._waiting: asyncio.Task[T] | None = None

    async def request(self) -> T:
        """Return the result of a run that began after this call. A caller that gives up ends no run."""
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._run_after(self._running))
        return await asyncio.shield(self._waiting)

    async def stop(self) -> None:
        """End what runs and what waits."""
        tasks = [task for task in (self._running, self._waiting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_after(self, before: asyncio.Task[T] | None) -> T:
        if before is not None:
            await asyncio.wait([before])
        self._running, self._waiting = self._waiting, None
        return await self._work()
