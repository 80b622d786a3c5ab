"""From the wanted state to what workers are sent: a snapshot, pickled once for all of them.

With 5,000 backends the ring alone takes over a second, so compiling is made of parts that can leave the event loop:
a large ring is filled by a process of its own, all the rest happens in a thread.
"""

import asyncio
import logging
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from qlb.cid.params import CidParams
from qlb.control.processes import channel
from qlb.control.processes.job import JobFailed, run_job
from qlb.dataplane.base import Orders, PlaneSettings
from qlb.routing.backends import Backend
from qlb.routing.maglev import RING_SIZES, Member, Ring, build_ring, ring_members, ring_size
from qlb.routing.snapshot import compile_snapshot, fallback_shares

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
