"""The pool of workers: the supervisor starts them, gives them orders and replaces them.

Each slot (worker 0, 1, …) owns its sockets and its counters for the daemon's life; its process may change. Spare
processes wait for slots that become empty. So a spare reads the sockets of a killed worker within milliseconds, and the
packets that wait in them are not lost.
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
from qlb.workers.channel import Applied, Failed, Pause, Paused
from qlb.workers.process import WorkerProcess
from qlb.workers.slots import Slot

log = logging.getLogger("qlb.workers")

_MAX_SPARES: Final = 4
"""There is one for each slot up to this number. A slot without a spare waits for a whole start (about 130 ms instead of
20), and each spare uses about 15 MiB of its own."""
_QUICK_DEATHS: Final = 5
"""Deaths in one slot in a row, each within _STEADY_S of the start, after which starts wait for _RETRY_S."""
_STEADY_S: Final = 1.0
_RETRY_S: Final = 1.0
_APPLY_TIMEOUT_S: Final = 10.0
_PAUSE_TIMEOUT_S: Final = 1.0
"""The longest wait for all workers to pause: no process reads the packets of workers that have paused already."""


class Workers:
    """The slots of all workers, and the spare processes."""

    def __init__(self, slots: Sequence[Slot], plane: str, orders: Callable[[], Orders]) -> None:
        """Start without processes. plane: of every worker. orders: returns the current ones at any time."""
        self.slots = tuple(slots)
        self._plane = plane
        self._orders = orders
        self.spares: list[WorkerProcess] = []
        """The oldest first, because it has most likely imported everything."""
        self._paused = False
        self._refilling = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        """One for each slot, and one that watches all heartbeats."""
        self._watch = heartbeat.Watch()
        self._progress = asyncio.Condition()

    @property
    def counters(self) -> Sequence[Counters]:
        """The counters of each slot, over all its processes."""
        return [slot.counters for slot in self.slots]

    @property
    def forwards(self) -> bool:
        """True if any worker forwards."""
        return any(slot.forwards for slot in self.slots)

    @property
    def applied(self) -> int:
        """The lowest of the revisions that the workers reported last."""
        return min((slot.applied for slot in self.slots), default=0)

    @property
    def findings(self) -> None:
        """Workers look for no faults of interfaces and routes."""
        return None

    @property
    def is_fresh(self) -> bool:
        """True if any worker forwards and has a fresh stamp."""
        return any(slot.is_fresh for slot in self.slots)

    @property
    def behind(self) -> Sequence[str]:
        """A sentence for each worker that has not applied its orders."""
        return tuple(
            f"worker {slot.number} (process {slot.process.pid if slot.process else 'none'}) has not applied the "
            "configuration yet; it still forwards by the previous one"
            for slot in self.slots
            if slot.is_behind
        )

    async def start(self, *, paused: bool = False) -> None:
        """Start every worker and return when all of them forward. Raises OSError if one cannot be started.

        paused: do not read the listeners before resume(). Raises QlbError if a worker would not forward then.
        """
        self._paused = paused
        for slot in self.slots:
            await self._fill(slot)
        self._tasks = [asyncio.create_task(self._maintain(slot)) for slot in self.slots]
        self._tasks.append(asyncio.create_task(self._watch_heartbeats()))
        await self._wait_applied(self._orders().snapshot.generation)
        if paused and not all(slot.forwards for slot in self.slots):
            raise QlbError("a worker cannot start; the log has the reason")
        await self._refill_spares()

    async def apply(self, orders: Orders, frame: bytes | None = None) -> Sequence[str]:
        """Give new orders to all workers. Return `behind` when all forward by them, or after a timeout.

        frame: the orders, packed. Packing 5,000 backends blocks the event loop for 20 ms or more, so it happens once,
        and outside the loop if possible.
        """
        packed = channel.pack(orders) if frame is None else frame
        for slot in self.slots:
            slot.order(orders, packed)
        await self._wait_applied(orders.snapshot.generation)
        return self.behind

    async def pause(self) -> None:
        """Stop reading from clients; replies continue. Return when it has taken effect."""
        await self._set_paused(True)

    async def resume(self) -> None:
        """Read from clients. Raises QlbError if a worker does not."""
        await self._set_paused(False)
        if not all(slot.forwards and not slot.paused for slot in self.slots):
            raise QlbError("a worker does not forward; the log has the reason")

    async def stop(self) -> None:
        """End every worker, then close the sockets."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        processes = [slot.process for slot in self.slots if slot.process]
        await asyncio.gather(*(process.stop() for process in (*processes, *self.spares)))
        for slot in self.slots:
            slot.close()

    async def explain(self, datagram: bytes, client: Endpoint) -> dict[str, object]:  # noqa: ARG002 (an Engine)
        """Raise QlbError: a worker does not answer questions about its flow tables."""
        raise QlbError(
            f"plane {self._plane} does not support --live; `qlb explain` without --live shows the same decision"
        )

    async def _fill(self, slot: Slot) -> None:
        """Put a process into a slot, a spare if there is one. Raises OSError if no process can be started."""
        while self.spares:
            spare = self.spares.pop(0)
            try:
                if not spare.is_stopped:
                    return await self._assign(spare, slot)
            except OSError:
                pass  # it was killed too: use another
            spare.kill()
            await spare.end()
        return await self._assign(await WorkerProcess.start(self._plane), slot)

    async def _assign(self, process: WorkerProcess, slot: Slot) -> None:
        orders, paused = self._orders(), self._paused
        await slot.fill(process, self._plane, orders, paused=paused)
        if self._orders() is not orders:  # they changed while the slot had no process
            slot.order(self._orders(), channel.pack(self._orders()))
        if self._paused is not paused:
            process.order(Pause(self._paused))

    async def _refill_spares(self) -> None:
        """Start the missing spares, one at a time, so that there are never too many."""
        async with self._refilling:
            while len(self.spares) < min(len(self.slots), _MAX_SPARES):
                try:
                    self.spares.append(await WorkerProcess.start(self._plane))
                except OSError as error:
                    log.warning("no spare worker could be started", extra={"reason": str(error)})
                    return

    async def _maintain(self, slot: Slot) -> None:
        """Receive a worker's answers, and replace the worker when it has died. Runs as long as the daemon."""
        loop = asyncio.get_running_loop()
        quick_deaths = 0
        while True:
            since_s = loop.time()
            await self._listen(slot)
            assert slot.process is not None, "start() has filled the slot"
            code = await slot.process.end()
            await slot.process.close()
            lost = slot.counters.settle()
            slot.restarts += 1
            quick_deaths = quick_deaths + 1 if loop.time() - since_s < _STEADY_S else 0
            log.warning(
                "worker replaced",
                extra={"worker": slot.number, "pid": slot.process.pid, "exit": code, "packets_lost": lost},
            )
            if quick_deaths > _QUICK_DEATHS:
                await asyncio.sleep(_RETRY_S)
            await self._replace(slot)

    async def _replace(self, slot: Slot) -> None:
        while True:
            try:
                await self._fill(slot)
            except OSError as error:
                log.error("no worker could be started", extra={"worker": slot.number, "reason": str(error)})
                await asyncio.sleep(_RETRY_S)
            else:
                return await self._refill_spares()

    async def _watch_heartbeats(self) -> None:
        """Kill workers that hang; _maintain() replaces them. Runs as long as the daemon."""
        while True:
            await asyncio.sleep(heartbeat.INTERVAL_S)
            for slot, verdict in self._watch.examine(self.slots):
                assert slot.process is not None, "it was examined"
                pid, silent_s = slot.process.pid, round(verdict.silent_s, 1)
                details = {"worker": slot.number, "pid": pid, "silent_s": silent_s, "reason": verdict.reason}
                if verdict.hangs:
                    log.error("worker hangs and is killed", extra=details)
                    slot.hangs += 1
                    slot.process.kill()
                else:
                    log.warning("worker is late, but is not replaced", extra=details)

    async def _listen(self, slot: Slot) -> None:
        """Receive a worker's answers until it has ended."""
        assert slot.process is not None, "start() has filled the slot"
        with suppress(EOFError, OSError):
            while True:
                answer = await slot.process.receive()
                if isinstance(answer, Failed):
                    log.error("worker failed", extra={"worker": slot.number, "reason": answer.reason})
                    return
                async with self._progress:
                    if isinstance(answer, Paused):
                        slot.paused = answer.paused
                    elif isinstance(answer, Applied):
                        slot.note_applied(answer.generation)
                    self._progress.notify_all()
                if isinstance(answer, Applied) and answer.remark:
                    extra = {"worker": slot.number, "reason": answer.remark}
                    log.warning("worker deviates from its assignment", extra=extra)

    async def _set_paused(self, paused: bool) -> None:
        self._paused = paused
        for slot in self.slots:
            if slot.process is not None:
                slot.process.order(Pause(paused))
        timeout_s = _PAUSE_TIMEOUT_S if paused else _APPLY_TIMEOUT_S
        if not await self._wait(lambda: all(slot.paused is paused for slot in self.slots), timeout_s):
            log.warning("a worker has not paused or resumed in time", extra={"paused": paused})

    async def _wait_applied(self, generation: int) -> None:
        if not await self._wait(lambda: all(slot.applied >= generation for slot in self.slots), _APPLY_TIMEOUT_S):
            log.warning("a worker has not applied its orders in time", extra={"generation": generation})

    async def _wait(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until a condition holds that workers' answers change. Return False after a timeout."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s), self._progress:  # wait_for() may swallow a cancellation
                return await self._progress.wait_for(holds)
        return False
