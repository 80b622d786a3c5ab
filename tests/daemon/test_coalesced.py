"""Requests that come together share one run."""

import asyncio

import pytest

from qlb.daemon.reload import Coalesced

LIMIT_S = 240.0


class Work:
    """Runs that end when they are told to."""

    def __init__(self) -> None:
        """No run has begun, and none may end."""
        self.began = 0
        self.go = asyncio.Semaphore(0)

    async def run(self) -> int:
        """Return the number of the run."""
        self.began += 1
        number = self.began
        await self.go.acquire()
        return number


async def test_two_thousand_requests_are_two_runs() -> None:
    """Those that come before a run begins share it; all that come during it share the next one."""
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
    """It must see what was written after the last run began."""
    work = Work()
    shared = Coalesced(work.run)
    async with asyncio.timeout(LIMIT_S):
        for number in (1, 2, 3):
            work.go.release()
            assert await shared.request() == number


async def test_a_caller_that_gives_up_ends_no_run() -> None:
    """The others get their result."""
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
    """One that waits for a failed run begins all the same."""
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


async def test_stop_ends_what_runs_and_what_waits() -> None:
    """Callers are cancelled."""
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
