"""`qlb init`: the files, their modes, and what it never does. tests/e2e/test_first_steps.py pastes its commands."""

import importlib.util
import os
import re
import socket
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from lab.command_line import Run
from qlb.cid import CidGenerator
from qlb.config.load import load
from qlb.config.server_config import server_config_yaml

ROOT = Path(__file__).parents[2]
FILES = ["agent-a.yaml", "agent-b.yaml", "edge.yaml", "keys", "server.py"]
SECRET = ["agent-a.yaml", "agent-b.yaml", "keys/1.hex"]


def names(folder: Path) -> list[str]:
    """Return the names in a folder."""
    return sorted(path.name for path in folder.iterdir())


def commands(output: str) -> list[str]:
    """Return the commands in the output."""
    return re.findall(r"^  (.+)$", output, re.MULTILINE)


def test_the_files(tmp_path: Path, qlb: Run) -> None:
    """The configuration has no warning, the secrets have mode 0600, and each server's file is what qlb prints."""
    folder = tmp_path / "deep" / "edge"
    result = qlb("init", folder)
    assert (result.code, result.err) == (0, "")
    assert names(folder) == FILES
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in SECRET} == {0o600}
    assert stat.S_IMODE((folder / "keys").stat().st_mode) == 0o700
    loaded = load(folder / "edge.yaml")
    assert loaded.warnings == ()
    assert loaded.config.admin.socket == (folder / "qlb.sock").resolve()
    for backend in loaded.config.backends:
        assert (folder / f"{backend.name}.yaml").read_text() == server_config_yaml(loaded.config, backend.name)
        generator = CidGenerator.from_file(folder / f"{backend.name}.yaml")
        assert generator.server_id == backend.server_ids[1][0]
    assert (folder / "server.py").read_text() == (ROOT / "examples/minimal_server.py").read_text()
    key = (folder / "keys/1.hex").read_text().strip()
    assert key not in result.out
    assert key not in (folder / "edge.yaml").read_text()


def test_the_shipped_server_is_the_example() -> None:
    """The server that init writes is examples/minimal_server.py; a wheel contains only the package."""
    assert (ROOT / "qlb/demo/minimal_server.py").read_text() == (ROOT / "examples/minimal_server.py").read_text()


def test_two_keys_differ(tmp_path: Path, qlb: Run) -> None:
    """Each configuration has a key of its own."""
    for name in "ab":
        assert qlb("init", tmp_path / name).code == 0
    assert (tmp_path / "a/keys/1.hex").read_text() != (tmp_path / "b/keys/1.hex").read_text()


def test_the_current_folder(tmp_path: Path, qlb: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without DIR, the files are in the current folder, and no command changes the folder."""
    monkeypatch.chdir(tmp_path)
    result = qlb("init")
    assert names(tmp_path) == FILES
    assert not any(command.startswith("cd ") for command in commands(result.out))
    assert commands(result.out)[-1] == "kill $(jobs -p)"


@pytest.mark.parametrize("name", ["edge.yaml", "keys/1.hex", "agent-b.yaml", "server.py"])
@pytest.mark.parametrize("kind", ["file", "dangling link"])
def test_nothing_is_overwritten(tmp_path: Path, qlb: Run, name: str, kind: str) -> None:
    """If one file exists, nothing is written, and the error names it."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("precious") if kind == "file" else path.symlink_to("gone")
    result = qlb("init", tmp_path)
    assert (result.code, result.out) == (1, "")
    assert result.err == f"qlb: {path} exists already: nothing was written; choose another folder\n"
    assert names(tmp_path) == [name.split("/")[0]]
    assert kind != "file" or path.read_text() == "precious"


def test_a_second_run(tmp_path: Path, qlb: Run) -> None:
    """A second run changes nothing; its error names one file, and the number of the others."""
    assert qlb("init", tmp_path).code == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    result = qlb("init", tmp_path)
    assert result.code == 1
    assert "edge.yaml exists already, and 4 more of the files: nothing was written" in result.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be_created(tmp_path: Path, qlb: Run) -> None:
    """The error names the path and the reason."""
    (tmp_path / "file").touch()
    result = qlb("init", tmp_path / "file" / "edge")
    assert (result.code, result.err) == (
        1,
        f"qlb: cannot write {tmp_path}/file/edge: Not a directory; nothing was written\n",
    )


def test_a_disk_that_becomes_full(tmp_path: Path, qlb: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a file cannot be written, those before it are removed again, and so are the new folders."""
    real = os.open

    def fail(path: object, flags: int, mode: int = 0o777, **more: int) -> int:
        if str(path).endswith("agent-b.yaml"):
            raise OSError(28, "No space left on device", str(path))
        return real(path, flags, mode, **more)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "open", fail)
    result = qlb("init", tmp_path / "deep" / "edge")
    assert (result.code, "agent-b.yaml: No space left on device; nothing was written" in result.err) == (1, True)
    assert names(tmp_path) == []


def test_ports_that_are_taken(tmp_path: Path, qlb: Run) -> None:
    """A taken port is replaced by the next free one, in the file and in the commands."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        with suppress(OSError):  # if another program has it, that is as good
            sock.bind(("127.0.0.1", 5001))
        result = qlb("init", tmp_path)
    first, second = (backend.address.port for backend in load(tmp_path / "edge.yaml").config.backends)
    assert 5001 < first < second
    assert [command.split()[-2] for command in commands(result.out) if "server.py" in command] == [
        str(first),
        str(second),
    ]


def test_a_long_path(tmp_path: Path, qlb: Run) -> None:
    """In a folder whose path is too long for a Unix socket, the configuration uses the default socket."""
    folder = tmp_path / ("x" * 100)
    assert qlb("init", folder).code == 0
    assert load(folder / "edge.yaml").config.admin.socket is None


def test_without_aioquic(tmp_path: Path, qlb: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the aioquic extra, the commands install it first."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    lines = commands(qlb("init", tmp_path / "edge").out)
    assert lines[0].startswith("cd ")
    assert lines[1].endswith(" -m pip install 'qlb[aioquic]'")
