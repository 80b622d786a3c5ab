"""Backends that are this daemon itself: as long as they are, they get no packets."""

import logging
from collections.abc import Iterable
from pathlib import Path

import pytest

from qlb.addresses import Endpoint
from qlb.config.load import load
from qlb.daemon.compiling import compile_plan
from qlb.daemon.desired import Desired
from qlb.daemon.members import Loops
from qlb.daemon.reload import probe_targets
from qlb.routing.backends import Backend, BackendState

WILDCARD = (Endpoint("0.0.0.0", 4433),)
A, B, C = (Backend(name, Endpoint(f"10.0.0.{number}", 4433)) for number, name in enumerate("abc", 1))
TEXT = """
listen: ["0.0.0.0:4433"]
cid_configs:
  - {config_id: 1, server_id_length: 3, nonce_length: 13, key: 000102030405060708090a0b0c0d0e0f}
backends:
  - {name: a, address: "10.0.0.1:4433", server_ids: {1: "0a0a0a"}}
  - {name: b, address: "10.0.0.2:4433", server_ids: {1: "0b0b0b"}}
"""


class Machine:
    """A machine whose addresses a test sets."""

    def __init__(self) -> None:
        """Start without addresses."""
        self.own: set[str] = set()
        self.asked: list[tuple[str, ...]] = []

    def __call__(self, hosts: Iterable[str]) -> frozenset[str]:
        """Record the hosts, and return the ones that are this machine's."""
        self.asked.append(tuple(sorted(hosts)))
        return frozenset(self.own & set(self.asked[-1]))


def events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Return the logged messages with their backends."""
    return [(record.message, record.backend) for record in caplog.records]  # type: ignore[attr-defined]


async def _check(checked: Loops | Desired) -> bool:
    """Check the machine's addresses and apply the result. Return whether a backend's address was added or removed."""
    if isinstance(checked, Loops):
        changed = await checked.check()
        checked.note(changed)
    else:
        changed = await checked.loops.check()
        checked.note_local(changed)
    return bool(changed)


async def test_an_address_that_comes_and_goes(caplog: pytest.LogCaptureFixture) -> None:
    """A backend is excluded while its address is this machine's. Each change is logged once."""
    machine = Machine()
    loops = Loops(WILDCARD, machine)
    with caplog.at_level(logging.INFO, logger="qlb"):
        assert loops.exclude([A, B]) == frozenset()
        assert not await _check(loops)
        machine.own.add("10.0.0.2")
        assert await _check(loops)
        for _ in range(2):
            assert loops.exclude([A, B]) == {"b"}
        assert "10.0.0.2:4433 is an address of this machine on which it listens (0.0.0.0:4433)" in loops.excluded["b"]
        machine.own.clear()
        assert await _check(loops)
        assert not await _check(loops)
        assert loops.exclude([A, B]) == frozenset()
    assert events(caplog) == [("backend excluded: it is this balancer", "b"), ("backend no longer excluded", "b")]


async def test_only_doubtful_hosts_are_looked_up() -> None:
    """Only doubtful hosts are looked up: new ones at once, known ones at the next look, removed ones never."""
    machine = Machine()
    loops = Loops(WILDCARD, machine)
    loops.exclude([A, Backend("x", Endpoint("10.0.0.9", 1)), Backend("l", Endpoint("127.0.0.1", 4433))])
    assert machine.asked == [("10.0.0.1",)]
    machine.own.add("10.0.0.3")
    assert loops.exclude([B, C]) == {"c"}
    assert machine.asked[1:] == [("10.0.0.2", "10.0.0.3")]
    loops.exclude([B, C])
    assert len(machine.asked) == 2
    await _check(loops)
    assert machine.asked[2:] == [("10.0.0.2", "10.0.0.3")]


async def test_a_backend_that_leaves_while_it_is_excluded(caplog: pytest.LogCaptureFixture) -> None:
    """A backend that is removed while it is excluded is not reported as included again."""
    machine = Machine()
    machine.own.add("10.0.0.1")
    loops = Loops(WILDCARD, machine)
    with caplog.at_level(logging.INFO, logger="qlb"):
        loops.exclude([A, B])
        loops.exclude([B])
    assert events(caplog) == [("backend excluded: it is this balancer", "a")]
    assert not loops.excluded


@pytest.fixture
def desired(tmp_path: Path) -> Desired:
    """Return the wanted state on a machine without addresses."""
    path = tmp_path / "qlb.yaml"
    path.write_text(TEXT)
    made = Desired(load(path))
    made.loops = Loops(made.config.listen, Machine())
    made.listens(made.config.listen)
    return made


def machine_of(desired: Desired) -> Machine:
    """Return the fake machine of the wanted state."""
    assert isinstance(desired.loops._find_local, Machine)
    return desired.loops._find_local


def forwarded_to(desired: Desired) -> list[str]:
    """Return the names of the backends that get packets."""
    return [one.name for one in desired.backends if one is not None]


async def test_an_excluded_backend_gets_no_packets_at_all(desired: Desired) -> None:
    """An excluded backend gets no packets, not even by server ID, and no probes. It retains its index."""
    assert forwarded_to(desired) == ["a", "b"]
    before = desired.names
    machine_of(desired).own.add("10.0.0.1")
    assert await _check(desired)
    assert forwarded_to(desired) == ["b"]
    assert [one and one.name for one in desired.present] == ["a", "b"]
    assert (list(probe_targets(desired)), desired.names) == (["b"], before)
    config = compile_plan(desired.plan(), 1).orders.snapshot.configs[1]
    assert config is not None
    assert config._server_ids == {b"\x0b\x0b\x0b": 1}
    machine_of(desired).own.clear()
    assert await _check(desired)
    assert forwarded_to(desired) == ["a", "b"]


async def test_commands_for_an_excluded_backend(desired: Desired, tmp_path: Path) -> None:
    """An excluded backend can be drained, and a reload retains its state."""
    machine_of(desired).own.add("10.0.0.1")
    await _check(desired)
    desired.set_state("a", BackendState.DRAINING)
    desired.configure(load(tmp_path / "qlb.yaml"))
    machine_of(desired).own.clear()
    await _check(desired)
    assert {one.name: str(one.state) for one in desired.backends if one} == {"a": "draining", "b": "active"}


@pytest.mark.parametrize("leaves", [False, True])
def test_discovered_backends(desired: Desired, leaves: bool) -> None:
    """A discovered backend is excluded at once, and also while it drains, since packets with its ID still arrive."""
    machine_of(desired).own.add("10.0.0.3")
    desired.found("pool", [C])
    if leaves:
        desired.found("pool", [])
    assert forwarded_to(desired) == ["a", "b"]
    assert list(desired.loops.excluded) == ["c"]


def test_a_port_that_the_system_has_chosen(desired: Desired) -> None:
    """The addresses on which the daemon really listens count, not the configured ones."""
    machine_of(desired).own.add("10.0.0.1")
    desired.listens([Endpoint("0.0.0.0", 50000)])
    assert forwarded_to(desired) == ["a", "b"]
    desired.listens([Endpoint("127.0.0.1", 1), Endpoint("0.0.0.0", 4433)])
    assert forwarded_to(desired) == ["b"]
