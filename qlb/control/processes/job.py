"""A process that runs one function and ends: what takes seconds would hold up the event loop, even from a thread.

A thread shares the interpreter's lock with the loop, and each system call of the loop would wait for it. The function
and its arguments travel as a pickle to the child's stdin, the result as a pickle back. Both ends are this program; no
octet of a packet and no file is ever unpickled.
"""

import asyncio
import gc
import os
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final, ParamSpec, TypeVar

from qlb.errors import QlbError

P = ParamSpec("P")
T = TypeVar("T")

_TIMEOUT_S: Final = 600.0
"""A job that takes longer hangs: on a file system that does not answer, for example."""
_NICENESS: Final = 5
"""Workers, which forward packets, go first."""


class JobFailed(QlbError):
    """The process could not start, or ended without a result: it was killed, or memory ran out."""


async def run_job(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function of a module in a process of its own and return its result.

    The function must not raise: what it finds wrong is part of its result. Raises JobFailed.
    """
    work = await asyncio.to_thread(pickle.dumps, (function, args, kwargs))
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "qlb.control.processes.job"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise JobFailed(f"no process can be started: {error.strerror}") from error
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            answer, _ = await process.communicate(work)
    except TimeoutError:
        raise JobFailed(f"no result within {_TIMEOUT_S:g} s") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        raise JobFailed(f"the process that did the work ended with {process.returncode} and without a result")
    result: T = await asyncio.to_thread(pickle.loads, answer)
    return result


def main() -> int:
    """Do the work that stands on stdin. Returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C and systemd reach the whole group; the supervisor decides
    with suppress(OSError):
        os.nice(_NICENESS)
    gc.disable()  # it lives for one function: collecting costs a third of its time
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # whatever prints must not stand in the result
        function, args, kwargs = pickle.load(sys.stdin.buffer)  # noqa: S301 (see the module's docstring)
        with suppress(BrokenPipeError):
            pickle.dump(function(*args, **kwargs), out)
            out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
