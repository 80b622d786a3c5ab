"""The wanted state of the daemon: the configuration, operators' commands, and the findings of health and discovery.

A state that is in force is not changed in place. `prepare` (reload.py) changes a copy and compiles it, and `commit`
puts the copy in its place. So a change that is refused leaves nothing behind, and every reader sees what the workers
received. After the start, only forget() and release() change the state in force: they concern backends that have left.
"""

import copy
import dataclasses
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from qlb.addresses import Endpoint
from qlb.config import build
from qlb.config.load import Loaded
from qlb.config.model import Config
from qlb.daemon.compiling import Compiled, Plan, compile_plan, make_plan
from qlb.daemon.members import Loops, Members, fitting
from qlb.errors import QlbError
from qlb.handover.memory import Remembered
from qlb.routing.backends import MAX_BACKENDS, Backend, BackendIndexes, BackendState

log = logging.getLogger("qlb")


class Desired:
    """The wanted state."""

    def __init__(self, loaded: Loaded) -> None:
        """Start with a configuration. All backends count as healthy until they are probed."""
        self._indexes = BackendIndexes()
        self._states: dict[str, BackendState] = {}
        """Backend name → the state that an operator has set."""
        self._healthy: dict[str, bool] = {}
        """Backend name → the last health verdict."""
        self.leaving: frozenset[str] = frozenset()
        """Backends that drain because the configuration on disk removes or changes them; see drain_for()."""
        self.drains_leaving = False
        """True while they get no new connections, because another backend accepts some."""
        self.lacks_room = False
        """True while discovered backends are left out because no index is free."""
        self.former: Mapping[int, str] = {}
        """Config ID → fingerprint of its CID config before the last reload, in this process or an earlier one."""
        self.members = Members()
        self.loops = Loops(loaded.config.listen)
        self._follow(loaded.config)
        self.config, self.warnings = loaded.config, loaded.warnings
        self.generation = 1
        """The number of configurations that were accepted and changed something, including the first."""
        self.changes = 1
        """The number of changes of the wanted state."""
        self._plain: Sequence[Backend | None] | None = None
        """The backends by index, without commands and verdicts; None if they must be arranged again."""
        self._present: list[Backend | None] = []
        """The same with commands and verdicts applied."""
        self._backends: list[Backend | None] = []
        """The same without the backends that are excluded because packets to them would loop."""
        self._compiled: Compiled | None = None
        self._arrange()

    def copy(self) -> "Desired":
        """Return an independent copy, to be changed, compiled and committed. With 30,000 backends it takes 2 ms."""
        other = copy.copy(self)
        other._indexes, other.members, other.loops = self._indexes.copy(), self.members.copy(), copy.copy(self.loops)
        other._states, other._healthy = dict(self._states), dict(self._healthy)
        other._present, other._backends = list(self._present), list(self._backends)
        return other

    @property
    def current(self) -> Compiled:
        """The last result of a compilation. The first one is compiled when it is needed."""
        if self._compiled is None:
            self._compiled = compile_plan(self.plan(), self.next_number)
        return self._compiled

    @property
    def is_compiled(self) -> bool:
        """True if the last compiled plan contains every change."""
        return self._compiled is not None and self._compiled.revision == self.changes

    @property
    def next_number(self) -> int:
        """The number of the next snapshot."""
        return 1 if self._compiled is None else self._compiled.orders.snapshot.generation + 1

    @property
    def revision(self) -> int:
        """The number of the current snapshot."""
        return self.current.orders.snapshot.generation

    def plan(self) -> Plan:
        """Return the input of a compilation."""
        return make_plan(self.config, self.backends, self.changes)

    def set_compiled(self, compiled: Compiled) -> None:
        """Set the result of compiling plan()."""
        self._compiled = compiled

    @property
    def names(self) -> tuple[str, ...]:
        """The backends' names by index, including those that have left; empty if an index has no name."""
        self._arrange()
        return self._indexes.names

    @property
    def room(self) -> int:
        """The number of new names that can get an index."""
        return self._indexes.room

    @property
    def backends(self) -> Sequence[Backend | None]:
        """The backends by index, with commands and verdicts applied, without excluded ones."""
        self._arrange()
        return self._backends

    @property
    def present(self) -> Sequence[Backend | None]:
        """The backends by index, with commands and verdicts applied, including excluded ones."""
        self._arrange()
        return self._present

    @property
    def fallback_shares(self) -> Sequence[float]:
        """The share of new connections that the fallback gives to each backend, by index, 0 to 1."""
        shares = self.current.shares
        return [*shares, *[0.0] * (len(self.names) - len(shares))]

    def has_other_backends(self, before: "Desired") -> bool:
        """Return whether backends, their addresses or their server IDs may differ, not only verdicts and commands."""
        return self._plain is not before._plain

    def configure(self, loaded: Loaded, *, is_same: bool = False) -> None:
        """Apply a configuration. is_same: it has no difference. Raises QlbError if it has too many backends."""
        if is_same:
            self.drain_for(())
        else:
            self._arrange()  # every backend gets its index before another can
            added = {backend.name for backend in loaded.config.backends if self._indexes.find(backend.name) is None}
            if len(added) > self._indexes.room:
                raise QlbError(f"more than {MAX_BACKENDS} backend names at once: restart the daemon")
            self._follow(loaded.config)
            self.former = {**self.former, **_fingerprints(self.config)}
            self.leaving = frozenset()
            self.rearrange()
        self.config, self.warnings = loaded.config, loaded.warnings
        if not is_same:
            self.generation += 1
            self._forget_absent()

    def drain_for(self, names: Iterable[str]) -> None:
        """Give these backends, and no others, no new connections, so that a reload becomes possible.

        They still get new connections while no other backend accepts any, since these would be dropped.
        """
        changed = self.leaving ^ frozenset(names)
        self.leaving = frozenset(names)
        for name in changed:
            self._judge(name)

    def set_state(self, name: str, state: BackendState) -> None:
        """Drain or undrain a backend. The state persists across reloads, until the backend leaves.

        Raises KeyError if no backend has that name.
        """
        if self._find(name) is None:
            raise KeyError(name)
        self._states[name] = state
        self._judge(name)

    def set_health(self, name: str, healthy: bool) -> None:
        """Apply a verdict of the health monitor."""
        self._healthy[name] = healthy
        self._judge(name)

    def found(self, source: str, backends: Sequence[Backend]) -> None:
        """Apply an update of a discovery source."""
        self.members.found(source, backends)
        self.rearrange()

    def sweep(self, silence_s: Callable[[str], float | None]) -> None:
        """Remove discovered backends that are leaving and quiet."""
        if self.members.sweep(silence_s, self.config.drain.quiet_period):
            self.rearrange()

    def note_local(self, changed: Mapping[str, bool]) -> None:
        """Apply a check of the machine's addresses. changed: a backend's host → whether it is one of them now."""
        self.loops.note(changed)
        self.rearrange()

    def listens(self, listen: Sequence[Endpoint]) -> None:
        """Set the addresses that were bound: the configuration may leave the port to the system."""
        self.loops.listen = tuple(listen)
        self._compiled = None  # an HTTP request during the start may have caused a compilation
        self.rearrange()

    def touch(self) -> None:
        """Have the same state sent to the workers again: the interface of a link-local address has changed."""
        self.changes += 1

    def rearrange(self) -> None:
        """Have the backends arranged again, since other ones, or the same ones with other properties, are wanted."""
        self._plain = None
        self.changes += 1

    def remembered(self, judged: Collection[str], pending: Mapping[str, bool]) -> Remembered:
        """Return what the next process needs from the start.

        judged: the backends that have a health verdict. pending: verdicts that are not applied yet.
        """
        states = {name: str(state) for name, state in self._states.items()}
        healthy = {name: pending.get(name, self._healthy.get(name, True)) for name in judged}
        former = {str(config_id): one for config_id, one in {**self.former, **_fingerprints(self.config)}.items()}
        return Remembered(states, healthy, self.members.remembered(), former)

    def recall(self, remembered: Remembered) -> None:
        """Apply what an earlier process knew of the backends that still exist."""
        try:
            self.members.recall(remembered.discovered)
        except ValueError as error:
            log.warning("the discovered backends of the earlier process cannot be read: %s", error)
        self.former = {int(n): one for n, one in remembered.former.items() if n.isdecimal()} | dict(self.former)
        self._follow(self.config)
        states = {name: state for name, state in remembered.states.items() if state in set(BackendState)}
        self._states = {name: BackendState(state) for name, state in states.items()}
        self._healthy = dict(remembered.healthy)
        self.rearrange()
        self._forget_absent()

    def forget(self, name: str) -> int:
        """Remove the name of a backend that has left. Return its index, which no other backend gets yet."""
        self._states.pop(name, None)
        self._healthy.pop(name, None)
        return self._indexes.forget(name)

    def release(self, index: int) -> None:
        """Allow a new backend to get a forgotten index."""
        self._indexes.release(index)

    def _follow(self, config: Config) -> None:
        self.members.follow({one.name: one.server_id_from == "address" for one in config.discovery})

    def _arrange(self) -> None:
        """Arrange the backends by index, unless they are arranged."""
        if self._plain is not None:
            return
        own = build.backends(self.config)
        every = self.members.merged(own, build.cid_params(self.config))
        with_room = fitting(every, len(own), self._indexes)
        self.lacks_room = len(with_room) < len(every)
        self._plain = self._indexes.arrange(with_room)
        self.drains_leaving = False
        self._present = [None if backend is None else self._judged(backend) for backend in self._plain]
        excluded = self.loops.exclude(one for one in self._present if one is not None)
        self._backends = [None if one is None or one.name in excluded else one for one in self._present]
        self._settle()

    def _judge(self, name: str) -> None:
        """Apply commands and verdicts on one backend. The others stay as they are."""
        self.changes += 1
        if self._plain is not None:
            self._put(name)
            self._settle()

    def _put(self, name: str) -> None:
        index = self._indexes.find(name)
        plain = None if index is None or self._plain is None else self._plain[index]
        if index is not None and plain is not None:
            self._present[index] = judged = self._judged(plain)
            self._backends[index] = None if name in self.loops.excluded else judged

    def _settle(self) -> None:
        """Decide again whether leaving backends drain."""
        others = (one for one in self._backends if one is not None and one.name not in self.leaving)
        drains = bool(self.leaving) and any(one.accepts_new for one in others)
        if drains is not self.drains_leaving:
            self.drains_leaving = drains
            for name in self.leaving:
                self._put(name)

    def _find(self, name: str) -> Backend | None:
        self._arrange()
        index = self._indexes.find(name)
        return None if index is None else self._present[index]

    def _forget_absent(self) -> None:
        self._states = {name: state for name, state in self._states.items() if self._find(name) is not None}
        self._healthy = {name: healthy for name, healthy in self._healthy.items() if self._find(name) is not None}

    def _judged(self, backend: Backend) -> Backend:
        name = backend.name
        leaves = self.drains_leaving and name in self.leaving
        state = BackendState.DRAINING if leaves else self._states.get(name, backend.state)
        healthy = self._healthy.get(name, True)
        if (state, healthy) == (backend.state, backend.healthy):
            return backend
        return dataclasses.replace(backend, state=state, healthy=healthy)


def _fingerprints(config: Config) -> Mapping[int, str]:
    return {params.config_id: params.fingerprint for params in build.cid_params(config)}
