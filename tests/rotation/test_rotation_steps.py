"""The steps of a rotation as changes of files: what is written where, and what is not."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from qlb.config.build import cid_params
from qlb.config.load import load
from qlb.errors import QlbError
from qlb.rotation.phases import Balancer, Carried, Seen
from qlb.rotation.steps import RotationSteps, StepRefused

TEXT = """\
listen: ["127.0.0.1:4433"]
cid_configs:
  - config_id: 1
    server_id_length: 4
    nonce_length: 12
    key_file: keys/1.hex
backends:
  - {name: a, address: "127.0.0.1:5001", server_ids: {1: "0a0a0a0a"}}
  - {name: b, address: "127.0.0.1:5002", server_ids: {1: "0b0b0b0b"}}
"""

Ask = Callable[[], list[Balancer]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A configuration file with a key file."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/1.hex").write_text("000102030405060708090a0b0c0d0e0f\n")
    (tmp_path / "keys/1.hex").chmod(0o600)
    file = tmp_path / "qlb.yaml"
    file.write_text(TEXT)
    file.chmod(0o640)
    return file


def everybody(path: Path, silence_s: float = 0.0, packets: int = 1) -> Ask:
    """Return what asks one balancer that has this file, and has seen this of each config."""

    def ask() -> list[Balancer]:
        told = load(path).config
        prints = {params.config_id: params.fingerprint for params in cid_params(told)}
        seen = [Seen(c.config_id, c.state, silence_s, prints[c.config_id], packets) for c in told.cid_configs]
        return [Balancer("x", {one.config_id: one for one in seen}, {})]

    return ask


def _states(path: Path) -> dict[int, str]:
    return {one.config_id: one.state for one in load(path).config.cid_configs}


def _do(path: Path, ask: Ask) -> tuple[str, ...]:
    steps = RotationSteps(path, ask)
    step = steps.next_step()
    steps.write(step)
    return step.said


def test_the_whole_way(path: Path) -> None:
    """Introduce, issue, remove: the file says so each time, and the operator is told what to do next."""
    said = _do(path, everybody(path))
    assert _states(path) == {1: "active", 2: "staged"}
    assert "every balancer" in said[1]
    said = _do(path, everybody(path))
    assert _states(path) == {1: "retiring", 2: "active"}
    assert f"  qlb server-config {path} a" in said
    with pytest.raises(StepRefused, match=r"config 1 has been silent for 1\.0 s, and must be for 600 s"):
        _do(path, everybody(path, silence_s=1.0))
    said = _do(path, everybody(path, silence_s=600.0))
    assert _states(path) == {2: "active"}
    assert f"{path.parent / 'keys/1.hex'} any more" in said[1]
    assert [dict(b.server_ids) for b in load(path).config.backends] == [{2: (b"\n" * 4,)}, {2: (b"\x0b" * 4,)}]


def test_a_key_is_new_and_its_owners_alone(path: Path) -> None:
    """In a file of its own beside the old one, mode 0600, never over another; the text names it relatively."""
    (path.parent / "keys/2.hex").write_text("somebody's\n")
    _do(path, everybody(path))
    file = path.parent / "keys/2-2.hex"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (path.parent / "keys/2.hex").read_text() == "somebody's\n"
    assert 'key_file: "keys/2-2.hex"' in path.read_text()
    old, new = load(path).config.cid_configs
    assert new.key is not None
    assert new.key != old.key
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_step_is_made_up_before_it_is_done(path: Path) -> None:
    """Nothing is written by asking for it, and all of it can be taken back."""
    steps = RotationSteps(path, everybody(path))
    step = steps.next_step()
    files = sorted(path.parent.rglob("*"))
    assert path.read_text() == TEXT
    steps.write(step)
    assert sorted(path.parent.rglob("*")) != files
    steps.take_back(step)
    assert path.read_text() == TEXT
    assert sorted(path.parent.rglob("*")) == files


def test_a_key_in_the_file_stays_there(path: Path) -> None:
    """Who keeps keys inline gets the new one inline."""
    path.write_text(TEXT.replace("key_file: keys/1.hex", "key: 000102030405060708090a0b0c0d0e0f"))
    _do(path, everybody(path))
    assert sorted(file.name for file in (path.parent / "keys").iterdir()) == ["1.hex"]
    assert load(path).config.cid_configs[1].key_file is None
    assert load(path).config.cid_configs[1].key is not None


def test_from_plaintext_to_a_key(path: Path) -> None:
    """The new config is encrypted, with server IDs that nobody has read on the wire yet."""
    path.write_text(TEXT.replace("    key_file: keys/1.hex\n", ""))
    _do(path, everybody(path))
    told = load(path).config
    assert told.cid_configs[1].key is not None
    fresh = {server_id for backend in told.backends for server_id in backend.server_ids[2]}
    assert len(fresh) == 2
    assert not fresh & {b"\n" * 4, b"\x0b" * 4}


def test_servers_wait_for_the_last_balancer(path: Path) -> None:
    """One that has another file holds everything up, and nothing is changed."""
    _do(path, everybody(path))
    before = path.read_text()
    with pytest.raises(StepRefused, match="y does not decode config 2 yet"):
        _do(path, lambda: [*everybody(path)(), Balancer("y", {}, {})])
    assert path.read_text() == before


@pytest.mark.parametrize("packets", [0, 1, 1000])
def test_what_is_staged_is_taken_back_while_no_server_has_it(path: Path, packets: int) -> None:
    """Not any more once many packets carry it, except by force."""
    _do(path, everybody(path))
    steps = RotationSteps(path, everybody(path, packets=packets), force=packets > 1)
    if packets > 1:
        with pytest.raises(StepRefused, match="servers have it already"):
            RotationSteps(path, everybody(path, packets=packets)).abort()
        steps.write(steps.abort())
        assert path.read_text() == TEXT
    else:
        steps.write(steps.abort())
        assert path.read_text() == TEXT


def test_the_way_back_while_the_old_one_retires(path: Path) -> None:
    """Servers issue from it again; the newer one is decoded until it falls silent."""
    _do(path, everybody(path))
    _do(path, everybody(path))
    steps = RotationSteps(path, everybody(path))
    steps.write(steps.abort())
    assert _states(path) == {1: "active", 2: "retiring"}


def test_nothing_to_take_back(path: Path) -> None:
    """An abort without a rotation says so."""
    with pytest.raises(QlbError, match="no rotation is under way"):
        RotationSteps(path, everybody(path)).abort()


def test_a_link_stays_one(path: Path) -> None:
    """The file behind it is replaced."""
    real = path.rename(path.with_name("real.yaml"))
    path.symlink_to(real.name)
    _do(path, everybody(path))
    assert path.is_symlink()
    assert _states(real) == {1: "active", 2: "staged"}


def test_what_cannot_be_written_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one line, and no key is left behind."""

    def full(*_: object, **__: object) -> tuple[int, str]:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(QlbError, match="cannot be written: No space left on device"):
        _do(path, everybody(path))
    assert path.read_text() == TEXT
    assert not (path.parent / "keys/2.hex").exists()


def test_a_config_id_of_the_operators_choice(path: Path) -> None:
    """The new configuration gets it, and its key file is called after it."""
    step = RotationSteps(path, everybody(path), new_id=6).next_step()
    assert step.key_file is not None
    assert (step.key_file.path.name, "config 6 with a new key" in step.said[0]) == ("6.hex", True)


def test_stray_packets_are_told_and_do_not_block(path: Path) -> None:
    """The step is done, and the operator learns of them."""
    stray = dict.fromkeys(range(7), Carried(0.0, packets=1))
    step = RotationSteps(path, lambda: [Balancer("x", {}, stray)]).next_step()
    assert ["note: x: 1 packets carried config ID 2" in line for line in step.said] == [False, True, False]


def test_a_retiring_config_goes_by_force(path: Path) -> None:
    """Though packets still carry it, from whomever."""
    for _ in range(2):
        _do(path, everybody(path, packets=0))
    assert _states(path) == {1: "retiring", 2: "active"}
    with pytest.raises(StepRefused, match="--force removes it"):
        RotationSteps(path, everybody(path)).next_step()
    steps = RotationSteps(path, everybody(path), force=True)
    steps.write(steps.next_step())
    assert _states(path) == {2: "active"}


def test_force_does_not_let_servers_issue_what_a_balancer_cannot_decode(path: Path) -> None:
    """That is no matter of packets."""
    _do(path, everybody(path))
    with pytest.raises(StepRefused, match="y does not decode config 2 yet"):
        RotationSteps(path, lambda: [*everybody(path)(), Balancer("y", {}, {})], force=True).next_step()
