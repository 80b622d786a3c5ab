"""A function that runs in its own process: the caller gets its result or the reason of the failure."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from qlb.daemon import compiling as job
from qlb.daemon.compiling import JobFailed, run_job

LIMIT_S = 240.0


def _add(one: int, other: int) -> tuple[int, int]:
    sys.stdout.write("not a part of the result")
    return one + other, os.getpid()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise() -> None:
    raise ValueError("a fault of the function")


def _hang(started: str) -> None:
    Path(started).touch()
    signal.pause()


async def test_the_result_of_another_process() -> None:
    """The result comes from another process. Text that the function prints is not part of it."""
    async with asyncio.timeout(LIMIT_S):
        total, pid = await run_job(_add, 1, other=2)
    assert total == 3
    assert pid != os.getpid()


async def test_a_large_result() -> None:
    """An argument and a result that are larger than a pipe's buffer are transferred whole."""
    async with asyncio.timeout(LIMIT_S):
        assert await run_job(bytes.upper, b"x" * (8 << 20)) == b"X" * (8 << 20)


@pytest.mark.parametrize(("function", "reason"), [(_die, "ended with -9"), (_raise, "ended with 1")])
async def test_a_process_that_ends_without_a_result(function: job.Callable[[], None], reason: str) -> None:
    """A process that is killed or that raises is reported with its exit code."""
    async with asyncio.timeout(LIMIT_S):
        with pytest.raises(JobFailed, match=reason):
            await run_job(function)


async def test_a_process_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the process cannot be started, the error gives the system's reason."""
    monkeypatch.setattr(sys, "executable", "/nowhere")
    with pytest.raises(JobFailed, match="no process can be started: No such file"):
        await run_job(_die)


async def test_a_process_that_takes_too_long(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A process that takes too long is killed."""
    monkeypatch.setattr(job, "_TIMEOUT_S", 0.01)
    with pytest.raises(JobFailed, match="no result within"):
        await run_job(_hang, str(tmp_path / "started"))


async def test_a_cancelled_caller_leaves_no_process(tmp_path: Path) -> None:
    """If the caller is cancelled, the process is killed."""
    started = tmp_path / "started"
    async with asyncio.timeout(LIMIT_S):
        task = asyncio.create_task(run_job(_hang, str(started)))
        while not started.exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    if children.exists():
        assert "job" not in "".join(
            Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") for pid in children.read_text().split()
        )
