"""Compiling beside the event loop: the result is the same, and a ring is filled only if necessary."""

import asyncio
import dataclasses
import pickle

import pytest

from lab.dataplane.settings import DEFAULTS
from qlb.addresses import Endpoint
from qlb.daemon import compiling
from qlb.daemon.compiling import JobFailed, Plan, compile_aside, compile_plan
from qlb.dataplane.base import Orders
from qlb.routing.backends import Backend
from qlb.routing.maglev import DEFAULT_KEY

LIMIT_S = 240.0
BACKENDS = tuple(Backend(name, Endpoint("127.0.0.1", 5000 + n), weight=n + 1) for n, name in enumerate("abc"))
PLAN = Plan(7, (), (*BACKENDS, None), DEFAULT_KEY, DEFAULTS)


@pytest.mark.parametrize("limit", [1 << 30, 0], ids=["thread", "process"])
async def test_a_new_ring(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring that another process fills is the same as one that is filled here."""
    monkeypatch.setattr(compiling, "IN_THREAD_SLOTS", limit)
    before = compile_plan(dataclasses.replace(PLAN, backends=BACKENDS[:2]), 1)
    async with asyncio.timeout(LIMIT_S):
        compiled = await compile_aside(PLAN, 2, before.orders.snapshot.ring)
    expected = compile_plan(PLAN, 2)
    assert compiled.orders.snapshot.ring == expected.orders.snapshot.ring
    assert compiled.orders.snapshot.fallback == expected.orders.snapshot.fallback
    assert (compiled.revision, compiled.shares) == (7, expected.shares)
    assert len(compiled.shares) == len(PLAN.backends)


async def test_the_same_ring_is_reused() -> None:
    """Health verdicts and drains do not fill the ring anew."""
    before = compile_plan(PLAN, 1).orders.snapshot
    sick = dataclasses.replace(BACKENDS[0], healthy=False)
    plan = dataclasses.replace(PLAN, backends=(sick, *BACKENDS[1:], None))
    async with asyncio.timeout(LIMIT_S):
        compiled = await compile_aside(plan, 2, before.ring)
    assert compiled.orders.snapshot.ring is before.ring
    assert compiled.shares[0] == 0


async def test_without_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no process can be started, the ring is filled here: being slow is better than an old snapshot."""

    async def fail(*_: object) -> None:
        raise JobFailed("no process can be started")

    monkeypatch.setattr(compiling, "IN_THREAD_SLOTS", 0)
    monkeypatch.setattr(compiling, "run_job", fail)
    before = compile_plan(dataclasses.replace(PLAN, backends=BACKENDS[:2]), 1)
    async with asyncio.timeout(LIMIT_S):
        compiled = await compile_aside(PLAN, 2, before.orders.snapshot.ring)
    assert compiled.orders.snapshot.ring == compile_plan(PLAN, 2).orders.snapshot.ring


def test_the_frame_contains_the_orders_and_no_ring() -> None:
    """Workers get the orders with the table of slots, but not the ring, which only the next compilation needs."""
    compiled = compile_plan(PLAN, 3)
    orders = pickle.loads(compiled.frame[4:])
    assert isinstance(orders, Orders)
    snapshot = compiled.orders.snapshot
    assert (orders.snapshot.backends, orders.snapshot.fallback) == (snapshot.backends, snapshot.fallback)
    four_tuples = [("192.0.2.1", port, "192.0.2.2", 443) for port in range(100)]
    assert [orders.snapshot.fallback_backend(one) for one in four_tuples] == [
        snapshot.fallback_backend(one) for one in four_tuples
    ]
    assert (orders.snapshot.ring.key, len(orders.snapshot.ring.slots)) == (DEFAULT_KEY, 0)
