"""All parts of one daemon, and the order in which they start and stop.

Other modules of this room state what they need of it as a protocol named `Daemon`.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from qlb import default_socket
from qlb.addresses import Endpoint
from qlb.admin import AdminServer, Control
from qlb.config.load import Loaded
from qlb.config.model import Config
from qlb.daemon.desired import Desired
from qlb.daemon.history import History
from qlb.daemon.meter import IdUse
from qlb.daemon.periodic import AddressChecks, Metering
from qlb.daemon.preflight import Shortfalls, preflight, sources
from qlb.daemon.reading import take_reading
from qlb.daemon.reload import Changes, health_config, probe_targets
from qlb.daemon.reload_requests import Reloads
from qlb.daemon.rows import BackendRows
from qlb.daemon.shown_ids import ShownIds
from qlb.daemon.traffic import Traffic
from qlb.daemon.upgrade import REPLIES_S, Belongings, Life, Upgrade
from qlb.dataplane import planes
from qlb.dataplane.sockets import bound_endpoint
from qlb.discovery.watch import Discovery
from qlb.errors import QlbError
from qlb.handover.processes import AddressWatch, check_addresses
from qlb.handover.protocol import Origin
from qlb.handover.systemd import Service
from qlb.health.monitor import HealthMonitor
from qlb.health.probes import find_probe
from qlb.observe.figures import Reading
from qlb.workers.engine import Engine
from qlb.workers.pool import Workers
from qlb.workers.slots import open_slots

log = logging.getLogger("qlb")


class Owner(Control, Life, Protocol):
    """The supervisor: it runs commands and has the state."""

    @property
    def is_ending(self) -> bool:
        """True if the daemon drains, stops or has stopped."""


class Parts:
    """The parts of one daemon: created, started once, stopped once."""

    def __init__(self, path: Path, loaded: Loaded, origin: Origin, owner: Owner) -> None:
        """path: of the configuration. origin: what this process inherited. Raises as preflight() does."""
        self._owner = owner
        self.origin = origin
        self.plane = preflight(loaded)
        self.desired = Desired(loaded)
        self.history = History()
        self.listen: tuple[Endpoint, ...] = ()
        self.engine: Engine | None = None
        self.shortfalls = Shortfalls(self.plane)
        self.service = Service(origin.notifier)
        self.rows = BackendRows()
        self.traffic = Traffic(lambda: self.engine.counters if self.engine is not None else (), self.rows)
        self.id_use = IdUse()
        self.addresses = AddressWatch()
        self.changes = Changes(self)
        self.health = HealthMonitor(self.changes.note_verdict, traffic=self.traffic.exchanged)
        self.shown_ids = ShownIds(self.health)
        self.discovery = Discovery(self.changes.note_update)
        self.metering = Metering(self)
        self.address_checks = AddressChecks(self)
        self.reloads = Reloads(path, self.changes, self.metering.objections)
        self.admin = AdminServer(self.read, self.is_ready, owner, configuration=path)
        self.upgrade = Upgrade(self, owner)
        self._remembered: tuple[int, frozenset[str], dict[str, bool]] = (0, frozenset(), {})
        self._watchdog: asyncio.Task[None] | None = None

    def is_ready(self) -> bool:
        """Return whether this node should receive traffic: it forwards, does not end, and has a healthy backend."""
        if self.engine is None or self._owner.is_ending:
            return False
        if not self.engine.is_fresh or (self.engine.findings is not None and self.engine.findings.is_cut_off):
            return False
        names = (backend.name for backend in self.desired.backends if backend is not None)
        return any(self.health.is_serving(name) for name in names)

    def read(self) -> Reading:
        """Return every figure as it is now."""
        return take_reading(self)

    def remember(self) -> None:
        """Write what the next process needs, if it has changed."""
        now = self.desired.changes, self.health.judged, dict(self.changes.verdicts)
        if now != self._remembered:
            self._remembered = now
            self.origin.memory.write(self.desired.remembered(*now[1:]))

    async def start(self) -> None:
        """Start everything; take over from the old process if there is one. Return when packets are forwarded.

        A change that is requested before that waits for the end of the start. Raises OSError or QlbError.
        """
        async with self.changes.lock:
            await self._start(self.desired.config)

    async def _start(self, config: Config) -> None:
        inherited, old_process = self.origin.inherited, self.origin.old_process
        remembered = self.origin.memory.read()
        self.desired.recall(remembered)
        await asyncio.to_thread(find_probe, config.health.probe)  # imports its library, which can take 0.2 s
        await self._open_admin(config)
        self.shortfalls.check_address("admin.listen", self.admin.address)
        if old_process is None:
            await self.admin.serve()
        if not planes.PLANES[self.plane].in_kernel:
            await check_addresses(config.listen, inherited.inodes, shared=config.forwarding.shared_listen)
        self.engine = self._open_engine(config)
        all_taken = not inherited.close_rest()
        belongings = Belongings(self.engine, self.admin, self.origin)
        if old_process is None:
            belongings.store(self.service)
        await self.engine.start(paused=old_process is not None)
        if old_process is not None:
            await old_process.wait_for_go()
            remembered = self.origin.memory.read()  # the old process has written to it until now
            if behind := await self.changes.make_locked(lambda wanted: wanted.recall(remembered)):
                raise QlbError("; ".join(behind))
            await self.engine.resume()
            await self.admin.serve()
        self._start_watching(config, remembered.healthy)
        if old_process is not None:
            await old_process.report_forwarding(all_taken=all_taken)
            belongings.store(self.service)  # from now on the manager accepts messages of this process
        if config.forwarding.plane == "auto" and (reason := planes.passed_over(self.plane, config.forwarding.mode)):
            log.warning(reason)

    async def _open_admin(self, config: Config) -> None:
        """Open the admin server. A default control socket that cannot be opened is no reason to fail."""
        wanted = config.admin.socket
        path = wanted if isinstance(wanted, Path) else default_socket.choose(os.environ) if wanted is None else None
        if path is None and wanted is None:
            reason = "neither /run/qlb nor $XDG_RUNTIME_DIR can be written; set admin.socket"
            log.info("no control socket", extra={"reason": reason})
        await self.admin.open(
            config.admin.listen,
            path,
            self.origin.inherited,
            freebind=config.forwarding.freebind,
            needs_socket=wanted is not None,
        )

    def _open_engine(self, config: Config) -> Engine:
        """Bind the service's addresses for workers, or create the kernel's engine. Raises OSError."""
        if planes.PLANES[self.plane].in_kernel:
            from qlb.workers.kernel import KernelEngine

            self.listen = config.listen
            return KernelEngine(config, lambda: self.desired.current.orders)
        slots = open_slots(config, self.origin.inherited)
        self.listen = tuple(bound_endpoint(sock) for sock in slots[0].listeners)
        self.metering.interfaces.bound(self.listen)
        for endpoint in self.listen:
            self.shortfalls.check_address("listen", endpoint)
        self.desired.listens(self.listen)
        self.shortfalls.check_buffers(config, slots[0].receive_buffer_bytes, slots[0].send_buffer_bytes)
        self.shortfalls.check_sessions(config, len(slots))
        return Workers(slots, self.plane, lambda: self.desired.current.orders)

    def _start_watching(self, config: Config, verdicts: Mapping[str, bool]) -> None:
        """Start everything that changes the wanted state. verdicts: of an earlier process, by backend name."""
        self.health.apply(health_config(config), probe_targets(self.desired))
        self.health.recall(verdicts)
        self.health.start()
        self.discovery.apply(sources(config), self.desired.members.present)
        self.changes.start()
        self.metering.start()
        self.reloads.start()
        self.address_checks.start()
        self._watchdog = asyncio.create_task(
            self.service.watch(lambda: self.engine is not None and self.engine.forwards)
        )

    async def stop(self) -> None:
        """Stop everything that has started: first the sources of changes, then the engine and the admin server."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        for part in (self.upgrade, self.changes, self.metering, self.address_checks, self.reloads):
            await part.stop()
        await self.discovery.stop()
        await self.health.stop()
        if self.upgrade.all_taken:
            await asyncio.sleep(REPLIES_S)  # not otherwise: a socket that the new process does not read must close now
        if self.engine is not None:
            await self.engine.stop()
        await self.admin.stop()
        self.origin.inherited.close_rest()
        self.origin.memory.close()
