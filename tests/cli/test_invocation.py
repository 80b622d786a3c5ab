"""The commands that are printed for pasting: in the form in which this process was started."""

import importlib.util
import os
import sys
from pathlib import Path

import pytest

from qlb.cli.invocation import own_command, own_python, require_aioquic
from qlb.errors import BackendError


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Create an environment with qlb and Python, and enter the folder above. Return the environment's bin folder."""
    folder = tmp_path / "my env/bin"
    folder.mkdir(parents=True)
    for name in ("qlb", "python"):
        (folder / name).touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", "/nonexistent")
    return folder


def test_from_a_checkout(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is printed as it was typed, and quoted; for another folder it becomes absolute."""
    monkeypatch.setattr(sys, "argv", ["my env/bin/qlb"])
    assert own_command() == "'my env/bin/qlb'"
    assert own_command(Path("below")) == f"'{installed / 'qlb'}'"
    assert own_python() == "'my env/bin/python'"
    assert own_python(Path("below")) == f"'{installed / 'python'}'"
    monkeypatch.chdir("/")
    assert own_python() == f"'{installed / 'python'}'" or not own_python().startswith("'..")


def test_from_the_path(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the shell finds qlb and this Python by their names, the names are enough, in every folder."""
    monkeypatch.setenv("PATH", str(installed))
    monkeypatch.setattr(sys, "argv", [str(installed / "qlb")])
    assert [own_command(), own_command(Path("below"))] == ["qlb", "qlb"]
    assert [own_python(), own_python(Path("below"))] == ["python", "python"]


def test_another_program_of_the_same_name(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the shell finds another qlb first, the path is printed."""
    (tmp_path / "qlb").touch(mode=0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{installed}")
    monkeypatch.setattr(sys, "argv", [str(installed / "qlb")])
    assert own_command() == f"'{installed / 'qlb'}'"


def test_as_a_module(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m qlb` is printed like this."""
    monkeypatch.setattr(sys, "argv", [str(installed / "qlb/__main__.py")])
    assert own_command() == "'my env/bin/python' -m qlb"


@pytest.mark.usefixtures("installed")
def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra and the command that installs it into this environment."""
    require_aioquic()
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackendError) as raised:
        require_aioquic()
    assert str(raised.value) == (
        "this command needs the aioquic extra: 'my env/bin/python' -m pip install 'qlb[aioquic]'"
    )
