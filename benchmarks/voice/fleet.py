"""One shard of the fleet: a part of the callers and their NAT, in one process.

``python -m benchmarks.voice.fleet SHARD`` is started by benchmarks.voice, once for each shard number.

The first line of stdin is JSON with ``plan``, ``balancers`` ([host, port] each), ``delay_s`` (of the network, one
way) and ``began_s`` (by the machine's monotonic clock). Each later line is an order. ``{"move": [FROM, TO]}`` sends the
callers whose balancer is FROM to TO. ``{"rebind": true}`` makes addresses change from now on. When all callers have
finished, the process writes their records as one line of JSON and ends. At the end of stdin it ends at once.
"""

import asyncio
import dataclasses
import json
import logging
import sys
import time
from random import Random
from typing import Any, Final

import uvloop

from benchmarks.options import command_line
from benchmarks.voice.caller import FINISH_S, Caller
from benchmarks.voice.plan import Plan
from lab.nat import Address, Nat, NatPort

LIMIT_S: Final = FINISH_S + 20.0
"""Callers that have not finished this long after the plan's end are cut off. Their records count so far."""
_LAG_S: Final = 0.05


class Shard:
    """The callers of one shard: every caller whose number modulo ``shards`` is the shard's number."""

    def __init__(self, order: dict[str, Any], shard: int, nat: Nat) -> None:
        """Create the callers and their NAT ports. order: the first line of stdin."""
        self._plan = Plan(**order["plan"])
        self._balancers: list[Address] = [(host, port) for host, port in order["balancers"]]
        self._began_s: float = order["began_s"]
        self.callers = {
            number: (self._open(nat, number, order["delay_s"]))
            for number in range(shard, self._plan.calls, self._plan.shards)
        }
        self._told = {
            number: Caller(port, self._plan, Random(f"{self._plan.seed}/{number}"), self._began_s)
            for number, port in self.callers.items()
        }
        self._rebinding: list[asyncio.Task[None]] = []
        self._lags: list[float] = []

    async def run(self) -> dict[str, Any]:
        """Run all callers of the shard; return their records."""
        lagging = asyncio.create_task(self._watch_lag())
        calls = [asyncio.create_task(self._run(number)) for number in self._told]
        left_s = self._began_s + self._plan.end_s + LIMIT_S - asyncio.get_running_loop().time()
        _, late = await asyncio.wait(calls, timeout=left_s) if calls else ((), ())
        for task in (*late, *self._rebinding, lagging):
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task in calls:
            if not task.cancelled() and (error := task.exception()):
                raise error
        told = [dataclasses.asdict(caller.told) for caller in self._told.values()]
        return {"told": told, "cut_off": len(late), "cpu_s": time.process_time(), "lags_s": self._lags}

    def obey(self, order: dict[str, Any]) -> None:
        """Perform an order from stdin."""
        if order.get("rebind"):
            self._rebinding = [asyncio.create_task(self._rebind(*caller)) for caller in self.callers.items()]
        elif "move" in order:
            home, target = order["move"]
            for number, port in self.callers.items():
                if self._home(number) == home:
                    port.move(self._balancers[target])

    def _open(self, nat: Nat, number: int, delay_s: float) -> NatPort:
        return nat.port(self._balancers[self._home(number)], delay_s=delay_s)

    def _home(self, number: int) -> int:
        """Return the number of a caller's own balancer. Each shard has callers of each balancer."""
        return number // self._plan.shards % len(self._balancers)

    async def _run(self, number: int) -> None:
        await asyncio.sleep(self._plan.ramp_s * number / self._plan.calls)
        await self._told[number].run()

    async def _rebind(self, number: int, port: NatPort) -> None:
        """Change one caller's address each period. The callers' changes are spread evenly over the period."""
        await asyncio.sleep(self._plan.period_s * number / self._plan.calls)
        await port.rebind_every(self._plan.period_s)

    async def _watch_lag(self) -> None:
        """Record, each second, the longest delay of this process's event loop."""
        loop = asyncio.get_running_loop()
        while True:
            longest_s = 0.0
            for _ in range(int(1 / _LAG_S)):
                before_s = loop.time()
                await asyncio.sleep(_LAG_S)
                longest_s = max(longest_s, loop.time() - before_s - _LAG_S)
            self._lags.append(longest_s)


async def _main(number: int) -> None:
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    print("ready", flush=True)
    with Nat() as nat:
        shard = Shard(json.loads(await lines.readline()), number, nat)
        running = asyncio.create_task(shard.run())
        obeying = asyncio.create_task(_obey(shard, lines))
        await asyncio.wait([running, obeying], return_when=asyncio.FIRST_COMPLETED)
        obeying.cancel()
        if running.done():
            print(json.dumps(running.result()), flush=True)
        running.cancel()


async def _obey(shard: Shard, lines: asyncio.StreamReader) -> None:
    while line := await lines.readline():
        shard.obey(json.loads(line))


if __name__ == "__main__":
    logging.getLogger("quic").setLevel(logging.CRITICAL)
    parser = command_line("benchmarks.voice.fleet", __doc__)
    parser.add_argument("shard", type=int, help="number of the shard, from 0")
    uvloop.run(_main(parser.parse_args().shard))
