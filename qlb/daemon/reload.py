"""Put changes of the wanted state in force, in two steps: prepare and commit.

All changes take the same way, one after the other:

    SIGHUP, qlb reload, POST /reload, a changed file
      -> reload_requests.py: read the files, look for objections ---.
    qlb drain, qlb undrain ----------------------------------------+-> prepare (slow, changes nothing) -> commit (short)
    health verdicts, discovery updates, changed addresses           |
      -> Changes.note(): wait for the next change, at most 1 s ----'

`prepare` changes a copy of the wanted state and compiles it off the event loop. If it raises, nothing has changed.
`commit` puts the copy in force. None of its steps can fail, and none needs the result of another.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from qlb.cid import CidCodec
from qlb.config import build
from qlb.config.load import Loaded
from qlb.config.model import Config
from qlb.daemon.compiling import compile_aside
from qlb.daemon.desired import Desired
from qlb.daemon.preflight import Shortfalls
from qlb.daemon.rows import BackendRows
from qlb.discovery.source import Source
from qlb.discovery.watch import Discovery
from qlb.errors import QlbError
from qlb.handover.systemd import Service
from qlb.health.monitor import HealthConfig, HealthMonitor
from qlb.health.probe import Pool, Target
from qlb.observe import logs
from qlb.routing.backends import Backend, BackendState
from qlb.workers.engine import Engine

log = logging.getLogger("qlb")

MAX_PAUSE_S: Final = 1.0
"""The longest pause between two snapshots that health and discovery cause."""

Step = Callable[[Desired], object]
"""A change of the wanted state, applied to a copy: `lambda wanted: wanted.set_health("a", False)`."""


class History(Protocol):
    """The record of accepted configurations."""

    def reloaded(self, generation: int, *, everywhere: bool = True) -> None:
        """Note an accepted configuration. everywhere: True if every worker has applied it."""


class Daemon(Protocol):
    """The parts of a daemon that a change concerns."""

    desired: Desired
    engine: Engine | None
    health: HealthMonitor
    discovery: Discovery
    rows: BackendRows
    service: Service
    shortfalls: Shortfalls

    @property
    def history(self) -> History:
        """The record of accepted configurations."""

    def remember(self) -> None:
        """Write what the next process needs, if it has changed."""


@dataclass(frozen=True, slots=True)
class Configuration:
    """A valid configuration, to be put in force. changes: its differences from the one in force; empty for none.

    sources: new ones, one for each entry of `discovery`.
    """

    loaded: Loaded
    changes: tuple[str, ...]
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A compiled state, ready to be committed.

    is_new: the workers need new orders. targets: of probes, by backend name; None if they stay as they are.
    configuration: the one that a reload puts in force; None for any other change.
    """

    desired: Desired
    is_new: bool
    targets: Mapping[str, Target] | None
    configuration: Configuration | None


async def prepare(running: Desired, steps: Sequence[Step], configuration: Configuration | None = None) -> Candidate:
    """Apply steps and a configuration to a copy of the running state, and compile it. Nothing else changes.

    Raises QlbError if the configuration has too many backends, and whatever a step raises.
    """
    wanted = running.copy()
    for step in steps:
        step(wanted)
    if configuration is not None:
        wanted.configure(configuration.loaded, is_same=not configuration.changes)
    is_new = not wanted.is_compiled
    if is_new:
        ring = running.current.orders.snapshot.ring
        wanted.set_compiled(await compile_aside(wanted.plan(), wanted.next_number, ring))
    is_probed_anew = wanted.has_other_backends(running) or bool(configuration and configuration.changes)
    return Candidate(wanted, is_new, probe_targets(wanted) if is_probed_anew else None, configuration)


async def commit(daemon: Daemon, candidate: Candidate) -> Sequence[str]:
    """Put a candidate in force. Return what does not forward by it after a while, one sentence each."""
    desired, configuration = candidate.desired, candidate.configuration
    daemon.desired = desired
    if candidate.targets is not None:
        daemon.health.apply(health_config(desired.config), candidate.targets)
    if configuration is not None:
        if configuration.changes:  # otherwise the rate limits of the log continue
            logs.configure(desired.config.logging.level, desired.config.logging.format)
        daemon.discovery.apply(configuration.sources)
    daemon.remember()
    note_names(daemon)
    if daemon.engine is None or not (candidate.is_new or daemon.engine.behind):
        return ()
    return await daemon.engine.apply(desired.current.orders, desired.current.frame)


def health_config(config: Config) -> HealthConfig:
    """Return the rules of the health monitor, from the section ``health`` of the configuration."""
    health = config.health
    return HealthConfig(
        probe=health.probe,
        interval_s=health.interval,
        timeout_s=health.timeout,
        rise=health.rise,
        fall=health.fall,
        all_failing=health.all_failing,
    )


def probe_targets(desired: Desired) -> Mapping[str, Target]:
    """Return backend name → the target of its probes."""
    backends = [backend for backend in desired.backends if backend is not None]
    codecs = {params.config_id: CidCodec(params) for params in build.cid_params(desired.config)}
    owners = {(n, one): b.name for b in backends for n, ids in b.server_ids.items() for one in ids}
    pool, health = Pool(codecs=codecs, owners=owners), desired.config.health
    return {
        b.name: Target(b.name, b.endpoint, b.server_ids, pool, health.alpn, health.server_name or "") for b in backends
    }


def note_names(daemon: Daemon) -> None:
    """Note what an index has counted, before it counts packets for a new name."""
    if daemon.engine is not None:
        with suppress(OSError):  # the kernel did not return its counters
            daemon.rows.follow(daemon.engine.counters, daemon.desired.names)


class Changes:
    """All changes of one daemon's wanted state, one at a time."""

    def __init__(self, daemon: Daemon) -> None:
        """daemon: the one whose wanted state changes."""
        self._daemon = daemon
        self.lock = asyncio.Lock()
        """Held from the start of a prepare to the end of its commit."""
        self.no_reload = ""
        """The reason why no reload is possible now; set during a handover and after it."""
        self.no_command = ""
        """The reason why no backend can be drained or undrained any more; set after a handover."""
        self.verdicts: dict[str, bool] = {}
        """Health verdicts that are not in force yet, by backend name. The next process needs them, too."""
        self._noted: list[Step] = []
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def desired(self) -> Desired:
        """The wanted state that is in force."""
        return self._daemon.desired

    @property
    def pending(self) -> bool:
        """True if a verdict or a noted step is not in force yet."""
        return bool(self.verdicts or self._noted)

    def note(self, step: Step) -> None:
        """Have a step applied with the next change, at most MAX_PAUSE_S later. It must not raise."""
        self._noted.append(step)
        self._wake.set()

    def note_verdict(self, name: str, healthy: bool, detail: str) -> None:
        """Have a health verdict applied, and log it."""
        self.verdicts[name] = healthy
        self._wake.set()
        level, text = (logging.INFO, "backend healthy") if healthy else (logging.WARNING, "backend unhealthy")
        log.log(level, text, extra={"backend": name, "detail": detail})

    def note_update(self, source: str, backends: tuple[Backend, ...]) -> None:
        """Have an update of a discovery source applied, unless a reload removes the source before that."""

        def apply(wanted: Desired) -> None:
            if any(one.name == source for one in wanted.config.discovery):
                wanted.found(source, backends)

        self.note(apply)

    async def set_state(self, name: str, state: BackendState) -> Sequence[str]:
        """Drain or undrain a backend. Raises KeyError if no backend has that name, and QlbError after a handover."""
        async with self.lock:
            if self.no_command:
                raise QlbError(self.no_command)
            return await self.make_locked(lambda wanted: wanted.set_state(name, state))

    async def drain_for_reload(self, names: frozenset[str]) -> None:
        """Drain these backends, and no others, until a reload succeeds."""
        await self.make(lambda wanted: wanted.drain_for(names))

    async def put_in_force(self, configuration: Configuration) -> Sequence[str]:
        """Put a configuration in force. Return what does not forward by it after a while.

        Raises QlbError, changing nothing, if it has too many backends, or during a handover.
        """
        daemon = self._daemon
        async with self.lock:
            if self.no_reload:
                raise QlbError(self.no_reload)
            daemon.service.reloading()
            try:
                behind = await self.make_locked(configuration=configuration)
                daemon.history.reloaded(daemon.desired.generation, everywhere=not behind)
            finally:
                daemon.service.ready()
        for warning in daemon.desired.warnings:
            log.warning(warning)
        if daemon.engine is not None and daemon.engine.slots:
            daemon.shortfalls.check_sessions(daemon.desired.config, len(daemon.engine.slots))
        return behind

    async def make(self, *steps: Step) -> Sequence[str]:
        """Make a change. Return what does not forward by it after a while. Raises whatever a step raises."""
        async with self.lock:
            return await self.make_locked(*steps)

    async def make_locked(self, *steps: Step, configuration: Configuration | None = None) -> Sequence[str]:
        """Make a change, as make(). The caller holds the lock. Raises as prepare() does, changing nothing."""
        verdicts, noted = dict(self.verdicts), tuple(self._noted)
        judge = [partial(Desired.set_health, name=name, healthy=healthy) for name, healthy in verdicts.items()]
        candidate = await prepare(self._daemon.desired, (*judge, *noted, *steps), configuration)
        # What has arrived since then waits for the next change.
        del self._noted[: len(noted)]
        self.verdicts = {name: one for name, one in self.verdicts.items() if one is not verdicts.get(name)}
        return await commit(self._daemon, candidate)

    def start(self) -> None:
        """Start to apply noted steps without a request."""
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Stop to apply noted steps."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        """Apply noted steps; those that were noted together cause one snapshot.

        Compiling takes 0.2 s with 5,000 backends. In a storm of verdicts it uses at most a third of the time, because
        the verdicts of each pause are compiled together.
        """
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            began_s = loop.time()
            if self.pending:
                self._daemon.remember()  # the new verdicts: compiling may take a second
                await self.make()
            await asyncio.sleep(min(2 * (loop.time() - began_s), MAX_PAUSE_S))
