"""What the daemon should be doing now: the configuration, what operators said since, and what health found.

Every change, whatever it came from, compiles one new snapshot here; a configuration that is wrong changes
nothing. Counting time and telling the workers is the supervisor's part.
"""

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from qlb.config import build
from qlb.config.load import Loaded, load
from qlb.config.local_addresses import local_hosts
from qlb.config.model import Config
from qlb.control.guard import Live, ReloadRefused, objections
from qlb.control.loops import Loops
from qlb.control.members import Members
from qlb.control.preflight import preflight, worker_count
from qlb.control.succession.memory import Remembered
from qlb.dataplane.base import Orders, PlaneSettings
from qlb.health.target import Pool, Target
from qlb.routing.backends import MAX_BACKENDS, Backend, BackendIndexes, BackendState, Endpoint
from qlb.routing.snapshot import Snapshot, compile_snapshot, fallback_shares

log = logging.getLogger("qlb")


class Desired:
    """The wanted state of one daemon."""

    def __init__(self, path: Path, loaded: Loaded) -> None:
        """Begin with a configuration that was read from path; all backends count as healthy until probed."""
        self._path = path
        self._indexes = BackendIndexes()
        self._states: dict[str, BackendState] = {}
        self._healthy: dict[str, bool] = {}
        self._former: dict[int, str] = {}
        """Fingerprints of the configurations that were in force before, here or in an earlier process, by config ID."""
        self._compiled = 0
        self.members = Members()
        self.loops = Loops(loaded.config.listen)
        self._present: tuple[Backend | None, ...] = ()
        self._follow(loaded.config)
        self.config: Config = loaded.config
        self.warnings: tuple[str, ...] = loaded.warnings
        self.generation = 1
        """Configurations that have taken effect, the first included."""
        self._previous: Snapshot | None = None
        self._shares: tuple[Snapshot, Sequence[float]] | None = None
        self._orders: Orders | None = self._compile(self.config)

    @property
    def orders(self) -> Orders:
        """What every worker is to do. Compiled when it is asked for: verdicts that come together cost one."""
        if self._orders is None:
            self._orders = self._compile(self.config)
        return self._orders

    @property
    def names(self) -> tuple[str, ...]:
        """The backends' names by index, of those that have left too; empty where an index has none."""
        return self._indexes.names

    @property
    def former(self) -> Mapping[int, str]:
        """Config ID → fingerprint of the configuration that it stood for before the last reload, here or earlier."""
        return self._former

    @property
    def revision(self) -> int:
        """The number of the snapshot that was compiled last."""
        return self.orders.snapshot.generation

    @property
    def backends(self) -> tuple[Backend | None, ...]:
        """The backends by index, with operators' and health's word applied."""
        return self.orders.snapshot.backends

    @property
    def present(self) -> tuple[Backend | None, ...]:
        """The backends by index, together with those that get no packets because these would loop."""
        _ = self.orders
        return self._present

    @property
    def targets(self) -> Mapping[str, Target]:
        """Backend name → what health asks of it."""
        backends = [backend for backend in self.backends if backend is not None]
        pool = Pool(
            codecs={n: one.codec for n, one in enumerate(self.orders.snapshot.configs) if one is not None},
            owners={(n, one): b.name for b in backends for n, ids in b.server_ids.items() for one in ids},
        )
        health = self.config.health
        return {
            b.name: Target(b.name, b.endpoint, b.server_ids, pool, health.alpn, health.server_name or "")
            for b in backends
        }

    @property
    def fallback_shares(self) -> Sequence[float]:
        """By backend index, the share of new connections that the fallback gives each, 0 to 1; found out once."""
        snapshot = self.orders.snapshot
        if self._shares is None or self._shares[0] is not snapshot:
            self._shares = snapshot, fallback_shares(snapshot)
        return self._shares[1]

    def reload(self, live: Live | None = None) -> None:
        """Read the file again and take it over.

        live: what is known of packets; where it is given, the reload must be safe for them.
        Raises QlbError, changing nothing, where it is wrong or cannot be run here; ReloadRefused where it is not safe.
        """
        loaded = load(self._path, running=self.config, find_local=local_hosts)
        preflight(loaded.config)
        unsafe = objections(self.config, loaded.config, self._former, live) if live is not None else ()
        if unsafe:
            raise ReloadRefused(unsafe)
        self._follow(loaded.config)
        self._orders = self._compile(loaded.config)
        self._former |= {params.config_id: params.fingerprint for params in build.cid_params(self.config)}
        self.config, self.warnings = loaded.config, loaded.warnings
        self.generation += 1
        present = self._present_names()
        self._states = {name: state for name, state in self._states.items() if name in present}
        self._healthy = {name: healthy for name, healthy in self._healthy.items() if name in present}

    def remembered(self, judged: Collection[str]) -> Remembered:
        """Return what the next process should know from the start. judged: backends that health has found out about."""
        states = {name: str(state) for name, state in self._states.items()}
        healthy = {name: self._healthy.get(name, True) for name in judged}
        known = self._former | {params.config_id: params.fingerprint for params in build.cid_params(self.config)}
        former = {str(config_id): fingerprint for config_id, fingerprint in known.items()}
        return Remembered(states, healthy, self.members.remembered(), former)

    def recall(self, remembered: Remembered) -> None:
        """Take over what operators and health said in an earlier process, of the backends that are still there."""
        try:
            self.members.recall(remembered.discovered)
        except ValueError as error:
            log.warning("what the daemon before this one has discovered cannot be read: %s", error)
        former = {int(n): one for n, one in remembered.former.items() if n.isdecimal()}
        self._former = former | self._former
        self._follow(self.config)
        self._orders = None
        present = self._present_names()
        states = {name: state for name, state in remembered.states.items() if state in set(BackendState)}
        self._states = {name: BackendState(state) for name, state in states.items() if name in present}
        self._healthy = {name: healthy for name, healthy in remembered.healthy.items() if name in present}
        self._orders = None

    def set_state(self, name: str, state: BackendState) -> None:
        """Drain or undrain a backend until the daemon ends or the backend leaves; outlives reloads.

        Raises KeyError where no backend has that name.
        """
        if name not in self._present_names():
            raise KeyError(name)
        self._states[name] = state
        self._orders = None

    def found(self, source: str, backends: Sequence[Backend]) -> None:
        """Take over what a source of backends has now."""
        self.members.found(source, backends)
        self._orders = None

    def sweep(self, silence_s: Callable[[str], float | None]) -> bool:
        """Let discovered backends go that are leaving and quiet. Returns whether anybody has gone."""
        gone = self.members.sweep(silence_s, self.config.drain.quiet_period)
        if gone:
            self._orders = None
        return gone

    def forget(self, name: str) -> int:
        """Take the name of a backend that has left from its index; return the index, which no other gets yet."""
        self._states.pop(name, None)
        self._healthy.pop(name, None)
        return self._indexes.forget(name)

    def release(self, index: int) -> None:
        """Let a new backend have a forgotten index."""
        self._indexes.release(index)

    async def look_for_loops(self) -> bool:
        """Look whether backends have become this daemon itself, or are no longer. Returns whether that is so of any."""
        changed = await self.loops.look()
        if changed:
            self._orders = None
        return changed

    def set_health(self, name: str, healthy: bool) -> None:
        """Take over a verdict of the health monitor."""
        self._healthy[name] = healthy
        self._orders = None

    def listens(self, listen: Sequence[Endpoint]) -> None:
        """Note which addresses the daemon has really bound, where the configuration leaves the port to the system."""
        self.loops.listen = tuple(listen)
        self._orders = None

    def _present_names(self) -> frozenset[str]:
        return frozenset(one.name for one in self.present if one is not None)

    def _follow(self, config: Config) -> None:
        self.members.follow({one.name: one.server_id_from == "address" for one in config.discovery})

    def _compile(self, config: Config) -> Orders:
        own = build.backends(config)
        every = self.members.merged(own, build.cid_params(config))
        self._present = self._indexes.arrange(map(self._judged, self._with_room(every, len(own))))
        excluded = self.loops.exclude(one for one in self._present if one is not None)
        backends = tuple(None if one and one.name in excluded else one for one in self._present)
        snapshot = compile_snapshot(
            self._compiled + 1,
            build.cid_params(config),
            backends,
            fallback_key=build.fallback_key(config),
            previous=self._previous,
        )
        self._previous = snapshot
        self._compiled += 1
        return Orders(snapshot, plane_settings(config))

    def _with_room(self, backends: Sequence[Backend], own: int) -> Sequence[Backend]:
        """Leave discovered backends out for whom there is no index left; own: so many are the configuration's."""
        names = set(self._indexes.names)
        strangers = [one for one in backends[own:] if one.name not in names]
        room = self._indexes.room - len({one.name for one in backends[:own]} - names)
        if len(strangers) <= room:
            return backends
        log.error("discovered backends are left out: more than %d are there or left a short while ago", MAX_BACKENDS)
        left_out = {one.name for one in strangers[max(room, 0) :]}
        return [one for one in backends if one.name not in left_out]

    def _judged(self, backend: Backend) -> Backend:
        return dataclasses.replace(
            backend,
            state=self._states.get(backend.name, backend.state),
            healthy=self._healthy.get(backend.name, True),
        )


def plane_settings(config: Config) -> PlaneSettings:
    """Return the bounds that a configuration sets for a plane's own state."""
    return PlaneSettings(
        session_timeout_s=config.forwarding.session_timeout,
        routable_session_timeout_s=config.forwarding.routable_session_timeout,
        workers=worker_count(config),
        dscp=None if config.forwarding.dscp == "keep" else config.forwarding.dscp,
        max_sessions=config.forwarding.max_sessions,
        flow_table_size=config.fallback.flow_table_size,
        flow_timeout_s=config.fallback.flow_timeout,
        gso_to_backends=config.forwarding.gso_to_backends,
    )
