"""The wanted state: a configuration, operators' commands and health verdicts, compiled into one snapshot."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qlb.addresses import Endpoint
from qlb.config.load import NEEDS_RESTART, load
from qlb.daemon.compiling import compile_plan
from qlb.daemon.desired import Desired
from qlb.daemon.files import read
from qlb.dataplane.base import Orders
from qlb.errors import ConfigError, QlbError
from qlb.routing import backends as backends_module
from qlb.routing.backends import Backend, BackendState

TEXT = """
listen: ["127.0.0.1:4433"]
cid_configs:
  - {config_id: 1, server_id_length: 3, nonce_length: 13, key: 000102030405060708090a0b0c0d0e0f}
backends:
  - {name: a, address: "127.0.0.1:5001", server_ids: {1: "0a0a0a"}}
  - {name: b, address: "127.0.0.1:5002", server_ids: {1: "0b0b0b"}}
admin: {listen: "127.0.0.1:9464"}
"""

Write = Callable[[str], None]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a configuration and return its path."""
    file = tmp_path / "qlb.yaml"
    file.write_text(TEXT)
    return file


@pytest.fixture
def desired(path: Path) -> Desired:
    """Return the wanted state right after the start."""
    return Desired(load(path))


def _reload(desired: Desired, path: Path) -> None:
    """Apply the current file. Raises ConfigError if it is invalid."""
    result = read(path, desired.config)
    if result.loaded is None:
        raise ConfigError(*result.problems)
    desired.configure(result.loaded)


def _orders(desired: Desired) -> Orders:
    """Compile the wanted state if it has changed, and return the orders."""
    ring = desired.current.orders.snapshot.ring
    if not desired.is_compiled:
        desired.set_compiled(compile_plan(desired.plan(), desired.next_number, ring))
    return desired.current.orders


def _states(desired: Desired) -> dict[str, tuple[str, bool]]:
    return {b.name: (b.state, b.healthy) for b in desired.backends if b is not None}


def test_every_change_is_a_new_snapshot(desired: Desired) -> None:
    """Each command and each health verdict compiles a new snapshot. The generation of the configuration stays."""
    numbers = [_orders(desired).snapshot.generation]
    desired.set_state("a", BackendState.DRAINING)
    numbers.append(_orders(desired).snapshot.generation)
    desired.set_health("b", False)
    numbers.append(_orders(desired).snapshot.generation)
    assert numbers == [1, 2, 3]
    assert desired.generation == 1
    assert _states(desired) == {"a": ("draining", True), "b": ("active", False)}


def test_commands_and_verdicts_survive_a_reload(desired: Desired, path: Path) -> None:
    """A drain by command and a health verdict survive a reload."""
    desired.set_state("a", BackendState.DRAINING)
    desired.set_health("b", False)
    _reload(desired, path)
    assert desired.generation == 2
    assert _states(desired) == {"a": ("draining", True), "b": ("active", False)}


def test_undrain_beats_the_file(desired: Desired, path: Path) -> None:
    """An operator's command overrides the state in the file."""
    path.write_text(TEXT.replace("name: a,", "name: a, state: draining,"))
    _reload(desired, path)
    assert _states(desired)["a"][0] == "draining"
    desired.set_state("a", BackendState.ACTIVE)
    _reload(desired, path)
    assert _states(desired)["a"][0] == "active"


def test_indexes_are_stable(desired: Desired, path: Path) -> None:
    """A removed backend's index stays free, a new backend gets a new index, and one that returns gets its old one."""
    without_a = "\n".join(line for line in TEXT.splitlines() if "name: a" not in line)
    path.write_text(without_a.replace("admin:", '  - {name: c, address: "127.0.0.1:5003"}\nadmin:'))
    _reload(desired, path)
    assert [b and b.name for b in desired.backends] == [None, "b", "c"]
    path.write_text(TEXT)
    _reload(desired, path)
    assert [b and b.name for b in desired.backends] == ["a", "b", None]


def test_a_backend_that_left_is_forgotten(desired: Desired, path: Path) -> None:
    """A drained, unhealthy backend that is removed and added again is active, and healthy until it is probed."""
    desired.set_state("a", BackendState.DRAINING)
    desired.set_health("a", False)
    path.write_text("\n".join(line for line in TEXT.splitlines() if "name: a" not in line))
    _reload(desired, path)
    path.write_text(TEXT)
    _reload(desired, path)
    assert _states(desired)["a"] == ("active", True)


def test_a_bad_file_changes_nothing(desired: Desired, path: Path) -> None:
    """An invalid file raises ConfigError, and the orders stay the same object."""
    before = _orders(desired)
    path.write_text(TEXT.replace("nonce_length: 13", "nonce_length: 3"))
    with pytest.raises(ConfigError, match="nonce_length"):
        _reload(desired, path)
    assert _orders(desired) is before
    assert desired.generation == 1


def test_a_missing_library_changes_nothing(desired: Desired, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe whose library is missing is refused before anything changes."""
    monkeypatch.setitem(sys.modules, "qlb.health.handshake", None)
    path.write_text(TEXT.replace("admin:", "health: {probe: handshake}\nadmin:"))
    with pytest.raises(ConfigError, match="handshake"):
        _reload(desired, path)
    assert desired.generation == 1


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        ("listen", "127.0.0.1:4433", "127.0.0.1:4434"),
        ("admin.listen", "127.0.0.1:9464", "127.0.0.1:9465"),
        ("admin.socket", "admin: {", "admin: {socket: x.sock, "),
        ("forwarding.plane", "admin:", "forwarding: {plane: asyncio}\nadmin:"),
        ("forwarding.mode", "admin:", "forwarding: {mode: l2}\nadmin:"),
        ("forwarding.workers", "admin:", "forwarding: {workers: 2}\nadmin:"),
        ("forwarding.pin_workers", "admin:", "forwarding: {pin_workers: true}\nadmin:"),
        ("forwarding.receive_buffer", "admin:", "forwarding: {receive_buffer: 1MiB}\nadmin:"),
        ("forwarding.freebind", "admin:", "forwarding: {freebind: false}\nadmin:"),
    ],
)
def test_a_change_that_needs_a_restart_is_refused(desired: Desired, path: Path, key: str, old: str, new: str) -> None:
    """A change that needs a restart is refused, with the key and its position."""
    assert tuple(key.split(".")) in NEEDS_RESTART
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(ConfigError, match=rf"{path}:\d+:\d+: {key} "):
        _reload(desired, path)


def test_unknown_names_are_refused(desired: Desired) -> None:
    """Draining an unknown backend raises KeyError."""
    with pytest.raises(KeyError):
        desired.set_state("nobody", BackendState.DRAINING)


def test_the_ring_is_reused(desired: Desired) -> None:
    """A health verdict does not fill the ring anew."""
    ring = _orders(desired).snapshot.ring
    desired.set_health("a", False)
    assert _orders(desired).snapshot.ring is ring


def test_removed_config_ids_are_known_after_a_restart(desired: Desired, path: Path) -> None:
    """The new process knows the removed config IDs, so that it recognises their packets for a while."""
    fingerprint = _orders(desired).snapshot.configs[1].codec.params.fingerprint  # type: ignore[union-attr]
    remembered = desired.remembered((), {})
    assert remembered.former == {"1": fingerprint}
    path.write_text(TEXT.replace("config_id: 1,", "config_id: 2,").replace("{1: ", "{2: "))
    later = Desired(load(path))
    assert later.former == {}
    later.recall(remembered)
    assert later.former == {1: fingerprint}
    assert later.remembered((), {}).former.keys() == {"1", "2"}


def test_a_released_index_gets_another_name(desired: Desired, path: Path) -> None:
    """The health verdict of a forgotten name is forgotten too, and a new name may get its index."""
    desired.set_health("a", False)
    path.write_text(TEXT.replace("name: a,", "name: c,"))
    _reload(desired, path)
    assert desired.names == ("a", "b", "c")
    desired.set_health("a", False)  # a verdict that arrives late
    assert desired.forget("a") == 0
    desired.release(0)
    path.write_text(TEXT.replace("name: a,", "name: d,"))
    _reload(desired, path)
    assert [one.name if one else None for one in desired.backends] == ["d", "b", None]
    assert "a" not in desired._healthy


def test_discovered_backends_beyond_the_room_are_left_out(
    desired: Desired, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Discovered backends beyond the maximum are ignored until indexes are free. Configured ones come first."""
    monkeypatch.setattr(backends_module, "MAX_BACKENDS", 3)
    found = [Backend(name, Endpoint("192.0.2.1", 443)) for name in ("x", "y")]
    desired.found("pool", found)
    assert [one.name for one in desired.backends if one] == ["a", "b", "x"]
    assert "discovered backends are left out" in caplog.text
    desired.found("pool", found[1:])
    desired.sweep(lambda _: None)
    assert [one.name for one in desired.backends if one] == ["a", "b"]
    assert desired.lacks_room
    desired.release(desired.forget("x"))
    desired.rearrange()
    assert [one.name for one in desired.backends if one] == ["a", "b", "y"]


def test_leaving_backends_drain_while_another_is_healthy(desired: Desired) -> None:
    """Backends that leave drain only while another backend is healthy. Otherwise new connections would be dropped."""
    desired.drain_for(["a"])
    assert desired.drains_leaving
    assert _states(desired)["a"] == ("draining", True)
    desired.set_health("b", False)
    assert not desired.drains_leaving
    assert _states(desired)["a"] == ("active", True)
    desired.set_health("b", True)
    assert _states(desired)["a"] == ("draining", True)
    desired.drain_for(())
    assert _states(desired) == {"a": ("active", True), "b": ("active", True)}


def test_an_operator_drains_a_leaving_backend(desired: Desired) -> None:
    """A drain by an operator persists after the drain for a reload ends."""
    desired.drain_for(["a"])
    desired.set_state("a", BackendState.DRAINING)
    desired.drain_for(())
    assert _states(desired)["a"] == ("draining", True)


def test_a_reload_ends_the_drain_for_it(desired: Desired, path: Path) -> None:
    """A reload ends the drain of leaving backends."""
    desired.drain_for(["a"])
    _reload(desired, path)
    assert (desired.leaving, _states(desired)["a"]) == (frozenset(), ("active", True))


def test_a_copy_is_independent(desired: Desired, path: Path) -> None:
    """Changes of a copy leave the original as it is, in every view."""
    desired.found("pool", [Backend("x", Endpoint("192.0.2.1", 443))])
    orders, present, names, changes = _orders(desired), list(desired.present), desired.names, desired.changes
    other = desired.copy()
    other.set_state("a", BackendState.DRAINING)
    other.set_health("b", False)
    other.drain_for(["x"])
    other.found("pool", [Backend("y", Endpoint("192.0.2.2", 443))])
    other.sweep(lambda _: None)
    path.write_text(TEXT.replace("name: a,", "name: c,"))
    _reload(other, path)
    other.release(other.forget("x"))
    assert [one.name if one else None for one in other.backends] == [None, "b", None, "y", "c"]
    assert (list(desired.present), desired.names, desired.changes) == (present, names, changes)
    assert (desired.generation, desired.leaving, desired.former) == (1, frozenset(), {})
    assert _orders(desired) is orders
    desired.rearrange()
    assert (list(desired.present), desired.names) == (present, names)


def test_the_same_state_can_be_compiled_again(desired: Desired) -> None:
    """touch() compiles the same state again, because a link-local address may have another interface now."""
    number = _orders(desired).snapshot.generation
    desired.touch()
    assert _orders(desired).snapshot.generation == number + 1


def test_the_same_configuration_changes_no_backend(desired: Desired, path: Path) -> None:
    """A reload of the same configuration is no new generation. It only ends the drain for a reload."""
    desired.drain_for(["a"])
    before = _orders(desired)
    desired.configure(load(path), is_same=True)
    assert (desired.generation, _states(desired)["a"]) == (1, ("active", True))
    desired.configure(load(path), is_same=True)
    assert _orders(desired) is not before
    orders = _orders(desired)
    desired.configure(load(path), is_same=True)
    assert _orders(desired) is orders


def test_more_names_than_there_are_indexes(desired: Desired, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reload with more names than indexes changes nothing, and the next reload can work."""
    monkeypatch.setattr("qlb.routing.backends.MAX_BACKENDS", 2)
    path.write_text(TEXT.replace("name: b", "name: c"))
    with pytest.raises(QlbError, match="backend names at once"):
        _reload(desired, path)
    assert (desired.generation, set(_states(desired))) == (1, {"a", "b"})
    path.write_text(TEXT)
    _reload(desired, path)


def test_shares_of_backends_that_no_worker_knows_yet(desired: Desired, path: Path) -> None:
    """A backend that no worker knows yet has a share of 0 until the next snapshot."""
    assert sum(desired.fallback_shares) == pytest.approx(1)
    path.write_text(TEXT.replace("admin:", '  - {name: c, address: "127.0.0.1:5003"}\nadmin:'))
    _reload(desired, path)
    assert len(desired.fallback_shares) == len(desired.names) == 3
    assert desired.fallback_shares[2] == 0
