"""Tests with short calls through every design: qlb loses nothing, and the losses of the others are counted."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest

from benchmarks.forwarders.base import Missing
from benchmarks.voice import figures
from benchmarks.voice.caller import TICKET_KNOWN, WITHOUT_TICKET, Caller, Ending, Setup, Told
from benchmarks.voice.designs import DESIGNS
from benchmarks.voice.plan import MOVING, STILL, TABLE, Plan
from benchmarks.voice.run import agents_running, run
from lab.nat import Address, Nat, NatPort

pytestmark = pytest.mark.e2e

SHORT: Final = Plan(calls=4, ramp_s=0.5, still_s=4, moving_s=8, thinking_s=0.3, patience_s=3)
LIMIT_S: Final = 240.0
DELAY_S: Final = 0.05
"""In one direction. A slow agent must still answer before the next packets of its caller arrive."""
NOWHERE: Final = ("127.0.0.1", 9)
ALONE: Final = Plan(calls=1, ramp_s=0, still_s=5, moving_s=1, thinking_s=0.1)


@pytest.mark.parametrize("name", DESIGNS)
async def test_calls_through_each_design(name: str) -> None:
    """No design loses a call or a frame before addresses change, and qlb never does; all sums are consistent."""
    try:
        async with asyncio.timeout(LIMIT_S):
            found = await run(name, SHORT)
    except Missing as error:
        pytest.skip(str(error))
    callers = figures.callers(found)
    assert len(callers) == SHORT.calls
    assert all(one["setups"] for one in callers), "every caller has received audio from an agent"
    check_sums(callers)
    expected = [event for _, event in SHORT.events() if event != TABLE or name == "shared table in Redis"]
    assert [event for _, event in found["events"]] == expected
    assert sum(one["changes"] for one in callers) >= SHORT.calls * (SHORT.moving_s - 2)
    still, moving = (figures.phase(found, SHORT, phase) for phase in (STILL, MOVING))
    assert (still.lost, still.failed, still.missing) == (0, 0, 0)
    if name == "qlb":
        assert (moving.lost, moving.failed, moving.again, moving.missing) == (0, 0, 0, 0)
        assert sum(shard["cut_off"] for shard in found["shards"]) == 0
        assert moving.sent >= SHORT.calls * 50
        assert moving.heard > moving.sent


def check_sums(callers: list[dict[str, Any]]) -> None:
    """Check that each connection ended once, and that a caller opened more than two only after a loss."""
    for one in callers:
        endings = [Ending(*ending) for ending in one["endings"]]
        setups = [Setup(*setup) for setup in one["setups"]]
        assert sum(ending.was_set_up for ending in endings) == len(setups)
        assert all(ending.lost for ending in endings[1:-1])
        assert sum(setup.after_loss for setup in setups) <= sum(bool(ending.lost) for ending in endings)
        assert all(0 <= ending.up <= ending.sent and ending.down >= 0 for ending in endings)
        assert all(setup.round_trips >= 1 and setup.took_s > 0 for setup in setups)
        assert all(setup.round_trips >= 2 for setup in setups if setup.way != TICKET_KNOWN)
        assert setups[0].way == WITHOUT_TICKET
        assert [setup.at_s for setup in setups] == sorted(setup.at_s for setup in setups)


@dataclass
class Alone:
    """A caller and an agent with only the NAT between them. calling: runs until the plan ends."""

    agent: Address
    port: NatPort
    caller: Caller
    calling: "asyncio.Task[Told]"


@asynccontextmanager
async def one_caller(folder: Path, plan: Plan) -> AsyncIterator[Alone]:
    """Run one call."""
    async with asyncio.timeout(LIMIT_S), agents_running(folder, ["agent-a"]) as agents:
        with Nat() as nat:
            agent = ("127.0.0.1", agents.ports["agent-a"])
            port = nat.port(agent, delay_s=DELAY_S)
            caller = Caller(port, plan, Random(1), time.monotonic())
            calling = asyncio.create_task(caller.run())
            try:
                yield Alone(agent, port, caller, calling)
            finally:
                calling.cancel()
                with suppress(asyncio.CancelledError):
                    await calling


async def test_an_undisturbed_call(tmp_path: Path) -> None:
    """A call that is hung up and one with its ticket lose no frame and have no silence."""
    async with one_caller(tmp_path, ALONE) as alone:
        report = await alone.calling
    assert [(ending.lost, ending.up, ending.down) for ending in report.endings] == [("", 0, 0)] * 2
    assert report.endings[0].sent == 0
    assert report.endings[1].heard > report.endings[1].sent >= 50
    assert [(setup.way, setup.round_trips) for setup in report.setups] == [(WITHOUT_TICKET, 2), (TICKET_KNOWN, 1)]
    assert not any(setup.after_loss for setup in report.setups)
    assert report.silences == []


async def test_a_lost_call_is_counted_and_called_again(tmp_path: Path) -> None:
    """The lost frames are counted as missing, the gap lasts until the next audio, and the silence is recorded."""
    async with one_caller(tmp_path, replace(ALONE, still_s=0, moving_s=7.5, patience_s=2)) as alone:
        await alone.port.until_flowing(up=10)
        alone.port.move(NOWHERE)
        while not (found := alone.caller.told.endings):
            await asyncio.sleep(0.02)
        assert not alone.calling.done()
        alone.port.move(alone.agent)
        report = await alone.calling
    assert found[0].lost == "nothing received for 2 s"
    assert found[0].up > 0
    assert [ending.lost for ending in report.endings[-1:]] == [""]
    assert [setup.after_loss for setup in report.setups] == [False, True]
    assert max(gap.length_s for gap in report.gaps) >= 2
    assert [silence.length_s >= 2 for silence in report.silences] == [True]
