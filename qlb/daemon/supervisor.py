"""The supervisor: the state of one daemon, and the commands that it accepts.

It is not on the packet path: the workers forward while it replaces a worker, reloads or answers an HTTP request. These
are its states and the events that change them:

    STARTING ------> SERVING <------> HANDING_OVER      upgrade() begins; it has failed
        |               |                  |
        |               v                  |
        +---------> DRAINING <-------------+            end(), with a shutdown_delay
        |               |                  |
        |               v                  |
        `---------> STOPPING <-------------'            end(), the end of shutdown_delay, the start has failed,
                        |                               a new process has taken over
                        v
                     STOPPED

Packets are forwarded from the end of STARTING until STOPPING has stopped the engine. A daemon that drains is unready,
so that routers can choose another one. If end() is called during STARTING, the daemon completes its start, then stops.
"""

import asyncio
import logging
import signal
from collections.abc import Callable, Mapping
from enum import Enum, auto
from pathlib import Path
from types import MappingProxyType
from typing import Final

from qlb.addresses import Endpoint
from qlb.admin import Incomplete, ReloadOutcome, UpgradeOutcome
from qlb.config.dump import as_data
from qlb.config.load import Loaded
from qlb.daemon.parts import Parts
from qlb.errors import QlbError
from qlb.handover.protocol import Origin
from qlb.observe import logs
from qlb.routing.backends import BackendState

log = logging.getLogger("qlb")


class State(Enum):
    """The states of a daemon; the module's docstring shows how they follow one another."""

    STARTING = auto()
    SERVING = auto()
    HANDING_OVER = auto()
    DRAINING = auto()
    STOPPING = auto()
    STOPPED = auto()


_NEXT: Final[Mapping[State, frozenset[State]]] = MappingProxyType(
    {
        State.STARTING: frozenset({State.SERVING, State.DRAINING, State.STOPPING}),
        State.SERVING: frozenset({State.HANDING_OVER, State.DRAINING, State.STOPPING}),
        State.HANDING_OVER: frozenset({State.SERVING, State.DRAINING, State.STOPPING}),
        State.DRAINING: frozenset({State.STOPPING}),
        State.STOPPING: frozenset({State.STOPPED}),
        State.STOPPED: frozenset(),
    }
)


class Supervisor:
    """One daemon, from its start to its end."""

    def __init__(
        self,
        path: Path,
        loaded: Loaded,
        on_ready: Callable[["Supervisor"], None] | None = None,
        origin: Origin | None = None,
    ) -> None:
        """path: of the configuration, read again on reload. on_ready: called once, when packets are forwarded.

        origin: what this process inherited. Raises PlaneUnavailable or ConfigError if this machine cannot run it.
        """
        self.state = State.STARTING
        self.parts = Parts(path, loaded, origin or Origin(), self)
        self._on_ready = on_ready
        self._delay: asyncio.TimerHandle | None = None
        self._stops = asyncio.Event()
        """Set in STOPPING and STOPPED."""

    async def run(self) -> int:
        """Run until end() is called, or a new process has taken over. Returns the exit code."""
        parts, old_process = self.parts, self.parts.origin.old_process
        if old_process is not None:
            old_process.use_its_log()
        logs.configure(parts.desired.config.logging.level, parts.desired.config.logging.format)
        for warning in parts.desired.warnings:
            log.warning(warning)
        self._handle_signals()
        parts.service.starting()
        try:
            await parts.start()
        except (OSError, QlbError) as error:
            log.error("cannot start", extra={"reason": str(error)})
            if old_process is not None:
                old_process.report_failure(str(error))
            await self._stop()
            return 1
        if self.state is State.STARTING:
            self._enter(State.SERVING)
        # Its first probes take a moment, so /readyz is usually 503 here.
        readyz = {} if parts.is_ready() else {"readyz": "503 until a backend answers"}
        log.info("ready", extra={"listen": ", ".join(map(str, parts.listen)), "plane": parts.plane, **readyz})
        if self._on_ready is not None:
            self._on_ready(self)
        parts.service.ready()
        await self._stops.wait()
        await self._stop()
        log.info("stopped")
        return 0

    def end(self) -> None:
        """End the daemon, after it has drained for shutdown_delay. A second call ends the delay."""
        delay_s = self.parts.desired.config.shutdown_delay
        if self.is_ending or not delay_s:
            self.parts.service.stopping(0)
            self._begin_to_stop()
            return
        self._enter(State.DRAINING)
        self.parts.service.stopping(delay_s)
        log.info("ending", extra={"delay_s": delay_s})
        self._delay = asyncio.get_running_loop().call_later(delay_s, self._begin_to_stop)

    @property
    def is_serving(self) -> bool:
        """True after the start, unless the daemon ends or hands over."""
        return self.state is State.SERVING

    @property
    def is_ending(self) -> bool:
        """True if the daemon drains, stops or has stopped."""
        return self.state in (State.DRAINING, State.STOPPING, State.STOPPED)

    async def reload(self, *, force: bool = False) -> ReloadOutcome:
        """Read the configuration again. An invalid or unsafe one changes nothing; outcome and log give the reasons.

        force: reload even if live connections would break.
        """
        return await self.parts.reloads.request(force=force)

    async def drain(self, name: str) -> None:
        """Give a backend no new connections. Raises KeyError if no backend has that name, and QlbError."""
        await self._set_state(name, BackendState.DRAINING)

    async def undrain(self, name: str) -> None:
        """Give a backend new connections again. Raises KeyError if no backend has that name, and QlbError."""
        await self._set_state(name, BackendState.ACTIVE)

    async def explain(self, datagram: bytes, client: Endpoint) -> dict[str, object]:
        """Return the plane's decision on a datagram. Raises QlbError if the plane cannot be asked."""
        engine = self.parts.engine
        if engine is None or not engine.forwards:
            raise QlbError("the daemon does not forward yet")
        return await engine.explain(datagram, client)

    async def configuration(self, *, with_defaults: bool) -> dict[str, object]:
        """Return the configuration in force without secrets, and its generation. with_defaults: with every key."""
        desired = self.parts.desired
        generation, config = desired.generation, desired.config
        data = await asyncio.to_thread(as_data, config, with_defaults=with_defaults)  # 65,536 backends take long
        return {"generation": generation, "config": data}

    async def upgrade(self) -> UpgradeOutcome:
        """Hand over to a new process that runs the program on disk. If it fails, this process continues."""
        return await self.parts.upgrade.request()

    def handover_begins(self) -> None:
        """Note that the new process is being started."""
        self._enter(State.HANDING_OVER)

    def handover_ends(self, *, is_replaced: bool) -> None:
        """Note that the new process has taken over, or that this one continues."""
        if is_replaced:
            self._begin_to_stop()
        elif self.state is State.HANDING_OVER:  # not if end() was called during the handover
            self._enter(State.SERVING)

    async def _set_state(self, name: str, state: BackendState) -> None:
        behind = await self.parts.changes.set_state(name, state)
        log.info("backend state set", extra={"backend": name, "state": str(state)})
        if behind:
            raise Incomplete(f"backend {name} is {state}, but not everywhere: {'; '.join(behind)}")

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.end)
        loop.add_signal_handler(signal.SIGINT, self.end)
        loop.add_signal_handler(signal.SIGHUP, self.parts.reloads.signal)

    def _enter(self, state: State) -> None:
        if state not in _NEXT[self.state]:
            raise RuntimeError(f"a daemon cannot go from {self.state.name} to {state.name}")
        self.state = state

    def _begin_to_stop(self) -> None:
        if not self._stops.is_set():
            self._enter(State.STOPPING)
            self._stops.set()

    async def _stop(self) -> None:
        self._begin_to_stop()
        if self._delay is not None:
            self._delay.cancel()
        await self.parts.stop()
        self._enter(State.STOPPED)
