"""New keys and their files."""

import stat
from pathlib import Path

import pytest

from qlb.cid.params import KEY_BYTES
from qlb.rotation.keys import new_key, write_key


def test_a_new_key() -> None:
    """Every key is new and has the length that the codec needs."""
    first, second = new_key(), new_key()
    assert (len(first), first != second) == (KEY_BYTES, True)


def test_a_key_file(tmp_path: Path) -> None:
    """Only the owner can read the file and enter its new folder. An existing file is not overwritten."""
    path = tmp_path / "keys/1.hex"
    write_key(path, bytes(KEY_BYTES))
    assert path.read_text() == f"{0:032x}\n"
    assert [stat.S_IMODE(one.stat().st_mode) for one in (path, path.parent)] == [0o600, 0o700]
    with pytest.raises(FileExistsError):
        write_key(path, new_key())
    assert path.read_text() == f"{0:032x}\n"
