"""What the daemon should be doing now: the configuration, what operators said since, and what health found.

Every change, whatever it came from, makes a new plan here; compiling it may happen elsewhere. A configuration that is
wrong changes nothing. Counting time and telling the workers is the supervisor's part.
"""

import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from qlb.addresses import Endpoint
from qlb.cid import CidCodec
from qlb.config import build
from qlb.config.load import Loaded
from qlb.config.model import Config
from qlb.daemon.compiling import Compiled, Plan, compile_plan
from qlb.daemon.members import Members
from qlb.daemon.preflight import Loops
from qlb.dataplane.base import Orders, PlaneSettings
from qlb.errors import QlbError
from qlb.handover.memory import Remembered
from qlb.health.monitor import HealthConfig
from qlb.health.probe import Pool, Target
from qlb.routing.backends import MAX_BACKENDS, Backend, BackendIndexes, BackendState
from qlb.routing.maglev import Ring
from qlb.workers.slots import worker_count

log = logging.getLogger("qlb")


class Desired:
    """The wanted state of one daemon."""

    def __init__(self, loaded: Loaded) -> None:
        """Begin with a configuration; all backends count as healthy until probed."""
        self._indexes = BackendIndexes()
        self._states: dict[str, BackendState] = {}
        self._healthy: dict[str, bool] = {}
        self.leaving: frozenset[str] = frozenset()
        """Backends that drain because the configuration on disk wants something else of them; see drain_for()."""
        self._drains_leaving = False
        self._left_out = False
        """Whether discovered backends are left out since no index is left for them."""
        self._former: dict[int, str] = {}
        """Fingerprints of the configurations that were in force before, here or in an earlier process, by config ID."""
        self.members = Members()
        self.loops = Loops(loaded.config.listen)
        self._follow(loaded.config)
        self.config: Config = loaded.config
        self.warnings: tuple[str, ...] = loaded.warnings
        self.generation = 1
        """Configurations that have taken effect, the first included."""
        self._changes = 1
        self._planned = 0
        """The changes that the last plan held."""
        self._plain: list[Backend | None] | None = None
        """By index, without operators' and health's word; None where it has to be arranged anew."""
        self._present: list[Backend | None] = []
        """By index, with operators' and health's word applied."""
        self._backends: list[Backend | None] = []
        """The same without those that get no packets because these would loop."""
        self._compiled: Compiled | None = None
        self._arrange()

    @property
    def orders(self) -> Orders:
        """What every worker is to do. Compiled when it is asked for: verdicts that come together cost one."""
        if self._compiled is None or not self.is_compiled:
            self.take_compiled(compile_plan(self.plan(), self.next_number, self._ring))
        return self.current.orders

    @property
    def current(self) -> Compiled:
        """What was compiled last; compiled now where nothing was."""
        if self._compiled is None:
            self.take_compiled(compile_plan(self.plan(), self.next_number))
        assert self._compiled is not None, "it was compiled"
        return self._compiled

    @property
    def is_compiled(self) -> bool:
        """Whether the last compiled plan holds every change."""
        return self._compiled is not None and self._compiled.revision == self._changes

    @property
    def next_number(self) -> int:
        """The number of the next snapshot."""
        return 1 if self._compiled is None else self._compiled.orders.snapshot.generation + 1

    @property
    def changes(self) -> int:
        """The number of changes of the wanted state until now."""
        return self._changes

    def touch(self) -> None:
        """Have workers be told again, although nothing else is wanted: what an address means has changed."""
        self._changes += 1

    def plan(self) -> Plan:
        """Return the wanted state as it is now, to be compiled."""
        self._planned = self._changes
        return Plan(
            self._changes,
            build.cid_params(self.config),
            tuple(self.backends),
            build.fallback_key(self.config),
            plane_settings(self.config),
        )

    def take_compiled(self, compiled: Compiled) -> None:
        """Take what plan() was compiled to, on this thread or elsewhere."""
        self._compiled = compiled

    @property
    def names(self) -> tuple[str, ...]:
        """The backends' names by index, of those that have left too; empty where an index has none."""
        self._arrange()
        return self._indexes.names

    @property
    def former(self) -> Mapping[int, str]:
        """Config ID → fingerprint of the configuration that it stood for before the last reload, here or earlier."""
        return self._former

    @property
    def revision(self) -> int:
        """The number of the first snapshot that has every change until now."""
        if self.is_compiled:
            return self.current.orders.snapshot.generation
        under_way = self._planned not in (self._changes, self.current.revision)
        return self.next_number + under_way

    @property
    def backends(self) -> Sequence[Backend | None]:
        """The backends by index, with operators' and health's word applied; without those that would loop."""
        self._arrange()
        return self._backends

    @property
    def present(self) -> Sequence[Backend | None]:
        """The backends by index, together with those that get no packets because these would loop."""
        self._arrange()
        return self._present

    @property
    def health_config(self) -> HealthConfig:
        """The rules of the health monitor, from the section ``health`` of the configuration."""
        health = self.config.health
        return HealthConfig(
            probe=health.probe,
            interval_s=health.interval,
            timeout_s=health.timeout,
            rise=health.rise,
            fall=health.fall,
            all_failing=health.all_failing,
        )

    @property
    def targets(self) -> Mapping[str, Target]:
        """Backend name → what health asks of it."""
        backends = [backend for backend in self.backends if backend is not None]
        codecs = {params.config_id: CidCodec(params) for params in build.cid_params(self.config)}
        pool = Pool(
            codecs=codecs,
            owners={(n, one): b.name for b in backends for n, ids in b.server_ids.items() for one in ids},
        )
        health = self.config.health
        return {
            b.name: Target(b.name, b.endpoint, b.server_ids, pool, health.alpn, health.server_name or "")
            for b in backends
        }

    @property
    def fallback_shares(self) -> Sequence[float]:
        """By backend index, the share of new connections that the fallback gives each, 0 to 1, as workers forward."""
        shares = self.current.shares
        return [*shares, *[0.0] * (len(self.names) - len(shares))]

    def take(self, loaded: Loaded) -> None:
        """Take a configuration over. Raises QlbError, changing nothing, where there is no room for its backends."""
        self._arrange()  # every backend gets its index before another can
        added = {backend.name for backend in loaded.config.backends if self._indexes.find(backend.name) is None}
        if len(added) > self._indexes.room:
            raise QlbError(f"more than {MAX_BACKENDS} backend names at once: restart the daemon")
        self._follow(loaded.config)
        self._former |= {params.config_id: params.fingerprint for params in build.cid_params(self.config)}
        self.config, self.warnings = loaded.config, loaded.warnings
        self.generation += 1
        self.leaving = frozenset()
        self._begin_anew()
        self._forget_absent()

    def take_same(self, loaded: Loaded) -> None:
        """Take over a configuration that differs in nothing from the one in force."""
        self.config, self.warnings = loaded.config, loaded.warnings
        self.generation += 1
        self.drain_for(())

    def drain_for(self, names: Iterable[str]) -> None:
        """Give these backends no new connections until told otherwise, so that a reload can take place.

        They take them all the same while no other backend does: packets of new clients would be dropped.
        """
        changed = self.leaving ^ frozenset(names)
        self.leaving = frozenset(names)
        for name in changed:
            self._judge(name)

    @property
    def drains_leaving(self) -> bool:
        """Whether those that leave get no new connections: they do while no other backend takes any."""
        return self._drains_leaving

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
        states = {name: state for name, state in remembered.states.items() if state in set(BackendState)}
        self._states = {name: BackendState(state) for name, state in states.items()}
        self._healthy = dict(remembered.healthy)
        self._begin_anew()
        self._forget_absent()

    def set_state(self, name: str, state: BackendState) -> None:
        """Drain or undrain a backend until the daemon ends or the backend leaves; outlives reloads.

        Raises KeyError where no backend has that name.
        """
        if self._find(name) is None:
            raise KeyError(name)
        self._states[name] = state
        self._judge(name)

    def found(self, source: str, backends: Sequence[Backend]) -> None:
        """Take over what a source of backends has now."""
        self.members.found(source, backends)
        self._begin_anew()

    def sweep(self, silence_s: Callable[[str], float | None]) -> bool:
        """Let discovered backends go that are leaving and quiet. Returns whether anybody has gone."""
        gone = self.members.sweep(silence_s, self.config.drain.quiet_period)
        if gone:
            self._begin_anew()
        return gone

    def forget(self, name: str) -> int:
        """Take the name of a backend that has left from its index; return the index, which no other gets yet."""
        self._states.pop(name, None)
        self._healthy.pop(name, None)
        return self._indexes.forget(name)

    def release(self, index: int) -> None:
        """Let a new backend have a forgotten index: one that was left out, if any was."""
        self._indexes.release(index)
        if self._left_out:
            self._begin_anew()

    async def look_for_loops(self) -> bool:
        """Look whether backends have become this daemon itself, or are no longer. Returns whether that is so of any."""
        changed = await self.loops.look()
        if changed:
            self._begin_anew()
        return changed

    def set_health(self, name: str, healthy: bool) -> None:
        """Take over a verdict of the health monitor."""
        self._healthy[name] = healthy
        self._judge(name)

    def listens(self, listen: Sequence[Endpoint]) -> None:
        """Note which addresses the daemon has really bound, where the configuration leaves the port to the system."""
        self.loops.listen = tuple(listen)
        self._begin_anew()

    def _follow(self, config: Config) -> None:
        self.members.follow({one.name: one.server_id_from == "address" for one in config.discovery})

    def _begin_anew(self) -> None:
        """Note that other backends, or the same ones in another way, are wanted."""
        self._plain = None
        self._changes += 1

    def _arrange(self) -> None:
        """Bring the backends into the order of their indexes, where that has not happened since the last change."""
        if self._plain is not None:
            return
        own = build.backends(self.config)
        every = self.members.merged(own, build.cid_params(self.config))
        self._plain = list(self._indexes.arrange(self._with_room(every, len(own))))
        self._drains_leaving = False
        self._present = [None if backend is None else self._judged(backend) for backend in self._plain]
        excluded = self.loops.exclude(one for one in self._present if one is not None)
        self._backends = [None if one is None or one.name in excluded else one for one in self._present]
        self._settle()

    def _judge(self, name: str) -> None:
        """Apply what is known of one backend; the others stay as they are."""
        self._changes += 1
        if self._plain is not None:
            self._put(name)
            self._settle()

    def _put(self, name: str) -> None:
        """Bring one backend up to date where it is present."""
        index = self._indexes.find(name)
        plain = None if index is None or self._plain is None else self._plain[index]
        if index is not None and plain is not None:
            self._present[index] = judged = self._judged(plain)
            self._backends[index] = None if name in self.loops.excluded else judged

    def _settle(self) -> None:
        """Decide anew whether backends that leave drain."""
        others = (one for one in self._backends if one is not None and one.name not in self.leaving)
        drains = bool(self.leaving) and any(one.accepts_new for one in others)
        if drains is not self._drains_leaving:
            self._drains_leaving = drains
            for name in self.leaving:
                self._put(name)

    def _find(self, name: str) -> Backend | None:
        self._arrange()
        index = self._indexes.find(name)
        return None if index is None else self._present[index]

    def _forget_absent(self) -> None:
        self._states = {name: state for name, state in self._states.items() if self._find(name) is not None}
        self._healthy = {name: healthy for name, healthy in self._healthy.items() if self._find(name) is not None}

    @property
    def _ring(self) -> Ring | None:
        return None if self._compiled is None else self._compiled.orders.snapshot.ring

    def _with_room(self, backends: Sequence[Backend], own: int) -> Sequence[Backend]:
        """Leave discovered backends out for whom there is no index left; own: so many are the configuration's."""
        names = set(self._indexes.names)
        strangers = [one for one in backends[own:] if one.name not in names]
        room = self._indexes.room - len({one.name for one in backends[:own]} - names)
        self._left_out = len(strangers) > room
        if not self._left_out:
            return backends
        log.error("discovered backends are left out: more than %d are there or left a short while ago", MAX_BACKENDS)
        left_out = {one.name for one in strangers[max(room, 0) :]}
        return [one for one in backends if one.name not in left_out]

    def _judged(self, backend: Backend) -> Backend:
        name = backend.name
        leaves = self._drains_leaving and name in self.leaving
        state = BackendState.DRAINING if leaves else self._states.get(name, backend.state)
        healthy = self._healthy.get(name, True)
        if (state, healthy) == (backend.state, backend.healthy):
            return backend
        return dataclasses.replace(backend, state=state, healthy=healthy)


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
