"""Watching the files of a configuration: a change counts once, after two equal looks."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from qlb.config.load import load
from qlb.daemon.files import FileWatch, files_of, look_at


@pytest.fixture(autouse=True)
def old_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every file older than a tick of the clock, so that no test has to wait."""
    monkeypatch.setattr(time, "time_ns", lambda: 1 << 62)


def _read_now(watch: FileWatch, *paths: Path) -> None:
    watch.note_read({path: look_at(path) for path in paths})


def _has_settled_change(watch: FileWatch) -> bool:
    """Look twice, so that a change can settle. Return whether there was one."""
    return any(watch.has_changed() for _ in range(2))


def test_a_change_counts_when_it_has_settled(tmp_path: Path) -> None:
    """A change counts only after it has settled, and no longer after it was read."""
    path = tmp_path / "x"
    path.write_text("a")
    watch = FileWatch.now([path])
    assert not watch.has_changed()
    path.write_text("ab")
    assert not watch.has_changed()
    path.write_text("abc")
    assert not watch.has_changed()
    assert watch.has_changed()
    assert watch.has_changed(), "a change was forgotten before it was read"
    _read_now(watch, path)
    assert not watch.has_changed()


def test_a_change_that_another_reload_has_read_does_not_count(tmp_path: Path) -> None:
    """A change that another reload has already read, such as a manual one, does not count."""
    path = tmp_path / "x"
    path.write_text("a")
    watch = FileWatch.now([path])
    path.write_text("ab")
    _read_now(watch, path)
    assert [watch.has_changed() for _ in range(3)] == [False] * 3


def _rename_over(path: Path) -> None:
    """Replace the file by another one of the same size and times."""
    status, other = path.stat(), path.with_name("other")
    other.write_text("b" * status.st_size)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def _rewrite_with_the_same_times(path: Path) -> None:
    status = path.stat()
    path.write_text("b" * status.st_size)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _chmod(path: Path) -> None:
    path.chmod(0o640)


def _append(path: Path) -> None:
    with path.open("a") as file:
        file.write("b")


def _swap_link(path: Path) -> None:
    """Replace the name by a link to another file of the same size and times."""
    status = path.stat()
    for name in ("one", "two"):
        target = path.with_name(name)
        target.write_text("b" * status.st_size)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))
    path.unlink()
    path.symlink_to("two")


def _become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    "change", [_rename_over, _rewrite_with_the_same_times, _chmod, _append, _swap_link, _become_a_folder, Path.unlink]
)
def test_every_way_in_which_a_file_changes(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """A change is found even if size and modification time are the same: the inode or the change time differs."""
    path = tmp_path / "x"
    path.write_text("aaa")
    path.chmod(0o600)
    watch = FileWatch.now([path])
    assert not _has_settled_change(watch)
    change(path)
    assert _has_settled_change(watch)


def test_a_change_within_one_tick_of_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was changed just before it was read is read again, because a second change may leave no trace."""
    path = tmp_path / "x"
    path.write_text("a")
    monkeypatch.setattr(time, "time_ns", lambda: path.stat().st_ctime_ns + 1)
    watch = FileWatch.now([path])
    monkeypatch.setattr(time, "time_ns", lambda: path.stat().st_ctime_ns + (1 << 40))
    assert _has_settled_change(watch)
    _read_now(watch, path)
    assert not _has_settled_change(watch)


def test_links_that_change(tmp_path: Path) -> None:
    """A change of a link in the middle of the path is found, as when the kubelet updates a volume."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "qlb.yaml").write_text("same length")
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "qlb.yaml").symlink_to("..data/qlb.yaml")
    watch = FileWatch.now([tmp_path / "qlb.yaml"])
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").replace(tmp_path / "..data")
    assert [watch.has_changed() for _ in range(2)] == [False, True]


def test_files_that_go_and_come(tmp_path: Path) -> None:
    """A file that appears or disappears is a change."""
    path = tmp_path / "x"
    watch = FileWatch.now([path])
    path.write_text("")
    assert [watch.has_changed() for _ in range(2)] == [False, True]
    _read_now(watch, path)
    path.unlink()
    assert [watch.has_changed() for _ in range(2)] == [False, True]


def test_the_files_of_the_last_reading_are_watched(tmp_path: Path) -> None:
    """The files that the last reading named are watched, and no others."""
    old, new = tmp_path / "old", tmp_path / "new"
    watch = FileWatch.now([old])
    watch.note_read({new: look_at(new)})
    old.write_text("x")
    assert not _has_settled_change(watch)
    new.write_text("x")
    assert _has_settled_change(watch)


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    """A name that no file can have counts as absent."""
    assert look_at(Path("a\0b")) is None
    assert look_at(tmp_path / ("x" * 5000)) is None


def test_the_files_of_a_configuration(tmp_path: Path) -> None:
    """The files of a configuration are its own and every key file. Inline keys have no file."""
    key = tmp_path / "1.hex"
    key.touch(mode=0o600)
    key.write_text("00" * 16)
    path = tmp_path / "qlb.yaml"
    path.write_text(
        "listen: ['127.0.0.1:1']\nbackends: []\nfallback: {hash_key_file: 1.hex}\ncid_configs:\n"
        "  - {config_id: 1, server_id_length: 4, nonce_length: 12, key_file: 1.hex}\n"
        f"  - {{config_id: 2, server_id_length: 4, nonce_length: 12, key: {'11' * 16}}}\n"
    )
    assert files_of(path, load(path).config) == (path, key, key)


def test_a_file_that_never_rests(tmp_path: Path) -> None:
    """A file that changes again and again does not count as changed, so that it is never read half-written."""
    path = tmp_path / "x"
    watch = FileWatch.now([path])
    for number in range(5):
        path.write_text("a" * (number + 1))
        assert not watch.has_changed()
