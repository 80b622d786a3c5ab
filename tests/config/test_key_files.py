"""Key files: which ones are read, and which ones are rejected."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from qlb.config import Loaded, key_files, load
from qlb.config.dump import as_data, as_yaml
from qlb.errors import ConfigError

STRANGER = 54321
KUBERNETES = """\
discovery:
  - name: agents
    kubernetes: voice/agents
    kubeconfig: kubeconfig
    networks: [10.0.0.0/16]
"""
KEY = "8f95f09245765f80256934e50c66207f"
Lines = Callable[[str], tuple[str, ...]]
Read = Callable[[str], Loaded]


@pytest.fixture
def with_file(sound: str) -> str:
    """Return a configuration with its key in keys/1.hex."""
    return sound.replace('key: "00112233445566778899aabbccddeeff"', "key_file: keys/1.hex")


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Return the path of the key file, in an existing folder."""
    (tmp_path / "keys").mkdir()
    return tmp_path / "keys/1.hex"


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file with a mode."""
    path.write_bytes(content)
    path.chmod(mode)


@pytest.mark.parametrize("content", [KEY, KEY.upper(), f"{KEY}\n", f"\r\n\t {KEY} \r\n"])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_a_key_file_is_read(with_file: str, read: Read, key_file: Path, content: str, mode: int) -> None:
    """The name is relative to the configuration, whitespace is ignored, and the group may read the file."""
    write(key_file, content.encode(), mode)
    (one,) = read(with_file).config.cid_configs
    assert one.key == bytes.fromhex(KEY)
    assert one.key_file == key_file
    assert KEY not in repr(one)


def test_an_absolute_name_is_taken_as_it_is(with_file: str, read: Read, tmp_path: Path) -> None:
    """An absolute path need not be below the configuration."""
    write(tmp_path / "elsewhere", KEY.encode())
    config = read(with_file.replace("keys/1.hex", str(tmp_path / "elsewhere"))).config
    assert config.cid_configs[0].key == bytes.fromhex(KEY)


def test_the_hash_key_may_have_a_file_too(sound: str, read: Read, key_file: Path) -> None:
    """hash_key_file fills hash_key."""
    write(key_file, KEY.encode())
    assert read(f"{sound}fallback: {{hash_key_file: keys/1.hex}}\n").config.fallback.hash_key == bytes.fromhex(KEY)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty: remove it, and create a key with `qlb keygen "),
        (b" \n", "is empty: remove it, and create a key with `qlb keygen "),
        (KEY[:-1].encode(), "must be 32 hex digits (16 octets), as `qlb keygen` prints them; it has 31 hex digits"),
        (f"{KEY[:16]} {KEY[16:]}".encode(), "must be 32 hex digits (16 octets)"),
        (f"{KEY}\n{KEY}\n".encode(), "must be 32 hex digits (16 octets)"),
        (KEY[:-1].encode() + b"\xff", "must be 32 hex digits (16 octets)"),
        (bytes.fromhex(KEY), "contains 16 raw octets: write them as 32 hex digits, `od -An -vtx1 "),
        (KEY.encode() * 1000, "has more than 4096 octets: a key file contains 32 hex digits"),
    ],
)
def test_files_without_a_key(with_file: str, problems: Lines, key_file: Path, content: bytes, says: str) -> None:
    """The problem names the file and does not show its content."""
    write(key_file, content)
    (line,) = problems(with_file)
    assert line.startswith(f"6:15: cid_configs[0].key_file 'keys/1.hex' {says}")
    assert KEY[:8] not in line


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o666, 0o644, 0o777])
def test_a_key_file_that_others_can_open_is_refused(with_file: str, problems: Lines, key_file: Path, mode: int) -> None:
    """Any access by other users is a problem, with a command that removes it."""
    write(key_file, b"not even a key", mode)
    (line,) = problems(with_file)
    assert line.startswith("6:15: cid_configs[0].key_file 'keys/1.hex' is accessible to every user of this machine: ")
    assert line.endswith(f": chmod o-rwx {key_file}")


@pytest.mark.parametrize("mode", [0o620, 0o660, 0o630, 0o670])
def test_a_key_file_that_its_group_can_change_is_refused(
    with_file: str, problems: Lines, key_file: Path, mode: int
) -> None:
    """The group may read a key file, but not change it."""
    write(key_file, KEY.encode(), mode)
    (line,) = problems(with_file)
    assert line.startswith("6:15: cid_configs[0].key_file 'keys/1.hex' can be changed by other users than its owner: ")
    assert line.endswith(f": chmod go-w {key_file}")


@pytest.fixture
def as_root() -> None:
    """Skip the test unless it runs as root, because it gives files to other users."""
    if os.geteuid():
        pytest.skip("giving files away needs root")


@pytest.mark.usefixtures("as_root")
def test_a_key_file_of_a_stranger_is_refused(with_file: str, sound: str, problems: Lines, key_file: Path) -> None:
    """A key file of another user is rejected; this applies to hash_key_file too."""
    write(key_file, KEY.encode())
    os.chown(key_file, STRANGER, -1)
    (line,) = problems(with_file)
    assert line.startswith(f"6:15: cid_configs[0].key_file 'keys/1.hex' is owned by user ID {STRANGER}, who could")
    assert line.endswith("chown it to root, to the user that runs qlb (0), or to the owner of the configuration")
    (line,) = problems(f"{sound}fallback: {{hash_key_file: keys/1.hex}}\n")
    assert line.startswith(f"14:27: fallback.hash_key_file 'keys/1.hex' is owned by user ID {STRANGER}")


@pytest.mark.usefixtures("as_root")
def test_the_owner_of_the_configuration_may_own_its_keys(with_file: str, tmp_path: Path, key_file: Path) -> None:
    """The configuration's owner may own key files, but other users may not."""
    path = tmp_path / "qlb.yaml"
    path.write_text(with_file)
    os.chown(path, STRANGER, -1)
    write(key_file, KEY.encode(), 0o400)
    os.chown(key_file, STRANGER, -1)
    assert load(path).config.cid_configs[0].key == bytes.fromhex(KEY)
    os.chown(key_file, STRANGER + 1, -1)
    with pytest.raises(ConfigError, match=f"owned by user ID {STRANGER + 1}"):
        load(path)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Yield a folder that every user can enter, unlike those of pytest."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        if any(not one.stat().st_mode & 0o001 for one in folder.resolve().parents):
            pytest.skip("the system's folder for temporary files is closed to others")
        yield folder


@pytest.mark.parametrize(
    ("key_mode", "folder_mode", "accepted"),
    [
        (0o444, 0o700, True),  # a secret of Docker in a closed folder
        (0o444, 0o750, True),
        (0o444, 0o710, True),
        (0o404, 0o700, True),
        (0o444, 0o755, False),
        (0o444, 0o1777, False),
        (0o444, 0o711, False),
        (0o644, 0o700, False),  # somebody forgot a chmod
        (0o446, 0o700, False),
        (0o445, 0o700, False),
    ],
)
def test_a_file_for_all_in_a_closed_folder(
    with_file: str, open_folder: Path, key_mode: int, folder_mode: int, accepted: bool
) -> None:
    """A read-only file may be readable for all if other users cannot enter its folder."""
    (open_folder / "secrets").mkdir()
    write(open_folder / "secrets/1.hex", KEY.encode(), key_mode)
    (open_folder / "secrets").chmod(folder_mode)
    path = open_folder / "qlb.yaml"
    text = with_file.replace("keys/1.hex", "secrets/1.hex")
    path.write_text(text)
    if accepted:
        assert load(path).config.cid_configs[0].key == bytes.fromhex(KEY)
    else:
        with pytest.raises(ConfigError, match="is accessible to every user of this machine"):
            load(path)


@pytest.mark.usefixtures("as_root")
def test_a_closed_folder_of_a_stranger_is_no_protection(with_file: str, open_folder: Path) -> None:
    """A closed folder of another user does not count, because its owner can open it."""
    (open_folder / "secrets").mkdir(mode=0o700)
    os.chown(open_folder / "secrets", STRANGER, -1)
    write(open_folder / "secrets/1.hex", KEY.encode(), 0o444)
    path = open_folder / "qlb.yaml"
    path.write_text(with_file.replace("keys/1.hex", "secrets/1.hex"))
    with pytest.raises(ConfigError, match="is accessible to every user of this machine"):
        load(path)


@pytest.mark.parametrize("mode", [0o444, 0o644])
@pytest.mark.parametrize("mounted", ["ro", "rw"])
@pytest.mark.usefixtures("as_root")
def test_secrets_of_containers(with_file: str, open_folder: Path, mode: int, mounted: str) -> None:
    """Secrets that Docker (0444) and Kubernetes (0644, by links) mount read-only in memory are accepted."""
    path = open_folder / "qlb.yaml"
    path.write_text(with_file)
    (open_folder / "keys").mkdir()
    script = f"""
        mount -t tmpfs -o mode=1777 tmpfs keys && mkdir keys/..1
        echo {KEY} >keys/..1/1.hex && chmod {mode:o} keys/..1/1.hex
        ln -s ..1 keys/..data && ln -s ..data/1.hex keys/1.hex && mount -o remount,{mounted} keys
        exec {sys.executable} -m qlb check qlb.yaml
    """
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], cwd=open_folder, capture_output=True, text=True)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("mount namespaces are not allowed here")
    if mounted == "ro":
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert done.returncode == 2
        assert "is accessible to every user of this machine" in done.stderr


@pytest.mark.parametrize("mountinfo", ["", "1 2 0:1", "what - ever"])
def test_a_system_that_does_not_tell_its_mounts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mountinfo: str
) -> None:
    """Without information about mounts, no file system counts as one in memory."""
    monkeypatch.setattr(Path, "read_text", lambda *_args, **_names: mountinfo)
    assert key_files._file_system(tmp_path.stat().st_dev) == ""
    monkeypatch.undo()
    assert key_files._file_system(Path("/proc/self").stat().st_dev) in ("proc", "")


def test_a_kubeconfig_that_strangers_can_change_is_refused(sound: str, problems: Lines, tmp_path: Path) -> None:
    """A kubeconfig that other users can change is rejected, because it names programs to run."""
    text = sound + KUBERNETES
    (tmp_path / "kubeconfig").write_text("{}")
    (tmp_path / "kubeconfig").chmod(0o664)
    (line,) = problems(text)
    assert line.startswith("17:17: discovery[0].kubeconfig")
    assert line.endswith(f"can be changed by other users than its owner: chmod go-w {tmp_path / 'kubeconfig'}")
    if not os.geteuid():
        (tmp_path / "kubeconfig").chmod(0o600)
        os.chown(tmp_path / "kubeconfig", STRANGER, -1)
        (line,) = problems(text)
        assert f"is owned by user ID {STRANGER}" in line


@pytest.mark.parametrize("mode", [None, 0o600, 0o644])
def test_other_kubeconfigs_are_taken(sound: str, read: Read, tmp_path: Path, mode: int | None) -> None:
    """A kubeconfig may be missing, private, or readable for all."""
    if mode is not None:
        (tmp_path / "kubeconfig").write_text("{}")
        (tmp_path / "kubeconfig").chmod(mode)
    assert read(sound + KUBERNETES).config.discovery[0].kubeconfig == tmp_path / "kubeconfig"


def test_a_check_without_keys(with_file: str, tmp_path: Path) -> None:
    """Without keys, no key file is opened, all other checks run, and one name stands for one key."""
    path = tmp_path / "qlb.yaml"
    text = f"{with_file}fallback: {{hash_key_file: keys/2.hex}}\n{KUBERNETES}"
    path.write_text(text)
    loaded = load(path, with_keys=False)
    assert loaded.warnings == ()
    assert loaded.config.cid_configs[0].key not in (None, loaded.config.fallback.hash_key)
    with pytest.raises(ConfigError, match="cannot be read"):
        load(path)
    second = "  - {config_id: 2, server_id_length: 4, nonce_length: 8, key_file: keys/1.hex}\nbackends:"
    path.write_text(text.replace("backends:", second).replace("{1: ", "{2: c0ffee09, 1: ", 1))
    (line,) = load(path, with_keys=False).warnings
    assert "config 2 has the same key as config 1" in line
    path.write_text(text.replace("nonce_length: 8", "nonce_length: 80"))
    with pytest.raises(ConfigError, match="nonce_length"):
        load(path, with_keys=False)


def test_things_that_are_no_file(with_file: str, problems: Lines, key_file: Path) -> None:
    """A missing file, a folder and a named pipe without a writer are rejected at once."""
    (line,) = problems(with_file)
    assert "cannot be read: No such file or directory" in line
    key_file.mkdir(mode=0o700)
    (line,) = problems(with_file)
    assert line.endswith("is not a regular file: a key file contains 32 hex digits")
    key_file.rmdir()
    os.mkfifo(key_file, 0o600)
    (line,) = problems(with_file)
    assert line.endswith("is not a regular file: a key file contains 32 hex digits")


def test_a_key_and_a_key_file_exclude_each_other(with_file: str, problems: Lines) -> None:
    """The problem is at the later of the two, and the file is not opened."""
    text = with_file.replace("key_file:", f"key: {KEY}\n    key_file:")
    text += f"fallback: {{hash_key_file: a, hash_key: {KEY}}}\n"
    assert problems(text) == (
        "7:15: cid_configs[0] has both key and key_file: remove one",
        "15:40: fallback has both hash_key and hash_key_file: remove one",
    )


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of credentials that systemd would name to the daemon; it does not exist yet."""
    folder = tmp_path / "run/credentials/qlb.service"
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    monkeypatch.setattr("qlb.config.credentials.FOLDERS", folder.parent)
    return folder


CREDENTIAL = "credential:keys_1.hex"


@pytest.mark.parametrize("in_a_unit", [True, False])
def test_a_credential_is_found_by_its_name(
    with_file: str, read: Read, credentials: Path, monkeypatch: pytest.MonkeyPatch, in_a_unit: bool
) -> None:
    """A credential is in the folder that systemd names; in a shell, in that of qlb.service."""
    if not in_a_unit:
        monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    credentials.mkdir(parents=True)
    write(credentials / "keys_1.hex", KEY.encode(), 0o400)
    (one,) = read(with_file.replace("keys/1.hex", CREDENTIAL)).config.cid_configs
    assert (one.key, one.key_file) == (bytes.fromhex(KEY), credentials / "keys_1.hex")
    hashed = read(with_file.replace("keys/1.hex", CREDENTIAL) + f"fallback: {{hash_key_file: {CREDENTIAL}}}\n").config
    assert hashed.fallback.hash_key == bytes.fromhex(KEY)
    printed = as_yaml(as_data(hashed, with_defaults=False))
    assert re.findall("key_file: (.*)", printed) == [CREDENTIAL, CREDENTIAL]


@pytest.mark.parametrize("by_path", [False, True])
def test_credentials_without_their_unit(
    with_file: str, problems: Lines, credentials: Path, monkeypatch: pytest.MonkeyPatch, by_path: bool
) -> None:
    """While the unit does not run, the problem names the unit. It does not ask for a new key."""
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    name = str(credentials / "keys_1.hex") if by_path else CREDENTIAL
    (line,) = problems(with_file.replace("keys/1.hex", name))
    assert line.startswith("6:15: cid_configs[0].key_file '")
    assert line.endswith(
        "' is a credential of qlb.service, which is not running: systemd has its credentials only while it runs. Check "
        "the file with them by `systemctl start qlb-check`, or without them by `qlb check --no-keys`"
    )


def test_a_credential_of_another_unit(
    with_file: str, problems: Lines, credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path leads to the credentials of one unit. Another unit, which checks the file, needs the name."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials.with_name("qlb-check.service")))
    (line,) = problems(with_file.replace("keys/1.hex", str(credentials / "keys_1.hex")))
    assert line.endswith("' is a credential of qlb.service, and this process has its own: write credential:keys_1.hex")


def test_a_credential_that_the_unit_has_not_loaded(with_file: str, problems: Lines, credentials: Path) -> None:
    """A new credential of a running unit needs a restart, which the problem names."""
    credentials.mkdir(parents=True)
    (line,) = problems(with_file.replace("keys/1.hex", CREDENTIAL))
    assert line == (
        f"6:15: cid_configs[0].key_file '{CREDENTIAL}' is not among the credentials of qlb.service: systemd loads them "
        "only when the unit starts. If the file for it is in place, run `systemctl restart qlb`, which loses no call"
    )


def test_a_credential_that_only_root_can_read(
    with_file: str, problems: Lines, credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator without privileges learns that only root can read credentials."""

    def refuse(path: Path, *_: object, **__: object) -> os.stat_result:
        if path == credentials / "keys_1.hex":
            raise PermissionError(13, "Permission denied")
        return real(path)

    real = Path.stat
    monkeypatch.setattr(Path, "stat", refuse)
    (line,) = problems(with_file.replace("keys/1.hex", CREDENTIAL))
    assert line.endswith("which only root and the user of that unit can read: run this as root")


@pytest.mark.usefixtures("as_root")
def test_the_owner_of_a_credential(
    with_file: str, problems: Lines, read: Read, credentials: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user of a unit may own its credentials, but only on a read-only file system, as systemd makes it."""
    credentials.mkdir(parents=True)
    write(credentials / "keys_1.hex", KEY.encode(), 0o400)
    os.chown(credentials / "keys_1.hex", STRANGER, -1)
    text = with_file.replace("keys/1.hex", CREDENTIAL)
    assert f"is owned by user ID {STRANGER}" in problems(text)[0]
    monkeypatch.setattr(key_files, "_is_read_only", lambda _: True)
    assert read(text).config.cid_configs[0].key == bytes.fromhex(KEY)


@pytest.mark.parametrize("name", ["..", ".", "", "../1.hex", "/etc/passwd", "a/b", "a\\b", "a b", "ä", "a" * 256])
def test_a_credential_is_a_name_and_no_path(with_file: str, problems: Lines, credentials: Path, name: str) -> None:
    """A credential cannot lead out of its folder."""
    credentials.mkdir(parents=True)
    (line,) = problems(with_file.replace("keys/1.hex", f"'credential:{name}'"))
    assert line.startswith("6:15: cid_configs[0].key_file must name a credential after credential: with letters")
