"""One run of one design: agents, balancers, callers, and the events of the plan."""

import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from benchmarks.processes import cpu
from benchmarks.voice.caller import FINISH_S
from benchmarks.voice.designs import BALANCERS, Design, Site, design_running
from benchmarks.voice.fleet import LIMIT_S
from benchmarks.voice.plan import DRAIN, KILL, MOVE, RESTART, TABLE, Plan
from benchmarks.voice.programs import agent_running, child
from lab.ports import free_port
from lab.voice.stage import voice_config
from qlb.demo.http3 import make_certificate

AGENTS: Final = ("agent-a", "agent-b", "agent-c")
DELAY_S: Final = 0.01
NOTICED_S: Final = 0.3
"""Time for which routers still send packets to a dead balancer: BFD's detection time, 3 times 100 ms."""
_BEGIN_S: Final = 0.5


class Fleet:
    """The processes that run the callers (shards)."""

    def __init__(self, shards: Sequence[asyncio.subprocess.Process]) -> None:
        """shards: processes that have printed ``ready``."""
        self._shards = shards

    def order(self, **order: object) -> None:
        """Send an order to all shards."""
        for shard in self._shards:
            assert shard.stdin is not None
            shard.stdin.write(json.dumps(order).encode() + b"\n")

    async def told(self, limit_s: float) -> list[dict[str, Any]]:
        """Return the results that the shards print at their end. Raises TimeoutError."""
        async with asyncio.timeout(limit_s):
            return [json.loads(await self._read(shard)) for shard in self._shards]

    async def _read(self, shard: asyncio.subprocess.Process) -> bytes:
        assert shard.stdout is not None
        return await shard.stdout.read()


async def run(name: str, plan: Plan) -> dict[str, Any]:
    """Run the design with this name; return its results for JSON. Raises Missing and BackendError."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qlb-voice-")))
        agents = await stack.enter_async_context(agents_running(folder, AGENTS))
        site = Site(folder, agents.config, agents.ports, tuple(free_port() for _ in range(BALANCERS)))
        design = await stack.enter_async_context(design_running(name, site))
        shards = [
            await stack.enter_async_context(child("benchmarks.voice.fleet", str(number)))
            for number in range(plan.shards)
        ]
        fleet, began_s, machine = Fleet(shards), time.monotonic() + _BEGIN_S, _machine_s()
        agents_ns = cpu(agents.pids).total_ns
        balancers = [list(address) for address in site.addresses]
        fleet.order(plan=asdict(plan), balancers=balancers, delay_s=DELAY_S, began_s=began_s)
        conducting = asyncio.create_task(_conduct(design, plan, fleet, began_s))
        waited_s: list[float] = []
        watching = asyncio.create_task(_watch_waits(design, agents, waited_s))
        told = await fleet.told(_BEGIN_S + plan.end_s + LIMIT_S + FINISH_S)
        watching.cancel()
        elapsed_s = time.monotonic() - began_s
        return {
            "design": name,
            "events": await conducting,
            "shards": told,
            "elapsed_s": elapsed_s,
            "agents_cpu_s": (cpu(agents.pids).total_ns - agents_ns) / 1e9,
            "waited_s": waited_s,
            "machine_busy": (_machine_s() - machine) / elapsed_s,
        }


@dataclass(frozen=True)
class Agents:
    """Running agents.

    config: of a balancer in front of them. ports: name → UDP port. pids: of their processes.
    """

    config: dict[str, Any]
    ports: dict[str, int]
    pids: list[int]


@asynccontextmanager
async def agents_running(folder: Path, names: Sequence[str]) -> AsyncIterator[Agents]:
    """Run agents with these names until the end of the block. Raises BackendError."""
    config = voice_config(names)
    path = folder / "agents.yaml"
    path.touch(mode=0o600)  # it contains a key
    path.write_text(yaml.safe_dump(config))
    make_certificate().write(folder)
    ports = {backend["name"]: int(backend["address"].rpartition(":")[2]) for backend in config["backends"]}
    async with AsyncExitStack() as stack:
        pids = [await stack.enter_async_context(agent_running(path, name, folder)) for name in names]
        yield Agents(config, ports, pids)


async def _conduct(design: Design, plan: Plan, fleet: Fleet, began_s: float) -> list[tuple[float, str]]:
    """Perform the plan's events on time; return when each one happened."""
    happened = []
    for due_s, event in plan.events():
        await asyncio.sleep(max(0.0, began_s + due_s - time.monotonic()))
        at_s = time.monotonic() - began_s
        if await _befall(design, fleet, event):
            happened.append((at_s, event))
    return happened


async def _befall(design: Design, fleet: Fleet, event: str) -> bool:
    """Perform one event; return whether the design has it. Only the first balancer is killed."""
    if event == MOVE:
        fleet.order(rebind=True)
    elif event == KILL:
        await design.kill(0)
        await asyncio.sleep(NOTICED_S)
        fleet.order(move=[0, 1])
    elif event == RESTART:
        await design.restart(0)
        fleet.order(move=[0, 0])
    elif event == DRAIN:
        await design.drain(AGENTS[0])
    elif event == TABLE:
        return await design.restart_table()
    return True


async def _watch_waits(design: Design, agents: Agents, waited_s: list[float]) -> None:
    """Record, for each second, the longest time that any agent or balancer waited for a core."""
    before: dict[int, int] = {}
    while True:
        now: dict[int, int] = {}
        for pid in (*agents.pids, *design.pids()):
            with suppress(OSError):
                now[pid] = cpu([pid]).waited_ns
        waited_s.append(max((now[pid] - before[pid] for pid in now if pid in before), default=0) / 1e9)
        before = now
        await asyncio.sleep(1)


def _machine_s() -> float:
    """Return the CPU time of all programs on all cores so far."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / 100
