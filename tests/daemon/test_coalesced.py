"""Requests that arrive together share one run."""

import asyncio

import pytest

from qlb.daemon.reload_requests import Coalesced

LIMIT_S = 240.0


class Work:
    """Runs that end when a test releases them."""

    def __init__(self) -> None:
        """No run has begun, and none may end yet."""
        self.began = 0
        self.go = asyncio.Semaphore(0)

    async def run(self) -> int:
        """Wait for a release and return the number of the run."""
        self.began += 1
        number = self.began
        await self.go.acquire()
        return number


async def test_two_thousand_requests_are_two_runs() -> None:
    """Requests before a run begins share it. All requests during that run share the next one."""
    work = Work()
    shared = Coalesced(work.run)
    async with asyncio.timeout(LIMIT_S):
        first = [asyncio.create_task(shared.request()) for _ in range(1000)]
        while not work.began:
            await asyncio.sleep(0)
        second = [asyncio.create_task(shared.request()) for _ in range(1000)]
        await asyncio.sleep(0)
        work.go.release()
        work.go.release()
        assert set(await asyncio.gather(*first)) == {1}
        assert set(await asyncio.gather(*second)) == {2}
        assert work.began == 2


async def test_a_request_after_a_run_is_a_run_of_its_own() -> None:
    """A request after a run starts a new run, because it must see changes since the last run began."""
    work = Work()
    shared = Coalesced(work.run)
    async with asyncio.timeout(LIMIT_S):
        for number in (1, 2, 3):
            work.go.release()
            assert await shared.request() == number


async def test_a_cancelled_caller_ends_no_run() -> None:
    """If one caller is cancelled, the other callers still get their result."""
    work = Work()
    shared = Coalesced(work.run)
    async with asyncio.timeout(LIMIT_S):
        impatient, patient = (asyncio.create_task(shared.request()) for _ in range(2))
        while not work.began:
            await asyncio.sleep(0)
        impatient.cancel()
        work.go.release()
        assert await patient == 1


async def test_a_failure_reaches_every_caller_and_the_next_run_works() -> None:
    """After a run that fails, a waiting run still starts."""
    answers = iter([ValueError("x"), None])

    async def work() -> str:
        await asyncio.sleep(0)
        error = next(answers)
        if error is not None:
            raise error
        return "done"

    shared = Coalesced(work)
    async with asyncio.timeout(LIMIT_S):
        failed = asyncio.create_task(shared.request())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting = asyncio.create_task(shared.request())
        with pytest.raises(ValueError, match="x"):
            await failed
        assert await waiting == "done"


async def test_stop_ends_the_current_run_and_the_waiting_run() -> None:
    """stop() cancels the callers of the current run and of the waiting run."""
    work = Work()
    shared = Coalesced(work.run)
    async with asyncio.timeout(LIMIT_S):
        running = asyncio.create_task(shared.request())
        while not work.began:
            await asyncio.sleep(0)
        waiting = asyncio.create_task(shared.request())
        await asyncio.sleep(0)
        await shared.stop()
        for task in (running, waiting):
            with pytest.raises(asyncio.CancelledError):
                await task
    await Coalesced(work.run).stop()
