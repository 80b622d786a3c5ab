"""The steps of a rotation as changes of files: which files are written, and which are not."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from qlb.config.build import cid_params
from qlb.config.load import load
from qlb.errors import QlbError
from qlb.rotation.phases import Balancer, Carried, Seen
from qlb.rotation.steps import Choices, RotationSteps, StepRefused

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
    """Write a configuration and a key file. Return the configuration's path."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/1.hex").write_text("000102030405060708090a0b0c0d0e0f\n")
    (tmp_path / "keys/1.hex").chmod(0o600)
    file = tmp_path / "qlb.yaml"
    file.write_text(TEXT)
    file.chmod(0o640)
    return file


def one_balancer(path: Path, silence_s: float = 0.0, packets: int = 1) -> Ask:
    """Return a function that asks one balancer, which has this file and has seen these packets of each CID config."""

    def ask() -> list[Balancer]:
        config = load(path).config
        prints = {params.config_id: params.fingerprint for params in cid_params(config)}
        seen = [Seen(c.config_id, c.state, silence_s, prints[c.config_id], packets) for c in config.cid_configs]
        return [Balancer("x", {one.config_id: one for one in seen}, {})]

    return ask


def _states(path: Path) -> dict[int, str]:
    return {one.config_id: one.state for one in load(path).config.cid_configs}


def _do(path: Path, ask: Ask) -> tuple[str, ...]:
    steps = RotationSteps(path, ask)
    step = steps.next_step()
    steps.write(step)
    return (step.summary, *step.notes, *step.instructions)


def test_a_whole_rotation(path: Path) -> None:
    """Each step changes the states in the file, and its text contains the operator's next task."""
    text = _do(path, one_balancer(path))
    assert _states(path) == {1: "active", 2: "staged"}
    assert "every balancer" in text[1]
    text = _do(path, one_balancer(path))
    assert _states(path) == {1: "retiring", 2: "active"}
    assert f"  qlb server-config {path} a" in text
    with pytest.raises(StepRefused, match=r"config 1 has been silent for 1\.0 s, and must be for 600 s"):
        _do(path, one_balancer(path, silence_s=1.0))
    text = _do(path, one_balancer(path, silence_s=600.0))
    assert _states(path) == {2: "active"}
    assert f"{path.parent / 'keys/1.hex'} is no longer needed" in text[2]
    assert [dict(b.server_ids) for b in load(path).config.backends] == [{2: (b"\n" * 4,)}, {2: (b"\x0b" * 4,)}]


def test_a_new_key_gets_a_private_file(path: Path) -> None:
    """A new key gets a new file beside the old one, with mode 0600 and a relative path. No file is overwritten."""
    (path.parent / "keys/2.hex").write_text("other\n")
    _do(path, one_balancer(path))
    file = path.parent / "keys/2-2.hex"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (path.parent / "keys/2.hex").read_text() == "other\n"
    assert 'key_file: "keys/2-2.hex"' in path.read_text()
    old, new = load(path).config.cid_configs
    assert new.key is not None
    assert new.key != old.key
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_step_can_be_shown_and_undone(path: Path) -> None:
    """next_step() writes nothing, and undo() reverts everything that write() has done."""
    steps = RotationSteps(path, one_balancer(path))
    step = steps.next_step()
    files = sorted(path.parent.rglob("*"))
    assert path.read_text() == TEXT
    steps.write(step)
    assert sorted(path.parent.rglob("*")) != files
    steps.undo(step)
    assert path.read_text() == TEXT
    assert sorted(path.parent.rglob("*")) == files


def test_an_inline_key_stays_inline(path: Path) -> None:
    """If the old key is inline, the new key is inline too."""
    path.write_text(TEXT.replace("key_file: keys/1.hex", "key: 000102030405060708090a0b0c0d0e0f"))
    _do(path, one_balancer(path))
    assert sorted(file.name for file in (path.parent / "keys").iterdir()) == ["1.hex"]
    assert load(path).config.cid_configs[1].key_file is None
    assert load(path).config.cid_configs[1].key is not None


def test_from_plaintext_to_a_key(path: Path) -> None:
    """After a plaintext CID config, the new one is encrypted and has new server IDs, which were never on the wire."""
    path.write_text(TEXT.replace("    key_file: keys/1.hex\n", ""))
    _do(path, one_balancer(path))
    config = load(path).config
    assert config.cid_configs[1].key is not None
    fresh = {server_id for backend in config.backends for server_id in backend.server_ids[2]}
    assert len(fresh) == 2
    assert not fresh & {b"\n" * 4, b"\x0b" * 4}


def test_servers_wait_for_the_last_balancer(path: Path) -> None:
    """If one balancer does not decode the new CID config, the step is refused and nothing changes."""
    _do(path, one_balancer(path))
    before = path.read_text()
    with pytest.raises(StepRefused, match="y does not decode config 2 yet"):
        _do(path, lambda: [*one_balancer(path)(), Balancer("y", {}, {})])
    assert path.read_text() == before


@pytest.mark.parametrize("packets", [0, 1, 1000])
def test_a_staged_config_is_removed_while_no_server_has_it(path: Path, packets: int) -> None:
    """A staged CID config can be removed until many packets carry it. Then it needs force."""
    _do(path, one_balancer(path))
    steps = RotationSteps(path, one_balancer(path, packets=packets), Choices(force=packets > 1))
    if packets > 1:
        with pytest.raises(StepRefused, match="servers already issue from it"):
            RotationSteps(path, one_balancer(path, packets=packets)).abort()
        steps.write(steps.abort())
        assert path.read_text() == TEXT
    else:
        steps.write(steps.abort())
        assert path.read_text() == TEXT


def test_an_abort_while_the_old_config_retires(path: Path) -> None:
    """An abort while the old CID config retires makes it active again. The new one retires until it is silent."""
    _do(path, one_balancer(path))
    _do(path, one_balancer(path))
    steps = RotationSteps(path, one_balancer(path))
    steps.write(steps.abort())
    assert _states(path) == {1: "active", 2: "retiring"}


def test_nothing_to_abort(path: Path) -> None:
    """An abort without a rotation is an error."""
    with pytest.raises(QlbError, match="no rotation is under way"):
        RotationSteps(path, one_balancer(path)).abort()


def test_a_link_stays_a_link(path: Path) -> None:
    """If the configuration is a symbolic link, the link stays, and the file behind it is replaced."""
    real = path.rename(path.with_name("real.yaml"))
    path.symlink_to(real.name)
    _do(path, one_balancer(path))
    assert path.is_symlink()
    assert _states(real) == {1: "active", 2: "staged"}


def test_a_full_disk_is_reported(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while writing becomes a QlbError, and no key file remains."""

    def full(*_: object, **__: object) -> tuple[int, str]:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(QlbError, match="cannot be written: No space left on device"):
        _do(path, one_balancer(path))
    assert path.read_text() == TEXT
    assert not (path.parent / "keys/2.hex").exists()


def test_a_config_id_of_the_operators_choice(path: Path) -> None:
    """The new CID config gets the chosen config ID, and its key file is named after it."""
    step = RotationSteps(path, one_balancer(path), Choices(new_id=6)).next_step()
    assert step.key_file is not None
    assert (step.key_file.path.name, "config 6 with a new key" in step.summary) == ("6.hex", True)


def test_stray_packets_are_reported_and_do_not_block(path: Path) -> None:
    """Stray packets do not block the step. Its text mentions them."""
    stray = dict.fromkeys(range(7), Carried(0.0, packets=1))
    step = RotationSteps(path, lambda: [Balancer("x", {}, stray)]).next_step()
    assert ["note: x: 1 packets carried config ID 2" in line for line in step.notes] == [True]


def test_a_retiring_config_is_removed_by_force(path: Path) -> None:
    """With force, a retiring CID config is removed although packets still carry it."""
    for _ in range(2):
        _do(path, one_balancer(path, packets=0))
    assert _states(path) == {1: "retiring", 2: "active"}
    with pytest.raises(StepRefused, match="--force removes it"):
        RotationSteps(path, one_balancer(path)).next_step()
    steps = RotationSteps(path, one_balancer(path), Choices(force=True))
    steps.write(steps.next_step())
    assert _states(path) == {2: "active"}


def test_force_does_not_let_servers_issue_what_a_balancer_cannot_decode(path: Path) -> None:
    """Force does not help if a balancer cannot decode the CID config, because its packets would be lost."""
    _do(path, one_balancer(path))
    with pytest.raises(StepRefused, match="y does not decode config 2 yet"):
        RotationSteps(path, lambda: [*one_balancer(path)(), Balancer("y", {}, {})], Choices(force=True)).next_step()


@pytest.fixture
def credentials(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Name the key as a credential, which systemd has passed to the running unit. Return the credentials' folder."""
    folder = path.parent / "run/credentials/qlb.service"
    folder.mkdir(parents=True)
    monkeypatch.setattr("qlb.config.credentials.FOLDERS", folder.parent)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    restart(path, folder)
    path.write_text(TEXT.replace("keys/1.hex", "credential:keys_1.hex"))
    return folder


def restart(path: Path, credentials: Path) -> None:
    """Copy the keys to the credentials, as systemd does when the unit starts."""
    for file in (path.parent / "keys").iterdir():
        (credentials / f"keys_{file.name}").write_text(file.read_text())
        (credentials / f"keys_{file.name}").chmod(0o400)


def test_a_rotation_of_credentials(path: Path, credentials: Path) -> None:
    """The new key is beside the old key's file, the YAML names its credential, and only the first step restarts."""
    before = path.read_text()
    steps = RotationSteps(path, one_balancer(path))
    step = steps.next_step()
    assert step.needs_restart
    assert "  systemctl restart qlb" in step.instructions
    steps.write(step)
    assert (path.parent / "keys/2.hex").exists()
    assert 'key_file: "credential:keys_2.hex"' in path.read_text()

    silent = Balancer("x", {}, {})
    with pytest.raises(StepRefused, match=r"is not among the credentials of qlb\.service.*`systemctl restart qlb`"):
        RotationSteps(path, lambda: [silent]).next_step()
    undo = RotationSteps(path, lambda: [silent]).abort()
    assert (undo.text, undo.needs_restart) == (before, False), "an abort does not need the new key"

    restart(path, credentials)
    with pytest.raises(StepRefused, match="x does not decode config 2 yet: copy this file to it and restart it"):
        RotationSteps(path, lambda: [silent]).next_step()
    steps = RotationSteps(path, one_balancer(path))
    step = steps.next_step()
    assert not step.needs_restart
    steps.write(step)
    assert _states(path) == {1: "retiring", 2: "active"}
    step = RotationSteps(path, one_balancer(path, silence_s=600.0)).next_step()
    assert step.old_key == "the file of which systemd makes the credential keys_1.hex"


def test_the_plan_of_a_step_names_no_key(path: Path) -> None:
    """A plan contains the diff of the configuration, without keys, and every task."""
    path.write_text(TEXT.replace("key_file: keys/1.hex", "key: 000102030405060708090a0b0c0d0e0f"))
    steps = RotationSteps(path, one_balancer(path))
    step = steps.next_step()
    plan = steps.plan(step, with_difference=True)
    assert "+    state: staged" in plan
    assert "000102030405060708090a0b0c0d0e0f" not in plan
    assert plan.count("(not shown)") >= 2
    assert "(the output of this command)" in steps.plan(step, with_difference=False)


def test_a_configuration_behind_a_link_of_kubernetes(path: Path, tmp_path: Path) -> None:
    """Names in the configuration are relative to the link, as the daemon reads them, and not to the file behind it."""
    data = tmp_path / "mounted/..2026_11_27"
    data.mkdir(parents=True)
    (path.parent / "keys").rename(data / "keys")
    path.rename(data / "qlb.yaml")
    (tmp_path / "mounted/..data").symlink_to(data.name)
    for name in ("keys", "qlb.yaml"):
        (tmp_path / "mounted" / name).symlink_to(f"..data/{name}")
    named = tmp_path / "mounted/qlb.yaml"
    step = RotationSteps(named, one_balancer(named)).next_step()
    assert step.key_file is not None
    assert (step.key_file.path, step.key_file.place.name) == (tmp_path / "mounted/keys/2.hex", "keys/2.hex")
    assert str(named) in step.summary


def test_a_read_only_file_system(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If nothing can be written, the error names the option that writes nothing."""

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system", "/etc/qlb/keys/2.hex")

    monkeypatch.setattr("qlb.rotation.steps.write_key", refuse)
    steps = RotationSteps(path, one_balancer(path))
    step = steps.next_step()
    with pytest.raises(QlbError, match=r"2\.hex cannot be written: Read-only file system; --print writes nothing"):
        steps.write(step)
