"""Periodic work of the daemon: metering, and checks of this machine's addresses and interfaces."""

import asyncio
import logging
import os
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from qlb.addresses import Endpoint
from qlb.config.load import Loaded
from qlb.daemon import reload
from qlb.daemon.guard import Objection, objections
from qlb.daemon.history import History
from qlb.daemon.meter import IdUse, SendErrorWatch
from qlb.daemon.reload import Changes, note_names
from qlb.daemon.rows import Departures, Row
from qlb.daemon.shown_ids import ShownIds
from qlb.daemon.traffic import INTERVAL_S, REFUSALS_INTERVAL_S, Refusals, Traffic
from qlb.handover.processes import AddressWatch
from qlb.local_addresses import interface_index
from qlb.routing.counters import Counters

log = logging.getLogger("qlb")

LOCAL_INTERVAL_S: Final = 3.0
"""The time between two checks of the machine's addresses. A check takes some 15 µs for each backend's address."""


class Daemon(reload.Daemon, Protocol):
    """A daemon with periodic work."""

    history: History
    changes: Changes
    traffic: Traffic
    id_use: IdUse
    shown_ids: ShownIds
    addresses: AddressWatch
    plane: str
    listen: tuple[Endpoint, ...]


class Tasks:
    """Coroutines that run until stop()."""

    def __init__(self) -> None:
        """Start without coroutines."""
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, *work: Coroutine[object, None, None]) -> None:
        """Run coroutines from now on."""
        self._tasks += map(asyncio.create_task, work)

    async def stop(self) -> None:
        """Cancel all coroutines and wait for their end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class Metering:
    """The reading of the shared counters: rates, silences, send errors, departed backends, refused packets."""

    def __init__(self, daemon: Daemon) -> None:
        """daemon: the one whose counters are read."""
        self._daemon = daemon
        self._departures = Departures()
        self._refusals = Refusals(self._counters)
        self._send_errors = SendErrorWatch()
        self._tasks = Tasks()
        self.interfaces = Interfaces()

    def start(self) -> None:
        """Start to read the counters: once a second, and for refused packets five times a second."""
        self._tasks.begin(self._follow_traffic(), self._follow_refusals())

    async def stop(self) -> None:
        """Stop to read the counters."""
        await self._tasks.stop()

    async def note_traffic(self) -> None:
        """Read the counters in a thread, because the kernel plane's calls may block."""
        note_names(self._daemon)
        with suppress(OSError):  # the kernel did not return its counters; the next reading follows
            await asyncio.to_thread(self._daemon.traffic.note, self._daemon.desired.names)

    async def objections(self, loaded: Loaded) -> Sequence[Objection]:
        """Return the objections against a configuration: packets that need something that it removes."""
        await self.note_traffic()
        desired, traffic = self._daemon.desired, self._daemon.traffic
        return await asyncio.to_thread(objections, desired.config, loaded.config, dict(desired.former), traffic)

    async def _follow_traffic(self) -> None:
        while True:
            await self.note_traffic()
            self._note_departures()
            self._check_bounds()
            self._note_interfaces()
            self._report()
            await asyncio.sleep(INTERVAL_S)

    def _note_departures(self) -> None:
        """Evaluate the last reading: removed backends, free indexes, send errors, packets without an ID."""
        daemon, desired = self._daemon, self._daemon.desired
        silence_s = daemon.traffic.backend_silence_s
        if desired.members.quiet(silence_s, desired.config.drain.quiet_period):
            daemon.changes.note(lambda wanted: wanted.sweep(silence_s))
        if daemon.engine is None:
            return
        rows, fallback = daemon.traffic.rows, desired.config.fallback
        self._send_errors.look(daemon.engine.counters, self._read_rows, desired.backends)
        daemon.id_use.note(desired.backends, rows, has_flows=fallback.flow_table_size > 0)
        daemon.shown_ids.note(daemon.engine.counters, desired.backends, desired.names, desired.changes)
        if daemon.changes.lock.locked():
            return  # a copy of the state is being prepared, and must not miss a change of the indexes
        room = desired.room
        self._departures.note(desired, rows, fallback.flow_timeout, daemon.engine.applied)
        if desired.lacks_room and desired.room > room:
            daemon.changes.note(lambda wanted: wanted.rearrange())

    def _check_bounds(self) -> None:
        """Compare the last reading with the bounds of notices."""
        slots = self._daemon.engine.slots if self._daemon.engine is not None else ()
        dropped = sum(counter.read() or 0 for slot in slots for counter in slot.drops)
        self._daemon.traffic.check_bounds(kernel_dropped=dropped)

    def _note_interfaces(self) -> None:
        """Have workers resolve link-local backends again if an interface was added or replaced."""
        self.interfaces.report_lost_listeners()
        backends = self._daemon.desired.backends
        if self.interfaces.have_changed(backend.endpoint for backend in backends if backend is not None):
            self._daemon.changes.note(lambda wanted: wanted.touch())

    def _report(self) -> None:
        """Report the end of an incomplete reload, store the state for the next process, and update the status line."""
        daemon = self._daemon
        if daemon.engine is not None and not daemon.engine.behind and daemon.history.completed():
            log.info("reload complete", extra={"generation": daemon.history.generation})
        daemon.remember()
        backends = [backend for backend in daemon.desired.backends if backend is not None]
        forwards = "forwarding on" if daemon.engine is not None and daemon.engine.forwards else "not forwarding on"
        healthy = f"{sum(backend.healthy for backend in backends)} of {len(backends)} backends healthy"
        daemon.service.status(f"{forwards} {daemon.plane}; {healthy}; generation {daemon.desired.generation}")

    async def _follow_refusals(self) -> None:
        """Have a backend probed at once when it refuses clients' packets."""
        daemon = self._daemon
        while daemon.engine is not None and daemon.engine.slots:  # the kernel plane has no refused packets
            for name in self._refusals.look(daemon.desired.names):
                daemon.health.hint(name)
            await asyncio.sleep(REFUSALS_INTERVAL_S)

    def _counters(self) -> Sequence[Counters]:
        return self._daemon.engine.counters if self._daemon.engine is not None else ()

    def _read_rows(self) -> Sequence[Row]:
        return self._daemon.rows.read(self._counters(), self._daemon.desired.names).by_index


class AddressChecks:
    """The checks of this machine's addresses: backends that are this daemon, other processes on the same address."""

    def __init__(self, daemon: Daemon) -> None:
        """daemon: the one whose backends and service addresses are checked."""
        self._daemon = daemon
        self._tasks = Tasks()

    def start(self) -> None:
        """Start to check."""
        self._tasks.begin(self._follow_local(), self._follow_strangers())

    async def stop(self) -> None:
        """Stop to check."""
        await self._tasks.stop()

    async def _follow_local(self) -> None:
        """Exclude backends whose address is added to this machine; include them again when it is removed."""
        while True:
            await asyncio.sleep(LOCAL_INTERVAL_S)
            if changed := await self._daemon.desired.loops.check():
                self._daemon.changes.note(lambda wanted, changed=changed: wanted.note_local(changed))  # type: ignore[misc]

    async def _follow_strangers(self) -> None:
        """Look for other processes on the service's addresses. The kernel plane has no sockets there."""
        daemon = self._daemon
        if daemon.engine is not None and daemon.engine.slots:
            own = {os.fstat(sock.fileno()).st_ino for slot in daemon.engine.slots for sock in slot.listeners}
            shared = daemon.desired.config.forwarding.shared_listen
            await daemon.addresses.follow(daemon.listen, own, shared=shared)


class Interfaces:
    """The numbers of the interfaces that link-local backends and listeners depend on."""

    def __init__(self) -> None:
        """Start without interfaces."""
        self._of_backends: dict[str, int] = {}
        self._of_listeners: dict[str, int] = {}
        self._reported: set[str] = set()

    def bound(self, listeners: Iterable[Endpoint]) -> None:
        """Note the interfaces that listeners were bound to just now."""
        self._of_listeners = _numbers(listeners)

    def have_changed(self, backends: Iterable[Endpoint]) -> bool:
        """Return whether an interface of backends has another number than at the last call."""
        before, self._of_backends = self._of_backends, _numbers(backends)
        return any(before.get(scope, number) != number for scope, number in self._of_backends.items())

    def report_lost_listeners(self) -> None:
        """Log, once, each interface that was removed or created again since a listener was bound to it."""
        for scope, number in self._of_listeners.items():
            if scope not in self._reported and _number(scope) != number:
                self._reported.add(scope)
                log.warning(
                    "listen: the interface %s was removed or created again; restart qlb to receive on it",
                    scope,
                )


def _numbers(endpoints: Iterable[Endpoint]) -> dict[str, int]:
    scopes = {endpoint.host.partition("%")[2] for endpoint in endpoints if "%" in endpoint.host}
    return {scope: _number(scope) for scope in scopes}


def _number(scope: str) -> int:
    """Return the number of an interface; 0 if it does not exist."""
    try:
        return interface_index(scope)
    except OSError:
        return 0
