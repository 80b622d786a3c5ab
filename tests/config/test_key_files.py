"""Key files: what is read, and what is refused."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from qlb.config import Loaded

KEY = "8f95f09245765f80256934e50c66207f"
Lines = Callable[[str], tuple[str, ...]]
Read = Callable[[str], Loaded]


@pytest.fixture
def with_file(sound: str) -> str:
    """A configuration whose key is in keys/1.hex."""
    return sound.replace('key: "00112233445566778899aabbccddeeff"', "key_file: keys/1.hex")


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """The place of the key file; its folder is there."""
    (tmp_path / "keys").mkdir()
    return tmp_path / "keys/1.hex"


def write(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file with a mode."""
    path.write_bytes(content)
    path.chmod(mode)


@pytest.mark.parametrize("content", [KEY, KEY.upper(), f"{KEY}\n", f"\r\n\t {KEY} \r\n"])
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o400])
def test_a_key_file_is_read(with_file: str, read: Read, key_file: Path, content: str, mode: int) -> None:
    """Relative to the configuration, whitespace around the digits is fine, the group may read it."""
    write(key_file, content.encode(), mode)
    (one,) = read(with_file).config.cid_configs
    assert one.key == bytes.fromhex(KEY)
    assert one.key_file == key_file
    assert KEY not in repr(one)


def test_an_absolute_name_is_taken_as_it_is(with_file: str, read: Read, tmp_path: Path) -> None:
    """It need not be below the configuration."""
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
        (b"", "is empty: write a key into it, `qlb keygen > "),
        (b" \n", "is empty: write a key into it, `qlb keygen > "),
        (KEY[:-1].encode(), "must be 32 hex digits (16 octets), as `qlb keygen` prints them; it has 31 characters"),
        (f"{KEY[:16]} {KEY[16:]}".encode(), "must be 32 hex digits (16 octets)"),
        (f"{KEY}\n{KEY}\n".encode(), "must be 32 hex digits (16 octets)"),
        (KEY[:-1].encode() + b"\xff", "must be 32 hex digits (16 octets)"),
        (bytes.fromhex(KEY), "must be 32 hex digits (16 octets)"),
        (KEY.encode() * 1000, "has more than 4096 octets: a key file holds 32 hex digits"),
    ],
)
def test_files_that_hold_no_key(with_file: str, problems: Lines, key_file: Path, content: bytes, says: str) -> None:
    """The file is named, its content is not shown."""
    write(key_file, content)
    (line,) = problems(with_file)
    assert line.startswith(f"6:15: cid_configs[0].key_file 'keys/1.hex' {says}")
    assert KEY[:8] not in line


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o666, 0o644, 0o777])
def test_a_key_file_that_others_can_open_is_refused(with_file: str, problems: Lines, key_file: Path, mode: int) -> None:
    """Any access of others, with the command that takes it away; nothing of it is read."""
    write(key_file, b"not even a key", mode)
    assert problems(with_file) == (
        f"6:15: cid_configs[0].key_file 'keys/1.hex' is open to everybody on this machine: chmod o-rwx {key_file}",
    )


def test_things_that_are_no_file(with_file: str, problems: Lines, key_file: Path) -> None:
    """Absent, a folder, a named pipe that nobody writes to: refused at once."""
    (line,) = problems(with_file)
    assert "cannot be read: No such file or directory" in line
    key_file.mkdir(mode=0o700)
    (line,) = problems(with_file)
    assert line.endswith("is not a regular file: a key file holds 32 hex digits")
    key_file.rmdir()
    os.mkfifo(key_file, 0o600)
    (line,) = problems(with_file)
    assert line.endswith("is not a regular file: a key file holds 32 hex digits")


def test_a_key_and_a_key_file_exclude_each_other(with_file: str, problems: Lines) -> None:
    """The later of the two is pointed at, and the file is not even looked for."""
    text = with_file.replace("key_file:", f"key: {KEY}\n    key_file:")
    text += f"fallback: {{hash_key_file: a, hash_key: {KEY}}}\n"
    assert problems(text) == (
        "7:15: cid_configs[0] has both key and key_file: remove one",
        "15:40: fallback has both hash_key and hash_key_file: remove one",
    )
