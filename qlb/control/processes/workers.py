"""The workers as the supervisor sees them: start, give orders, replace.

Each place (worker 0, 1, …) owns its sockets and its counters for the daemon's life; the process in it may
change. Spare processes wait for the next places that fall empty, so the sockets of killed workers are read
again within milliseconds, and nothing that waits in them is lost.
"""

import asyncio
import logging
import mmap
import os
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

from qlb.control.anonymous import open_anonymous
from qlb.control.processes import channel
from qlb.control.processes.channel import Applied, Assignment, Failed, Held, Hold
from qlb.dataplane.base import Orders
from qlb.dataplane.sockets import DropCounter, granted_receive_buffer, granted_send_buffer
from qlb.errors import QlbError
from qlb.routing.backends import Endpoint
from qlb.routing.counters import SIZE_BYTES, Counters

log = logging.getLogger("qlb.workers")

_MAX_SPARES: Final = 4
"""One for each place up to this many: a place without one waits for a whole start (some 130 ms in place of 20),
and each costs some 15 MiB of its own."""
_QUICK_DEATHS: Final = 5
"""Deaths of one place in a row, each before its worker had forwarded for _STEADY_S, until starts are spaced."""
_STEADY_S: Final = 1.0
_PAUSE_S: Final = 1.0
_APPLY_TIMEOUT_S: Final = 10.0
_STOP_TIMEOUT_S: Final = 5.0


class WorkerProcess:
    """One process; a spare until it is assigned a place."""

    def __init__(self, process: asyncio.subprocess.Process, sock: socket.socket) -> None:
        """Use start() instead."""
        self._process = process
        self._sock = sock
        self._writer: asyncio.StreamWriter | None = None
        self._reader: asyncio.StreamReader | None = None

    @classmethod
    async def start(cls, plane: str) -> "WorkerProcess":
        """Start a process that imports everything that a plane needs, and waits."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "qlb.control.processes.worker", str(theirs.fileno()), plane),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                )
        except BaseException:
            ours.close()  # the sign to end, if it has begun
            raise
        return cls(process, ours)

    @property
    def pid(self) -> int:
        """The process ID."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return self._process.returncode is None

    async def assign(self, assignment: Assignment, descriptors: Sequence[int]) -> None:
        """Tell it what to be. Raises OSError where it is gone already."""
        channel.send_descriptors(self._sock, descriptors)
        self._reader, self._writer = await asyncio.open_unix_connection(sock=self._sock)
        self._writer.write(channel.pack(assignment))

    def order(self, orders: Orders | Hold) -> None:
        """Send new orders; a dead process is not an error here, wait() tells."""
        self.send(channel.pack(orders))

    def send(self, frame: bytes) -> None:
        """Send orders that are packed already; a dead process is not an error here."""
        assert self._writer is not None, "orders go to assigned workers"
        if not self._writer.is_closing():  # uvloop raises where asyncio shrugs
            self._writer.write(frame)

    async def receive(self) -> Applied | Held | Failed:
        """Wait for its next answer. Raises EOFError or OSError where it is gone."""
        assert self._reader is not None, "answers come from assigned workers"
        message = await channel.receive(self._reader)
        assert isinstance(message, Applied | Held | Failed), "workers only answer"
        return message

    async def wait(self) -> int:
        """Wait until the process has ended; return its exit code, negative for a signal."""
        return await self._process.wait()

    async def stop(self) -> None:
        """End it: close its channel, and kill it if that does not do."""
        if self._writer is not None:
            self._writer.close()
            with suppress(OSError):
                await self._writer.wait_closed()
        self._sock.close()
        try:
            await asyncio.wait_for(self._process.wait(), _STOP_TIMEOUT_S)
        except TimeoutError:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


class Place:
    """Where a worker works: its sockets, its counters, and whoever is there now."""

    def __init__(self, number: int, listeners: Sequence[socket.socket], cpu: int | None = None) -> None:
        """listeners: bound sockets, one for each service address; owned by the place from now on.

        cpu: the one core of whoever works here; None = any.
        """
        self.number = number
        self.cpu = cpu
        self.listeners = tuple(listeners)
        self.receive_buffer_bytes = tuple(map(granted_receive_buffer, listeners))
        self.send_buffer_bytes = tuple(map(granted_send_buffer, listeners))
        self.drops = tuple(map(DropCounter, listeners))
        """What the system has dropped at each listener; workers come and go, the sockets and this stay."""
        self._memory_file = _open_memory()
        self.counters = Counters(memoryview(mmap.mmap(self._memory_file, SIZE_BYTES)))
        self.process: WorkerProcess | None = None
        self.applied = 0
        self.held = False
        """Whether the worker here was the last time told, and has said, that it leaves the listeners unread."""
        self.restarts = 0

    @property
    def forwards(self) -> bool:
        """Whether a process is here that has taken its orders."""
        return self.process is not None and self.process.alive and self.applied > 0

    @property
    def descriptors(self) -> list[int]:
        """What a process needs to work here."""
        return [*(sock.fileno() for sock in self.listeners), self._memory_file]

    def close(self) -> None:
        """Close the sockets and the memory."""
        for sock in self.listeners:
            sock.close()
        os.close(self._memory_file)


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

    async def start(self, *, held: bool = False) -> None:
        """Start every worker and return when all of them forward. Raises OSError where one cannot be started.

        held: leave the listeners unread until resume(); raises QlbError, too, where a worker would not forward then.
        """
        self._held = held
        for place in self.places:
            await self._fill(place)
        self._keepers = [asyncio.create_task(self._keep(place)) for place in self.places]
        await self._wait_applied(self._orders().snapshot.generation)
        if held and not all(place.forwards for place in self.places):
            raise QlbError("a worker cannot start; the log says why")
        await self._refill_spares()

    async def apply(self, orders: Orders, frame: bytes | None = None) -> None:
        """Give new orders to all workers and wait, within bounds, until all forward by them.

        frame: the orders, packed. Packing 5,000 backends takes 20 ms or more of the event loop, so it is done once, and
        elsewhere where it can be.
        """
        packed = channel.pack(orders) if frame is None else frame
        for place in self.places:
            if place.process is not None:
                place.process.send(packed)
        await self._wait_applied(orders.snapshot.generation)

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
        """Put a process into a place: a spare if there is one. Raises OSError where none can be started."""
        while self.spares:
            spare = self.spares.pop(0)
            try:
                return await self._assign(spare, place)
            except OSError:
                await spare.stop()  # it was killed too: take another
        return await self._assign(await WorkerProcess.start(self._plane), place)

    async def _assign(self, process: WorkerProcess, place: Place) -> None:
        orders = self._orders()
        held = self._held
        await process.assign(Assignment(self._plane, orders, place.cpu, held), place.descriptors)
        place.process, place.held = process, held
        if self._orders() is not orders:  # they changed while this place had nobody to tell
            process.order(self._orders())
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
            code = await place.process.wait()
            await place.process.stop()
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
                    else:
                        place.applied = answer.generation
                    self._progress.notify_all()
                if isinstance(answer, Applied) and answer.remark:
                    log.warning("worker remarks: %s", answer.remark, extra={"worker": place.number})

    async def _set_held(self, held: bool) -> None:
        self._held = held
        for place in self.places:
            if place.process is not None:
                place.process.order(Hold(held))
        if not await self._wait(lambda: all(place.held is held for place in self.places)):
            log.warning("a worker is slow to hold or to resume", extra={"held": held})

    async def _wait_applied(self, generation: int) -> None:
        if not await self._wait(lambda: all(place.applied >= generation for place in self.places)):
            log.warning("a worker is slow to take its orders", extra={"generation": generation})

    async def _wait(self, everywhere: Callable[[], bool]) -> bool:
        """Wait, within bounds, for something that workers' answers bring about; return whether it came."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_APPLY_TIMEOUT_S), self._progress:  # wait_for() may swallow a cancellation
                return await self._progress.wait_for(everywhere)
        return False


def _open_memory() -> int:
    """Open zeroed memory that can be shared by its descriptor."""
    descriptor = open_anonymous("qlb-counters")
    os.ftruncate(descriptor, SIZE_BYTES)
    return descriptor
