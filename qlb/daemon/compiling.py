"""Compile the wanted state into the orders that the workers receive, without blocking the event loop.

The orders are a snapshot and the plane's settings. They are pickled once for all workers. With 5,000 backends the ring
alone takes over a second. So a large ring is filled by another process, and everything else runs in a thread.
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
from qlb.config import build
from qlb.config.model import Config
from qlb.dataplane.base import Orders, PlaneSettings
from qlb.dataplane.limits import MOST_AUTO_SESSIONS
from qlb.errors import QlbError
from qlb.routing.backends import Backend
from qlb.routing.maglev import RING_SIZES, Member, Ring, build_ring, ring_members, ring_size
from qlb.routing.snapshot import compile_snapshot, fallback_shares
from qlb.workers import channel
from qlb.workers.cores import worker_count

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger("qlb")

IN_THREAD_SLOTS: Final = RING_SIZES[0]
"""The largest ring that a thread fills. It takes up to 0.1 s."""
_TIMEOUT_S: Final = 600.0
"""The time limit of a job. A job hangs, for example, on a file system that does not respond."""
_NICENESS: Final = 5
"""A job runs with this niceness, so that the workers get the processor first."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The wanted state at one moment. revision: the number of changes until then. backends: by index."""

    revision: int
    cid_params: tuple[CidParams, ...]
    backends: tuple[Backend | None, ...]
    fallback_key: bytes
    settings: PlaneSettings


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled plan.

    frame: the orders in the format of the workers' channel. shares: each backend's share of the fallback, by index.
    """

    revision: int
    orders: Orders
    frame: bytes
    shares: Sequence[float]


def make_plan(config: Config, backends: Sequence[Backend | None], revision: int) -> Plan:
    """Return the plan for a configuration and the present backends. The other arguments: as in Plan."""
    forwarding, fallback = config.forwarding, config.fallback
    settings = PlaneSettings(
        session_timeout_s=forwarding.session_timeout,
        routable_session_timeout_s=forwarding.routable_session_timeout,
        workers=worker_count(config),
        dscp=None if forwarding.dscp == "keep" else forwarding.dscp,
        max_sessions=MOST_AUTO_SESSIONS if forwarding.max_sessions == "auto" else forwarding.max_sessions,
        flow_table_size=fallback.flow_table_size,
        flow_timeout_s=fallback.flow_timeout,
        gso_to_backends=forwarding.gso_to_backends,
    )
    return Plan(revision, build.cid_params(config), tuple(backends), build.fallback_key(config), settings)


def compile_plan(plan: Plan, number: int, ring: Ring | None = None) -> Compiled:
    """Compile a plan. number: the snapshot's number. ring: reused if it has the same members and key."""
    snapshot = compile_snapshot(number, plan.cid_params, plan.backends, fallback_key=plan.fallback_key, ring=ring)
    orders = Orders(snapshot, plan.settings)
    return Compiled(plan.revision, orders, channel.pack(orders), fallback_shares(snapshot))


async def compile_aside(plan: Plan, number: int, ring: Ring) -> Compiled:
    """Compile a plan in a thread, and a large ring in another process. ring: the ring that is in force."""
    members = await asyncio.to_thread(ring_members, plan.backends)
    if (ring.members, ring.key) != (members, plan.fallback_key):
        ring = await _fill_aside(members, plan.fallback_key)
    return await asyncio.to_thread(compile_plan, plan, number, ring)


async def _fill_aside(members: tuple[Member, ...], key: bytes) -> Ring:
    if ring_size(len(members)) > IN_THREAD_SLOTS:
        try:
            return Ring(key, members, await run_job(_slots, members, key))
        except JobFailed as error:
            log.warning("the ring is filled in this process, which responds slowly until then: %s", error)
    return await asyncio.to_thread(build_ring, members, key)


def _slots(members: Sequence[Member], key: bytes) -> "array[int]":
    return build_ring(members, key).slots


class JobFailed(QlbError):
    """A job's process could not start, or ended without a result: it was killed, or memory ran out."""


async def run_job(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a function of a module in another process and return its result.

    The function must not raise: it returns problems as a part of its result. Raises JobFailed.
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
    """Run the job that stdin contains and write its result to stdout. Returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # Ctrl-C and systemd signal the whole group; the supervisor decides
    with suppress(OSError):
        os.nice(_NICENESS)
    gc.disable()  # the process ends after one function, and collecting would cost a third of its time
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)  # text that the function prints must not become a part of the result
        function, args, kwargs = pickle.load(sys.stdin.buffer)  # noqa: S301 (the supervisor wrote it)
        with suppress(BrokenPipeError):
            pickle.dump(function(*args, **kwargs), out)
            out.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
