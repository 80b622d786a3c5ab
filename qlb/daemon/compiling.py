"""From the wanted state to what workers are sent: a snapshot, pickled once for all of them.

With 5,000 backends the ring alone takes over a second, so compiling is made of parts that can leave the event loop:
a large ring is filled by a process of its own, all the rest happens in a thread.
"""

import asyncio
import gc
import logging
import os
import pickle
import signal
import sys
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, ParamSpec, TypeVar

from qlb.cid.params import CidParams
from qlb.dataplane.base import Orders, PlaneSettings
from qlb.errors import QlbError
from qlb.routing.backends import Backend
from qlb.routing.maglev import RING_SIZES, Member, Ring, build_ring, ring_members, ring_size
from qlb.routing.snapshot import compile_snapshot, fallback_shares
from qlb.workers import channel

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
            *(sys.executable, "-m", "qlb.daemon.compiling"),
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


log = logging.getLogger("qlb")

IN_THREAD_SLOTS: Final = RING_SIZES[0]
"""A ring of so many slots is filled within 0.1 s."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The wanted state at one moment. revision: counts its changes. backends: by index."""

    revision: int
    cid_params: tuple[CidParams, ...]
    backends: tuple[Backend | None, ...]
    fallback_key: bytes
    settings: PlaneSettings


@dataclass(frozen=True, slots=True)
class Compiled:
    """The result. frame: the orders as the workers' channel carries them. shares: of the fallback, by backend index."""

    revision: int
    orders: Orders
    frame: bytes
    shares: Sequence[float]


def compile_plan(plan: Plan, number: int, ring: Ring | None = None) -> Compiled:
    """Compile. number: of the snapshot. ring: taken over where it is that of these backends."""
    snapshot = compile_snapshot(number, plan.cid_params, plan.backends, fallback_key=plan.fallback_key, ring=ring)
    orders = Orders(snapshot, plan.settings)
    return Compiled(plan.revision, orders, channel.pack(orders), fallback_shares(snapshot))


async def compile_aside(plan: Plan, number: int, ring: Ring) -> Compiled:
    """Compile without holding up the event loop. ring: the one in force."""
    members = await asyncio.to_thread(ring_members, plan.backends)
    if (ring.members, ring.key) != (members, plan.fallback_key):
        ring = await _fill_aside(members, plan.fallback_key)
    return await asyncio.to_thread(compile_plan, plan, number, ring)


async def _fill_aside(members: tuple[Member, ...], key: bytes) -> Ring:
    if ring_size(len(members)) > IN_THREAD_SLOTS:
        try:
            return Ring(key, members, await run_job(_slots, members, key))
        except JobFailed as error:
            log.warning("the ring is filled in this process, which is slower to answer meanwhile: %s", error)
    return await asyncio.to_thread(build_ring, members, key)


def _slots(members: Sequence[Member], key: bytes) -> "array[int]":
    return build_ring(members, key).slots
