"""The workers as the supervisor sees them: start, give orders, replace.

Each place (worker 0, 1, …) owns its sockets and its counters for the daemon's life; the process in it may
change. Spare processes wait for the next places that fall empty, so the sockets of killed workers are read
again within milliseconds, and nothing that waits in them is lost.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from qlb.addresses import Endpoint
from qlb.dataplane.base import Orders
from qlb.errors import QlbError
from qlb.routing.counters import Counters
from qlb.workers import channel, heartbeat
from qlb.workers.channel import Applied, Failed, Held, Hold
from qlb.workers.process import WorkerProcess
from qlb.workers.slots import Place

log = logging.getLogger("qlb.workers")

_MAX_SPARES: Final = 4
"""One for each place up to this many: a place without one waits for a whole start (some 130 ms in place of 20),
and each costs some 15 MiB of its own."""
_QUICK_DEATHS: Final = 5
"""Deaths of one place in a row, each before its worker had forwarded for _STEADY_S, until starts are spaced."""
_STEADY_S: Final = 1.0
_PAUSE_S: Final = 1.0
_APPLY_TIMEOUT_S: Final = 10.0
_HOLD_TIMEOUT_S: Final = 1.0
"""How long workers may take to hold: meanwhile those that hold already leave their packets to nobody."""


class Workers:
    """All places, and the spares."""

    def __init__(self, places: Sequence[Place], plane: str, orders: Callable[[], Orders]) -> None:
        """plane: what every worker runs. orders: asked for the current ones at any time."""
        self.places = tuple(places)
        self._plane = plane
        self._orders = orders
        self.spares: list[WorkerProcess] = []
        """The longest waiting first: it has imported everything, most likely."""
        self._held = False
        self._refilling = asyncio.Lock()
        self._keepers: list[asyncio.Task[None]] = []
        """One for each slot, and one that watches all heartbeats."""
        self._watch = heartbeat.Watch()
        self._progress = asyncio.Condition()

    @property
    def counters(self) -> Sequence[Counters]:
        """What each place has counted, whoever was there."""
        return [place.counters for place in self.places]

    @property
    def forwards(self) -> bool:
        """Whether some worker forwards."""
        return any(place.forwards for place in self.places)

    @property
    def applied(self) -> int:
        """The lowest of the revisions that the workers reported last."""
        return min((place.applied for place in self.places), default=0)

    @property
    def findings(self) -> None:
        """Workers look for no faults of interfaces and routes."""
        return None

    @property
    def is_fresh(self) -> bool:
        """Whether some worker forwards and has shown that it does, lately."""
        return any(place.is_fresh for place in self.places)

    @property
    def behind(self) -> Sequence[str]:
        """Which workers have not taken their orders, one sentence each."""
        return tuple(
            f"worker {place.number} (process {place.process.pid if place.process else 'none'}) has not taken the "
            "configuration yet; it goes on by the one before"
            for place in self.places
            if place.is_behind
        )

    async def start(self, *, held: bool = False) -> None:
        """Start every worker and return when all of them forward. Raises OSError where one cannot be started.

        held: leave the listeners unread until resume(); raises QlbError, too, where a worker would not forward then.
        """
        self._held = held
        for place in self.places:
            await self._fill(place)
        self._keepers = [asyncio.create_task(self._keep(place)) for place in self.places]
        self._keepers.append(asyncio.create_task(self._watch_heartbeats()))
        await self._wait_applied(self._orders().snapshot.generation)
        if held and not all(place.forwards for place in self.places):
            raise QlbError("a worker cannot start; the log says why")
        await self._refill_spares()

    async def apply(self, orders: Orders, frame: bytes | None = None) -> Sequence[str]:
        """Give new orders to all workers and wait, within bounds, until all forward by them.

        frame: the orders, packed. Packing 5,000 backends takes 20 ms or more of the event loop, so it is done once, and
        elsewhere where it can be. Return who does not forward by them after the wait, as in behind.
        """
        packed = channel.pack(orders) if frame is None else frame
        for place in self.places:
            place.order(orders, packed)
        await self._wait_applied(orders.snapshot.generation)
        return self.behind

    async def hold(self) -> None:
        """Leave what clients send in the listeners from now on; replies go back. Returns when that is so."""
        await self._set_held(True)

    async def resume(self) -> None:
        """Read the listeners. Raises QlbError where a worker does not."""
        await self._set_held(False)
        if not all(place.forwards and not place.held for place in self.places):
            raise QlbError("a worker does not forward; the log says why")

    async def stop(self) -> None:
        """End every worker, then close the sockets."""
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        processes = [place.process for place in self.places if place.process]
        await asyncio.gather(*(process.stop() for process in (*processes, *self.spares)))
        for place in self.places:
            place.close()

    async def explain(self, datagram: bytes, client: Endpoint) -> dict[str, object]:  # noqa: ARG002 (an Engine)
        """Workers decide by the snapshot alone, and what their flow tables know is theirs: raises QlbError."""
        raise QlbError(
            f"plane {self._plane} cannot be asked; the xdp plane can. `qlb explain` without --live decides alike"
        )

    async def _fill(self, place: Place) -> None:
        """Put a process into a slot: a spare if there is one. Raises OSError where none can be started."""
        while self.spares:
            spare = self.spares.pop(0)
            try:
                if not spare.is_stopped:
                    return await self._assign(spare, place)
            except OSError:
                pass  # it was killed too: take another
            spare.kill()
            await spare.end()
        return await self._assign(await WorkerProcess.start(self._plane), place)

    async def _assign(self, process: WorkerProcess, place: Place) -> None:
        orders, held = self._orders(), self._held
        await place.fill(process, self._plane, orders, held=held)
        if self._orders() is not orders:  # they changed while the slot had nobody to tell
            place.order(self._orders(), channel.pack(self._orders()))
        if self._held is not held:
            process.order(Hold(self._held))

    async def _refill_spares(self) -> None:
        """Start what is missing. One after the other, whoever asks, so that there are never too many."""
        async with self._refilling:
            while len(self.spares) < min(len(self.places), _MAX_SPARES):
                try:
                    self.spares.append(await WorkerProcess.start(self._plane))
                except OSError as error:
                    log.warning("no spare worker could be started", extra={"reason": str(error)})
                    return

    async def _keep(self, place: Place) -> None:
        """Listen to a place's worker; when it has died, replace it. Runs as long as the daemon."""
        loop = asyncio.get_running_loop()
        quick_deaths = 0
        while True:
            since_s = loop.time()
            await self._listen(place)
            assert place.process is not None, "start() has filled the place"
            code = await place.process.end()
            await place.process.close()
            lost = place.counters.settle()
            place.restarts += 1
            quick_deaths = quick_deaths + 1 if loop.time() - since_s < _STEADY_S else 0
            log.warning(
                "worker replaced",
                extra={"worker": place.number, "pid": place.process.pid, "exit": code, "packets_lost": lost},
            )
            if quick_deaths > _QUICK_DEATHS:
                await asyncio.sleep(_PAUSE_S)
            await self._replace(place)

    async def _replace(self, place: Place) -> None:
        while True:
            try:
                await self._fill(place)
            except OSError as error:
                log.error("no worker could be started", extra={"worker": place.number, "reason": str(error)})
                await asyncio.sleep(_PAUSE_S)
            else:
                return await self._refill_spares()

    async def _watch_heartbeats(self) -> None:
        """Kill workers that hang: their keepers replace them. Runs as long as the daemon."""
        while True:
            await asyncio.sleep(heartbeat.INTERVAL_S)
            for place, verdict in self._watch.examine(self.places):
                assert place.process is not None, "it was examined"
                details = {"worker": place.number, "pid": place.process.pid, "silent_s": round(verdict.silent_s, 1)}
                if verdict.hangs:
                    log.error("worker hangs and is killed: %s", verdict.reason, extra=details)
                    place.hangs += 1
                    place.process.kill()
                else:
                    log.warning("worker is late, and is left alone: %s", verdict.reason, extra=details)

    async def _listen(self, place: Place) -> None:
        """Take a worker's answers until it is gone."""
        assert place.process is not None, "start() has filled the place"
        with suppress(EOFError, OSError):
            while True:
                answer = await place.process.receive()
                if isinstance(answer, Failed):
                    log.error("worker failed", extra={"worker": place.number, "reason": answer.reason})
                    return
                async with self._progress:
                    if isinstance(answer, Held):
                        place.held = answer.held
                    elif isinstance(answer, Applied):
                        place.note_applied(answer.generation)
                    self._progress.notify_all()
                if isinstance(answer, Applied) and answer.remark:
                    log.warning("worker remarks: %s", answer.remark, extra={"worker": place.number})

    async def _set_held(self, held: bool) -> None:
        self._held = held
        for place in self.places:
            if place.process is not None:
                place.process.order(Hold(held))
        timeout_s = _HOLD_TIMEOUT_S if held else _APPLY_TIMEOUT_S
        if not await self._wait(lambda: all(place.held is held for place in self.places), timeout_s):
            log.warning("a worker is slow to hold or to resume", extra={"held": held})

    async def _wait_applied(self, generation: int) -> None:
        if not await self._wait(lambda: all(place.applied >= generation for place in self.places), _APPLY_TIMEOUT_S):
            log.warning("a worker is slow to take its orders", extra={"generation": generation})

    async def _wait(self, everywhere: Callable[[], bool], timeout_s: float) -> bool:
        """Wait, within bounds, for something that workers' answers bring about; return whether it came."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._progress:  # wait_for() may swallow a cancellation
                return await self._progress.wait_for(everywhere)
        return False
