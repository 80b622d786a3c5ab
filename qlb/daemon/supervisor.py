"""The supervisor: owns the configuration, the sockets, health, the admin server and the workers' lives.

It is off the packet path: while it restarts a worker, reloads or answers a scrape, the workers forward. It
ends on SIGTERM or SIGINT, after being unready for shutdown_delay so that routers can look elsewhere; or when
another process has taken its place.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from qlb.addresses import Endpoint
from qlb.admin import AdminServer, Incomplete, ReloadOutcome, UpgradeOutcome
from qlb.config.changes import changes
from qlb.config.load import Loaded
from qlb.config.model import Config
from qlb.daemon import preflight as loops
from qlb.daemon.compiling import compile_aside
from qlb.daemon.desired import Desired
from qlb.daemon.guard import Objection, objections
from qlb.daemon.meter import IdUse, SendErrorWatch
from qlb.daemon.preflight import Interfaces, Shortfalls, preflight
from qlb.daemon.reading import History, take_reading
from qlb.daemon.reload import Reloads, TakenOver
from qlb.daemon.rows import BackendRows, Departures, Row
from qlb.daemon.sources import sources
from qlb.daemon.traffic import INTERVAL_S, REFUSALS_INTERVAL_S, Refusals, Traffic
from qlb.daemon.upgrade import REPLIES_S, Belongings, hand_over, next_process, upgrade_warnings
from qlb.dataplane import planes
from qlb.dataplane.sockets import bound_endpoint
from qlb.discovery.watch import Discovery
from qlb.errors import QlbError
from qlb.handover.processes import AddressWatch, check_addresses
from qlb.handover.protocol import Origin
from qlb.handover.systemd import Service
from qlb.health.monitor import HealthMonitor
from qlb.observe import logs
from qlb.observe.figures import Reading
from qlb.routing.backends import Backend, BackendState
from qlb.routing.counters import SESSIONS, total
from qlb.workers.engine import Engine
from qlb.workers.pool import Workers
from qlb.workers.slots import open_slots

log = logging.getLogger("qlb")

MAX_NEWS_PAUSE_S: Final = 1.0
"""The longest pause between two snapshots that health and discovery cause."""


class Supervisor:
    """One daemon."""

    def __init__(
        self,
        path: Path,
        loaded: Loaded,
        on_ready: Callable[["Supervisor"], None] | None = None,
        origin: Origin | None = None,
    ) -> None:
        """path: of the configuration, read again on reload. on_ready: called once, when packets are forwarded.

        origin: what was passed to this process. Raises what preflight() raises.
        """
        self.plane = preflight(loaded.config)
        self.desired = Desired(loaded)
        self.history = History()
        self.listen: tuple[Endpoint, ...] = ()
        self.health = HealthMonitor(self._on_health, traffic=lambda name: self.traffic.exchanged(name))
        self.discovery = Discovery(self._on_found)
        self.reloads = Reloads(path, self)
        self.admin = AdminServer(self.read, self.is_ready, self)
        self.origin = origin or Origin()
        self.service = Service(self.origin.notifier)
        self.engine: Engine | None = None
        self.rows = BackendRows()
        self.traffic = Traffic(lambda: self.engine.counters if self.engine is not None else (), self.rows)
        self.id_use = IdUse()
        self._departures = Departures()
        self._refusals = Refusals(lambda: self.engine.counters if self.engine is not None else ())
        self._shortfalls = Shortfalls(self.plane)
        self._send_errors = SendErrorWatch()
        self._interfaces = Interfaces()
        self.addresses = AddressWatch()
        self._on_ready = on_ready
        self._ending: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self._news = asyncio.Event()
        self._pool_changed = False
        self._changing = asyncio.Lock()
        self._telling = asyncio.Lock()
        self._remembered: tuple[int, frozenset[str]] = (0, frozenset())
        self._upgrading = False
        self._is_followed = False
        self._all_taken = True
        self._tasks: set[asyncio.Task[object]] = set()

    async def run(self) -> int:
        """Run until told to stop. Returns the exit code."""
        config, old_process = self.desired.config, self.origin.old_process
        if old_process is not None:
            old_process.use_its_log()
        logs.configure(config.logging.level, config.logging.format)
        self._log_warnings()
        self._handle_signals()
        self.service.starting()
        try:
            async with self._changing:  # a reload that comes meanwhile waits
                await self._start(config)
        except (OSError, QlbError) as error:
            log.error("cannot start: %s", error)
            if old_process is not None:
                old_process.report_failure(str(error))
            await self._stop()
            return 1
        if config.forwarding.plane == "auto" and (reason := planes.passed_over(self.plane, config.forwarding.mode)):
            log.warning(reason)
        log.info("ready", extra={"listen": ", ".join(map(str, self.listen)), "plane": self.plane})
        if self._on_ready is not None:
            self._on_ready(self)
        self.service.ready()
        await self._ended.wait()
        await self._stop()
        log.info("stopped")
        return 0

    def end(self) -> None:
        """Begin to end: unready at once, gone after shutdown_delay. A second call does not wait."""
        delay_s = self.desired.config.shutdown_delay
        if self._ending is not None or not delay_s:
            self.service.stopping(0)
            self._ended.set()
            return
        self.service.stopping(delay_s)
        log.info("ending", extra={"delay_s": delay_s})
        self._ending = asyncio.get_running_loop().call_later(delay_s, self._ended.set)

    def is_ready(self) -> bool:
        """Whether this node should be sent traffic: it forwards, is not ending, and some backend was found healthy."""
        if self.engine is None or self._ending is not None or self._ended.is_set():
            return False
        if not self.engine.is_fresh or (self.engine.findings is not None and self.engine.findings.is_cut_off):
            return False
        names = (backend.name for backend in self.desired.backends if backend is not None)
        return any(self.health.has_judged(name) and self.health.is_up(name) for name in names)

    def read(self) -> Reading:
        """Return every figure as it is now."""
        return take_reading(self)

    async def reload(self, *, force: bool = False) -> ReloadOutcome:
        """Read the configuration again. One that is wrong, or unsafe now, changes nothing; why is told, and logged.

        force: even where connections that live would be lost.
        """
        return await self.reloads.request(force=force)

    def why_no_reload(self) -> str:
        """Return why nothing can be reloaded now, or ""."""
        if self._upgrading or self._is_followed:
            return "an upgrade is under way; the next process reads the configuration by itself"
        return ""

    async def objections(self, loaded: Loaded) -> Sequence[Objection]:
        """Return what speaks against going over to a configuration now: packets that need what it takes away."""
        await self._note_traffic()
        desired = self.desired
        return await asyncio.to_thread(objections, desired.config, loaded.config, dict(desired.former), self.traffic)

    async def take_over(self, loaded: Loaded) -> TakenOver:
        """Bring a configuration into force everywhere. Raises QlbError, changing nothing."""
        told = await asyncio.to_thread(changes, self.desired.config, loaded.config)
        async with self._changing:
            if why := self.why_no_reload():
                raise QlbError(why)
            self.service.reloading()
            try:
                behind = await self._commit(loaded, is_same=not told)
            finally:
                self.service.ready()
        self._log_warnings()
        if self.engine is not None and self.engine.slots:
            self._shortfalls.check_sessions(loaded.config, len(self.engine.slots))
        return TakenOver(told, tuple(behind))

    async def _commit(self, loaded: Loaded, *, is_same: bool) -> Sequence[str]:
        config, asked = loaded.config, sources(loaded.config)
        if is_same:
            self.desired.take_same(loaded)
        else:
            self.desired.take(loaded)
            logs.configure(config.logging.level, config.logging.format)
            self.health.apply(self.desired.health_config, self.desired.targets)
        self.discovery.apply(asked)
        behind = await self.tell_engine()
        self.history.reloaded(self.desired.generation, everywhere=not behind)
        return behind

    async def drain(self, name: str) -> None:
        """Give a backend no new connections. Raises KeyError where there is none of that name."""
        await self._set_state(name, BackendState.DRAINING)

    async def undrain(self, name: str) -> None:
        """Give a backend new connections again. Raises KeyError where there is none of that name."""
        await self._set_state(name, BackendState.ACTIVE)

    async def upgrade(self) -> UpgradeOutcome:
        """Start what is on disk now, with the configuration as it is now, let it take all sockets over, and end.

        Where it cannot, this process goes on as if nothing had been, and the answer and the log say why.
        """
        refusal = self._why_no_upgrade()
        if refusal:
            log.error("upgrade refused: %s", refusal)
            return UpgradeOutcome(False, os.getpid(), (refusal,))
        self._upgrading = True
        try:
            work = asyncio.create_task(self._upgrade())
            self._tasks.add(work)  # the end of this process ends it, and so the next one
            work.add_done_callback(self._tasks.discard)
            return await asyncio.shield(work)
        finally:
            self._upgrading = self._is_followed

    async def explain(self, datagram: bytes, client: Endpoint) -> dict[str, object]:
        """Ask the plane itself what it would do with a datagram. Raises QlbError where it cannot be asked."""
        if self.engine is None or not self.engine.forwards:
            raise QlbError("nothing is forwarded yet")
        return await self.engine.explain(datagram, client)

    def _why_no_upgrade(self) -> str:
        if self._upgrading:
            return "another upgrade is under way"
        if self.engine is None or not self.engine.forwards or self._ending is not None or self._ended.is_set():
            return "this process is starting or ending"
        if os.getpid() == 1:
            return "this is process 1 of a container, which ends with it: replace the container"
        if not self.origin.command:
            return "the demo servers end with this process: restart it"
        if planes.PLANES[self.plane].in_kernel and not self.desired.config.forwarding.keep_attached:
            return f"plane {self.plane} forwards on without a process only with forwarding.keep_attached: true"
        return ""

    async def _upgrade(self) -> UpgradeOutcome:
        assert self.engine is not None, "it was started"
        log.info("upgrading")
        mode, sessions = self.desired.config.forwarding.mode, total(self.engine.counters, SESSIONS)
        descriptors = Belongings(self.engine, self.admin, self.origin).all
        try:
            async with (
                next_process(self.origin.command, self.service.environ, descriptors) as new_process,
                self._changing,
            ):
                self._remember()
                self._all_taken = await hand_over(new_process, self.engine, self.admin)
        except (OSError, QlbError) as error:
            log.error("upgrade failed; this process goes on: %s", error)
            return UpgradeOutcome(False, os.getpid(), (str(error),))
        self._is_followed = True
        self.origin.memory.close()
        self.admin.give_away()
        self.service.set_main_process(new_process.pid)
        new_process.release()
        log.info("another process has taken over", extra={"pid": new_process.pid})
        self._ended.set()
        return UpgradeOutcome(True, new_process.pid, warnings=upgrade_warnings(mode, sessions))

    async def _set_state(self, name: str, state: BackendState) -> None:
        async with self._changing:
            if self._is_followed:
                raise QlbError("another process has taken over: ask it again")
            self.desired.set_state(name, state)
            behind = await self.tell_engine()
        log.info("backend state set", extra={"backend": name, "state": str(state)})
        if behind:
            raise Incomplete(f"backend {name} is {state}, but not everywhere: {'; '.join(behind)}")

    def _on_health(self, name: str, healthy: bool, detail: str) -> None:
        self.desired.set_health(name, healthy)
        log.log(
            logging.INFO if healthy else logging.WARNING,
            "backend healthy" if healthy else "backend unhealthy",
            extra={"backend": name, "detail": detail},
        )
        self._news.set()

    def _on_found(self, source: str, backends: tuple[Backend, ...]) -> None:
        self.desired.found(source, backends)
        self._pool_changed = True
        self._news.set()

    async def _follow_news(self) -> None:
        """Tell the workers what health and discovery have found; what comes together is told together.

        Compiling takes 0.2 s with 5,000 backends. Under a storm of verdicts it takes a third of the time at most, and
        the verdicts that come in the pauses are compiled together.
        """
        loop = asyncio.get_running_loop()
        while True:
            await self._news.wait()
            self._news.clear()
            began_s = loop.time()
            async with self._changing:
                if self._pool_changed:
                    self._pool_changed = False
                    self.health.apply(self.desired.health_config, self.desired.targets)
                await self.tell_engine()
            await asyncio.sleep(min(2 * (loop.time() - began_s), MAX_NEWS_PAUSE_S))

    async def _follow_traffic(self) -> None:
        while True:
            await self._note_traffic()
            if self.desired.sweep(self.traffic.backend_silence_s):
                self._pool_changed = True
                self._news.set()
            if self.engine is not None:
                self._send_errors.look(self.engine.counters, self._read_rows, self.desired.backends)
                fallback = self.desired.config.fallback
                self.id_use.note(self.desired.backends, self.traffic.rows, has_flows=fallback.flow_table_size > 0)
                before = self.desired.changes
                self._departures.note(self.desired, self.traffic.rows, fallback.flow_timeout, self.engine.applied)
                if self.desired.changes != before:  # there is room again for backends that were left out
                    self._pool_changed = True
                    self._news.set()
            self._follow_interfaces()
            if self.engine is not None and not self.engine.behind and self.history.completed():
                log.info("reload complete", extra={"generation": self.history.generation})
            self._remember()
            self.service.status(self._in_a_line())
            await asyncio.sleep(INTERVAL_S)

    def _follow_interfaces(self) -> None:
        """Have workers resolve link-local backends again, if an interface has appeared or was made anew."""
        self._interfaces.report_lost_listeners()
        if self._interfaces.have_changed(backend.endpoint for backend in self.desired.backends if backend is not None):
            self.desired.touch()
            self._news.set()

    async def _follow_refusals(self) -> None:
        """Have backends that refuse clients' packets probed at once."""
        while self.engine is not None and self.engine.slots:  # in the kernel nothing is refused
            for name in self._refusals.look(self.desired.names):
                self.health.hint(name)
            await asyncio.sleep(REFUSALS_INTERVAL_S)

    async def _follow_addresses(self) -> None:
        """Exclude backends whose address comes to this machine, and take them in again when it has gone."""
        while True:
            await asyncio.sleep(loops.INTERVAL_S)
            if await self.desired.look_for_loops():
                self._pool_changed = True
                self._news.set()

    async def _follow_strangers(self, config: Config) -> None:
        """Look for other processes on the service's addresses; the kernel plane has no sockets there."""
        if self.engine is not None and self.engine.slots:
            own = {os.fstat(sock.fileno()).st_ino for slot in self.engine.slots for sock in slot.listeners}
            await self.addresses.follow(self.listen, own, shared=config.forwarding.shared_listen)

    async def _note_traffic(self) -> None:
        """Note what moves, on a thread: the kernel plane's counters take calls that may wait."""
        self._follow_names()
        with suppress(OSError):  # they could not be read: the next time will do
            await asyncio.to_thread(self.traffic.note, self.desired.names)

    def _read_rows(self) -> Sequence[Row]:
        assert self.engine is not None, "it was started"
        return self.rows.read(self.engine.counters, self.desired.names).by_index

    def _follow_names(self) -> None:
        """Note what an index has counted before it gets packets for a new name."""
        if self.engine is not None:
            with suppress(OSError):
                self.rows.follow(self.engine.counters, self.desired.names)

    async def tell_engine(self) -> Sequence[str]:
        """Have workers do what is wanted now. Changes that come while this compiles are compiled together, next.

        Return what does not forward by it after a while.
        """
        self._remember()
        async with self._telling:
            desired = self.desired
            if self.engine is None:
                return ()  # it will ask for its orders when it starts
            if desired.is_compiled:  # another caller has told it
                if not self.engine.behind:
                    return ()
                return await self.engine.apply(desired.current.orders, desired.current.frame)
            ring = desired.current.orders.snapshot.ring
            compiled = await compile_aside(desired.plan(), desired.next_number, ring)
            desired.take_compiled(compiled)
            self._follow_names()
            return await self.engine.apply(compiled.orders, compiled.frame)

    def _remember(self) -> None:
        """Keep what the next process should know; written only where it has changed."""
        now = self.desired.changes, self.health.judged
        if now != self._remembered:
            self._remembered = now
            self.origin.memory.write(self.desired.remembered(self.health.judged))

    def _in_a_line(self) -> str:
        """Say how the daemon is: for a service manager."""
        backends = [backend for backend in self.desired.backends if backend is not None]
        doing = "forwarding on" if self.engine is not None and self.engine.forwards else "not forwarding on"
        healthy = sum(backend.healthy for backend in backends)
        return (
            f"{doing} {self.plane}; {healthy} of {len(backends)} backends healthy; generation {self.desired.generation}"
        )

    async def _start(self, config: Config) -> None:
        inherited, old_process = self.origin.inherited, self.origin.old_process
        remembered = self.origin.memory.read()
        self.desired.recall(remembered)
        freebind = config.forwarding.freebind
        await self.admin.open(config.admin.listen, config.admin.socket, inherited, freebind=freebind)
        self._shortfalls.check_address("admin.listen", self.admin.address)
        if old_process is None:
            await self.admin.serve()
        if not planes.PLANES[self.plane].in_kernel:
            await check_addresses(config.listen, inherited.inodes, shared=config.forwarding.shared_listen)
        self.engine = self._open_engine(config)
        all_taken = not inherited.close_rest()
        if old_process is None:
            self._store()
        await self.engine.start(paused=old_process is not None)
        if old_process is not None:
            await old_process.wait_for_go()
            remembered = self.origin.memory.read()  # what was said and found meanwhile
            self.desired.recall(remembered)
            if behind := await self.tell_engine():
                raise QlbError("; ".join(behind))
            await self.engine.resume()
            await self.admin.serve()
        self._watch(config, remembered.healthy)
        if old_process is not None:
            await old_process.report_forwarding(all_taken=all_taken)
            self._store()  # now that the manager listens to this process

    def _watch(self, config: Config, verdicts: Mapping[str, bool]) -> None:
        self.health.apply(self.desired.health_config, self.desired.targets)
        self.health.recall(verdicts)
        self.health.start()
        self.discovery.apply(sources(config), self.desired.members.present)
        self._begin(self._follow_news())
        self._begin(self._follow_traffic())
        self._begin(self._follow_refusals())
        self._begin(self.reloads.follow())
        self._begin(self._follow_addresses())
        self._begin(self._follow_strangers(config))
        self._begin(self.service.watch(lambda: self.engine is not None and self.engine.forwards))

    def _store(self) -> None:
        """Have the service manager, if any, keep what the next process needs, and nothing else."""
        assert self.engine is not None, "it is there"
        kept = Belongings(self.engine, self.admin, self.origin).kept
        self.service.remove_stored(self.origin.inherited.stored - {named.name for named in kept})
        self.service.store(kept)

    def _open_engine(self, config: Config) -> Engine:
        """Bind the service's addresses for workers, or leave them to the kernel. Raises OSError."""
        if planes.PLANES[self.plane].in_kernel:
            from qlb.workers.kernel import KernelEngine

            self.listen = config.listen
            return KernelEngine(config, lambda: self.desired.current.orders)
        slots = open_slots(config, self.origin.inherited)
        self.listen = tuple(bound_endpoint(sock) for sock in slots[0].listeners)
        self._interfaces.bound(self.listen)
        for endpoint in self.listen:
            self._shortfalls.check_address("listen", endpoint)
        self.desired.listens(self.listen)
        self._shortfalls.check_buffers(config, slots[0].receive_buffer_bytes, slots[0].send_buffer_bytes)
        self._shortfalls.check_sessions(config, len(slots))
        return Workers(slots, self.plane, lambda: self.desired.current.orders)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.end)
        loop.add_signal_handler(signal.SIGINT, self.end)
        loop.add_signal_handler(signal.SIGHUP, self.reloads.signal)

    def _begin(self, work: Coroutine[object, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.reloads.stop()
        await self.discovery.stop()
        await self.health.stop()
        if self._is_followed and self._all_taken:
            await asyncio.sleep(REPLIES_S)  # a socket that nobody reads there must go at once
        if self.engine is not None:
            await self.engine.stop()
        await self.admin.stop()
        self.origin.inherited.close_rest()
        self.origin.memory.close()

    def _log_warnings(self) -> None:
        for warning in self.desired.warnings:
            log.warning(warning)
