"""The supervisor: owns the configuration, the sockets, health, the admin server and the workers' lives.

It is off the packet path: while it restarts a worker, reloads or answers a scrape, the workers forward. It
ends on SIGTERM or SIGINT, after being unready for shutdown_delay so that routers can look elsewhere.
"""

import asyncio
import logging
import signal
import socket
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path

from qlb.config.changes import changes
from qlb.config.load import Loaded
from qlb.config.model import Config
from qlb.control.admin import AdminServer, ReloadOutcome
from qlb.control.engine import Engine
from qlb.control.guard import ReloadRefused
from qlb.control.preflight import preflight, usable_cores
from qlb.control.reading import History, take_reading
from qlb.control.reload import Desired
from qlb.control.traffic import INTERVAL_S, Traffic
from qlb.control.workers import Place, Workers
from qlb.dataplane import probe
from qlb.dataplane.limits import descriptor_shortfall, port_shortfall, read_limits
from qlb.dataplane.sockets import (
    bound_endpoint,
    granted_receive_buffer,
    open_listener,
    receive_buffer_shortfall,
)
from qlb.errors import QlbError
from qlb.health.monitor import HealthMonitor
from qlb.observe import logs
from qlb.observe.reading import Reading
from qlb.routing.backends import BackendState, Endpoint

log = logging.getLogger("qlb")


class Supervisor:
    """One daemon."""

    def __init__(self, path: Path, loaded: Loaded, on_ready: Callable[["Supervisor"], None] | None = None) -> None:
        """path: of the configuration, read again on reload. on_ready: called once, when packets are forwarded.

        Raises what preflight() raises.
        """
        self.plane = preflight(loaded.config)
        self.desired = Desired(path, loaded)
        self.history = History()
        self.listen: tuple[Endpoint, ...] = ()
        self.health = HealthMonitor(self._on_health)
        self.admin = AdminServer(self.read, self.is_ready, self)
        self.engine: Engine | None = None
        self.traffic = Traffic(lambda: self.engine.counters if self.engine is not None else ())
        self._told: set[str | None] = set()
        self._on_ready = on_ready
        self._ending: asyncio.TimerHandle | None = None
        self._ended = asyncio.Event()
        self._verdicts = asyncio.Event()
        self._changing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        """Run until told to stop. Returns the exit code."""
        config = self.desired.config
        logs.configure(config.logging.level, config.logging.format)
        self._log_warnings()
        self._handle_signals()
        try:
            async with self._changing:  # a reload that comes meanwhile waits
                await self._start(config)
        except (OSError, QlbError) as error:
            log.error("cannot start: %s", error)
            await self._stop()
            return 1
        if config.forwarding.plane == "auto" and (reason := probe.passed_over(self.plane, config.forwarding.mode)):
            log.warning(reason)
        log.info("ready", extra={"listen": ", ".join(map(str, self.listen)), "plane": self.plane})
        if self._on_ready is not None:
            self._on_ready(self)
        await self._ended.wait()
        await self._stop()
        log.info("stopped")
        return 0

    def end(self) -> None:
        """Begin to end: unready at once, gone after shutdown_delay. A second call does not wait."""
        delay_s = self.desired.config.shutdown_delay
        if self._ending is not None or not delay_s:
            self._ended.set()
            return
        log.info("ending", extra={"delay_s": delay_s})
        self._ending = asyncio.get_running_loop().call_later(delay_s, self._ended.set)

    def is_ready(self) -> bool:
        """Whether this node should be sent traffic: it forwards, is not ending, and some backend was found healthy."""
        if self.engine is None or self._ending is not None or self._ended.is_set():
            return False
        if not self.engine.forwards:
            return False
        names = [backend.name for backend in self.desired.backends if backend is not None]
        return any(self.health.has_judged(name) and self.health.is_up(name) for name in names)

    def read(self) -> Reading:
        """Return every figure as it is now."""
        return take_reading(self)

    async def reload(self, *, force: bool = False) -> ReloadOutcome:
        """Read the configuration again. One that is wrong, or unsafe now, changes nothing; why is told, and logged.

        force: even where connections that live would be lost.
        """
        async with self._changing:
            before = self.desired.config
            try:
                await self._note_traffic()
                self.desired.reload(None if force else self.traffic)
            except QlbError as error:
                self.history.reload_failed()
                problems = getattr(error, "problems", (str(error),))
                log.error("reload refused: %s", "; ".join(problems))
                unsafe = isinstance(error, ReloadRefused)
                return ReloadOutcome(False, self.desired.generation, problems, unsafe=unsafe)
            config = self.desired.config
            logs.configure(config.logging.level, config.logging.format)
            self.health.apply(config.health, self.desired.targets)
            await self._tell_engine()
            self.history.reloaded(self.desired.generation)
        self._log_warnings()
        if self.engine is not None and self.engine.places:
            self._check_limits(config, len(self.engine.places))
        told = changes(before, config)
        log.info(
            "reloaded",
            extra={
                "generation": self.desired.generation,
                "changes": "; ".join(told) or "none",
                **({"forced": True} if force else {}),
            },
        )
        return ReloadOutcome(True, self.desired.generation, warnings=self.desired.warnings, changes=told)

    async def drain(self, name: str) -> None:
        """Give a backend no new connections. Raises KeyError where there is none of that name."""
        await self._set_state(name, BackendState.DRAINING)

    async def undrain(self, name: str) -> None:
        """Give a backend new connections again. Raises KeyError where there is none of that name."""
        await self._set_state(name, BackendState.ACTIVE)

    async def explain(self, datagram: bytes, client: Endpoint) -> dict[str, object]:
        """Ask the plane itself what it would do with a datagram. Raises QlbError where it cannot be asked."""
        if self.engine is None or not self.engine.forwards:
            raise QlbError("nothing is forwarded yet")
        return await self.engine.explain(datagram, client)

    async def _set_state(self, name: str, state: BackendState) -> None:
        async with self._changing:
            self.desired.set_state(name, state)
            await self._tell_engine()
        log.info("backend state set", extra={"backend": name, "state": str(state)})

    def _on_health(self, name: str, healthy: bool, detail: str) -> None:
        self.desired.set_health(name, healthy)
        log.log(
            logging.INFO if healthy else logging.WARNING,
            "backend healthy" if healthy else "backend unhealthy",
            extra={"backend": name, "detail": detail},
        )
        self._verdicts.set()

    async def _follow_verdicts(self) -> None:
        """Tell the workers of health's verdicts; those that come together are told together."""
        while True:
            await self._verdicts.wait()
            self._verdicts.clear()
            async with self._changing:
                await self._tell_engine()

    async def _follow_traffic(self) -> None:
        while True:
            await self._note_traffic()
            await asyncio.sleep(INTERVAL_S)

    async def _note_traffic(self) -> None:
        """Note what moves, on a thread: the kernel plane's counters take calls that may wait."""
        with suppress(OSError):  # they could not be read: the next time will do
            await asyncio.to_thread(self.traffic.note, self.desired.names)

    async def _tell_engine(self) -> None:
        if self.engine is not None:  # else it will ask for its orders when it starts
            await self.engine.apply(self.desired.orders)

    async def _start(self, config: Config) -> None:
        await self.admin.start(config.admin.listen, config.admin.socket)
        self.engine = self._open_engine(config)
        await self.engine.start()
        self.health.apply(config.health, self.desired.targets)
        self.health.start()
        self._begin(self._follow_verdicts())
        self._begin(self._follow_traffic())

    def _open_engine(self, config: Config) -> Engine:
        """Bind the service's addresses for workers, or leave them to the kernel. Raises OSError."""
        if probe.PLANES[self.plane].in_kernel:
            from qlb.control.kernel import KernelEngine

            self.listen = config.listen
            return KernelEngine(config, lambda: self.desired.orders)
        places = open_places(config)
        self.listen = tuple(bound_endpoint(sock) for sock in places[0].listeners)
        self._check_buffers(places[0])
        self._check_limits(config, len(places))
        return Workers(places, self.plane, lambda: self.desired.orders)

    def _check_buffers(self, place: Place) -> None:
        """Warn, once, where the system grants less than was asked for; all sockets are granted the same."""
        granted = min(map(granted_receive_buffer, place.listeners))
        shortfall = receive_buffer_shortfall(self.desired.config.forwarding.receive_buffer, granted)
        if shortfall is not None:
            log.warning(shortfall)

    def _check_limits(self, config: Config, workers: int) -> None:
        """Tell where the system allows fewer sessions than max_sessions; again only when that has changed."""
        limits, forwarding = read_limits(), config.forwarding
        descriptors = descriptor_shortfall(forwarding.max_sessions, limits)
        uses = len(config.backends) if probe.PLANES[self.plane].shares_ports else 1
        ports = port_shortfall(forwarding.max_sessions, workers, max(uses, 1), limits)
        # A bound that nobody has asked for is above the ports of every Linux as it comes: no reason to warn.
        port_level = logging.WARNING if "max_sessions" in forwarding.model_fields_set else logging.INFO
        told, self._told = self._told, {descriptors, ports}
        for level, text in ((logging.WARNING, descriptors), (port_level, ports)):
            if text is not None and text not in told:
                log.log(level, text)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.end)
        loop.add_signal_handler(signal.SIGINT, self.end)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._begin(self._reload_once()))

    async def _reload_once(self) -> None:
        await self.reload()

    def _begin(self, work: Coroutine[object, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.health.stop()
        if self.engine is not None:
            await self.engine.stop()
        await self.admin.stop()

    def _log_warnings(self) -> None:
        for warning in self.desired.warnings:
            log.warning(warning)


def open_places(config: Config) -> list[Place]:
    """Bind every service address once for each worker. Raises OSError where one cannot be bound."""
    cores = usable_cores()
    wanted = config.forwarding.workers
    count = len(cores) if wanted == "auto" else wanted
    rows: list[list[socket.socket]] = []
    try:
        endpoints = list(config.listen)
        for _ in range(count):
            rows.append([])
            for endpoint in endpoints:
                rows[-1].append(open_listener(endpoint, config.forwarding.receive_buffer))
            endpoints = [bound_endpoint(sock) for sock in rows[0]]  # port 0 is one port for all workers
    except OSError as error:
        for sock in [sock for row in rows for sock in row]:
            sock.close()
        raise OSError(error.errno, f"cannot listen on {endpoints[len(rows[-1])]}: {error.strerror}") from error
    pinned = config.forwarding.pin_workers
    return [Place(number, row, cores[number % len(cores)] if pinned else None) for number, row in enumerate(rows)]
