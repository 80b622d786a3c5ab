"""Watching the files of a configuration: a change counts once, when it has settled."""

from pathlib import Path

from qlb.config.load import load
from qlb.control.file_watch import FileWatch, files_of


def test_a_change_counts_when_it_has_settled(tmp_path: Path) -> None:
    """Not while it goes on, and once it was read, not again."""
    path = tmp_path / "x"
    path.write_text("a")
    watch = FileWatch([path])
    assert not watch.has_changed([path])
    path.write_text("ab")
    assert not watch.has_changed([path])
    path.write_text("abc")
    assert not watch.has_changed([path])
    assert watch.has_changed([path])
    assert watch.has_changed([path]), "until it is read"
    watch.read([path])
    assert not watch.has_changed([path])


def test_what_somebody_else_has_read_is_no_change(tmp_path: Path) -> None:
    """A reload by hand reads it, too."""
    path = tmp_path / "x"
    path.write_text("a")
    watch = FileWatch([path])
    path.write_text("ab")
    watch.read([path])
    assert [watch.has_changed([path]) for _ in range(3)] == [False] * 3


def test_links_that_are_turned(tmp_path: Path) -> None:
    """As the kubelet does: the file's own link stays, and the folder that it leads through is another one."""
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "qlb.yaml").write_text("same length")
    (tmp_path / "..data").symlink_to("v1")
    (tmp_path / "qlb.yaml").symlink_to("..data/qlb.yaml")
    watch = FileWatch([tmp_path / "qlb.yaml"])
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").replace(tmp_path / "..data")
    assert [watch.has_changed([tmp_path / "qlb.yaml"]) for _ in range(2)] == [False, True]


def test_files_that_go_and_come(tmp_path: Path) -> None:
    """A missing file is a state like any other."""
    path = tmp_path / "x"
    watch = FileWatch([path])
    path.write_text("")
    assert [watch.has_changed([path]) for _ in range(2)] == [False, True]
    watch.read([path])
    path.unlink()
    assert [watch.has_changed([path]) for _ in range(2)] == [False, True]


def test_the_files_of_a_configuration(tmp_path: Path) -> None:
    """Its own and every key's; keys within it have none."""
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
    """It is not read in mid-sentence, however long that takes."""
    path = tmp_path / "x"
    watch = FileWatch([path])
    for number in range(5):
        path.write_text("a" * (number + 1))
        assert not watch.has_changed([path])
