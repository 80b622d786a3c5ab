"""Changes of the wanted state: prepared on a copy, committed as a whole, one at a time, and none is lost."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from qlb.addresses import Endpoint
from qlb.config.changes import changes
from qlb.config.load import load
from qlb.daemon import reload as module
from qlb.daemon.compiling import Compiled, Plan, compile_aside
from qlb.daemon.desired import Desired
from qlb.daemon.reload import Changes, Configuration, Daemon, commit, prepare
from qlb.dataplane.base import Orders
from qlb.errors import QlbError
from qlb.health.probe import Target
from qlb.routing.backends import Backend, BackendState
from qlb.routing.maglev import Ring

LIMIT_S = 60.0
TEXT = """
listen: ["127.0.0.1:4433"]
backends:
  - {name: a, address: "127.0.0.1:5001"}
  - {name: b, address: "127.0.0.1:5002"}
discovery:
  - {name: pool, dns: agents.example, port: 4433, networks: [192.0.2.0/24]}
"""
WITHOUT_B = TEXT.replace('  - {name: b, address: "127.0.0.1:5002"}\n', "")


class Engine:
    """An engine that records its orders. A test sets what is behind."""

    def __init__(self) -> None:
        """Start without orders."""
        self.applied: list[Orders] = []
        self.behind: Sequence[str] = ()
        self.slots: Sequence[object] = ()
        self.counters: Sequence[object] = ()

    async def apply(self, orders: Orders, frame: bytes | None = None) -> Sequence[str]:
        """Record the orders."""
        assert frame is not None
        self.applied.append(orders)
        return self.behind


class Parts:
    """The parts of a daemon that changes concern. They record their calls in order."""

    def __init__(self, path: Path) -> None:
        """Load the configuration at a path and let it be in force."""
        self.desired = Desired(load(path))
        self.calls: list[str] = []
        self.targets: Mapping[str, Target] = {}
        self.engine = Engine()
        self.health = SimpleNamespace(apply=self._probe)
        self.discovery = SimpleNamespace(apply=lambda _: self.calls.append("discovery"))
        self.rows = SimpleNamespace(follow=lambda *_: self.calls.append("rows"))
        self.service = SimpleNamespace(
            reloading=lambda: self.calls.append("reloading"), ready=lambda: self.calls.append("ready")
        )
        self.shortfalls = SimpleNamespace()
        self.history = SimpleNamespace(reloaded=lambda *_, **__: self.calls.append("reloaded"))

    def remember(self) -> None:
        """Record the call."""
        self.calls.append("remember")

    def _probe(self, _: object, targets: Mapping[str, Target]) -> None:
        self.calls.append("health")
        self.targets = targets

    @property
    def found(self) -> dict[str, tuple[str, bool]]:
        """Backend name → state and verdict, as the workers received them last."""
        return {one.name: (one.state, one.healthy) for one in self.engine.applied[-1].snapshot.backends if one}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a configuration and return its path."""
    file = tmp_path / "qlb.yaml"
    file.write_text(TEXT)
    return file


@pytest.fixture
def parts(path: Path) -> Parts:
    """Return the parts of a daemon that has started."""
    found = Parts(path)
    assert found.desired.current
    return found


def daemon_of(parts: Parts) -> Daemon:
    """Return fake parts as the type that the product expects."""
    return cast(Daemon, parts)


@pytest.fixture
async def made(parts: Parts) -> AsyncIterator[Changes]:
    """Yield the changes of a daemon, which are applied without a request, too."""
    found = Changes(daemon_of(parts))
    found.start()
    async with asyncio.timeout(LIMIT_S):
        yield found
    await found.stop()


def configuration(parts: Parts, path: Path) -> Configuration:
    """Return the configuration at a path, ready to be put in force."""
    loaded = load(path)
    return Configuration(loaded, changes(parts.desired.config, loaded.config), ())


async def _until_applied(parts: Parts, count: int) -> None:
    while len(parts.engine.applied) < count:
        await asyncio.sleep(0)


async def test_prepare_changes_nothing(parts: Parts, path: Path) -> None:
    """A prepared candidate changes no part of the daemon. commit() changes each part once, the engine last."""
    before, current = parts.desired, parts.desired.current
    path.write_text(WITHOUT_B)
    wanted = configuration(parts, path)
    candidate = await prepare(parts.desired, [lambda one: one.set_state("a", BackendState.DRAINING)], wanted)
    assert (parts.calls, parts.engine.applied) == ([], [])
    assert (parts.desired, before.current, before.generation) == (before, current, 1)
    assert {one.name: one.state for one in before.backends if one} == {"a": "active", "b": "active"}
    assert await commit(daemon_of(parts), candidate) == ()
    assert parts.calls == ["health", "discovery", "remember", "rows"]
    assert (parts.desired, parts.desired.generation) == (candidate.desired, 2)
    assert parts.found == {"a": ("draining", True)}
    assert list(parts.targets) == ["a"]


async def test_a_refused_change_changes_nothing(
    parts: Parts, made: Changes, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration without room and a command for an unknown backend change nothing. A verdict is retained."""
    monkeypatch.setattr("qlb.routing.backends.MAX_BACKENDS", 2)
    before = parts.desired
    path.write_text(TEXT.replace("name: b", "name: c"))
    with pytest.raises(QlbError, match="backend names at once"):
        await made.put_in_force(configuration(parts, path))
    with pytest.raises(KeyError):
        await made.set_state("nowhere", BackendState.DRAINING)
    assert parts.desired is before
    assert parts.calls == ["reloading", "ready"]
    made.note_verdict("a", False, "gone")
    with pytest.raises(KeyError):
        await made.set_state("nowhere", BackendState.DRAINING)
    await _until_applied(parts, 1)
    assert parts.found == {"a": ("active", False), "b": ("active", True)}


async def test_what_arrives_during_a_compilation_is_not_lost(
    parts: Parts, made: Changes, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts and updates that arrive while a reload is compiled are in the next snapshot, and in one together."""
    gate, started = asyncio.Event(), asyncio.Event()

    async def slow(plan: Plan, number: int, ring: Ring) -> Compiled:
        started.set()
        await gate.wait()
        return await compile_aside(plan, number, ring)

    monkeypatch.setattr(module, "compile_aside", slow)
    path.write_text(TEXT.replace("name: b", "name: c"))
    reloading = asyncio.create_task(made.put_in_force(configuration(parts, path)))
    await started.wait()
    for healthy in (True, False):
        made.note_verdict("a", healthy, "")
    made.note_verdict("c", False, "gone")
    made.note_update("pool", (Backend("x", Endpoint("192.0.2.1", 4433)),))
    made.note_update("another", (Backend("y", Endpoint("192.0.2.2", 4433)),))
    assert parts.engine.applied == []
    gate.set()
    assert await reloading == ()
    assert parts.found == {"a": ("active", True), "c": ("active", True)}
    await _until_applied(parts, 2)
    assert parts.found == {"a": ("active", False), "c": ("active", False), "x": ("active", True)}
    assert list(parts.targets) == ["a", "c", "x"]
    assert not made.pending


async def test_a_verdict_changes_no_probe(parts: Parts, made: Changes) -> None:
    """A health verdict sends one snapshot to the workers and leaves probes and sources as they are."""
    made.note_verdict("a", False, "gone")
    await _until_applied(parts, 1)
    assert parts.calls == ["remember", "remember", "rows"]


async def test_the_same_configuration_sends_nothing(parts: Parts, made: Changes, path: Path) -> None:
    """A configuration without a difference sends the workers nothing, unless one of them is behind."""
    assert await made.put_in_force(configuration(parts, path)) == ()
    assert (parts.desired.generation, parts.engine.applied) == (1, [])
    parts.engine.behind = ("worker 0 is behind",)
    assert await made.put_in_force(configuration(parts, path)) == ("worker 0 is behind",)
    assert parts.engine.applied == [parts.desired.current.orders]


async def test_nothing_changes_during_a_handover(parts: Parts, made: Changes, path: Path) -> None:
    """During a handover no configuration is put in force, and after it no backend is drained."""
    made.no_reload, made.no_command = "an upgrade is under way", "another process has taken over"
    with pytest.raises(QlbError, match="an upgrade is under way"):
        await made.put_in_force(configuration(parts, path))
    with pytest.raises(QlbError, match="another process has taken over"):
        await made.set_state("a", BackendState.DRAINING)
    assert parts.calls == []
