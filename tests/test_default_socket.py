"""The default control socket: where a daemon creates it, and where a command finds it."""

import os
import stat
from pathlib import Path

import pytest

from qlb import default_socket
from qlb.default_socket import candidates, choose, find


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let a folder of this test stand for /. Return it; it has run/ and run/user/."""
    (tmp_path / "run/user").mkdir(parents=True)
    monkeypatch.setattr(default_socket, "SYSTEM_FOLDER", tmp_path / "run/qlb")
    return tmp_path


def forbid(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Let this process have no access to some folders: as root it has access to all."""
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) not in folders and real(path, mode))


def test_the_candidates() -> None:
    """Systemd's folder comes first, then /run/qlb, then that of the user. Each path occurs once."""
    assert candidates({}) == (Path("/run/qlb/qlb.sock"),)
    variables = {"RUNTIME_DIRECTORY": "/run/edge:/run/more", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert [str(path.parent) for path in candidates(variables)] == ["/run/edge", "/run/qlb", "/run/user/7"]
    assert candidates({"RUNTIME_DIRECTORY": "/run/qlb", "XDG_RUNTIME_DIR": "relative"}) == candidates({})


def test_root_and_another_user(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that can create /run/qlb, or write there, uses it. Any other uses the folder of its user."""
    environ = {"XDG_RUNTIME_DIR": str(folders / "run/user")}
    system, own = folders / "run/qlb/qlb.sock", folders / "run/user/qlb.sock"
    assert choose(environ) == system
    (folders / "run/qlb").mkdir()
    assert choose(environ) == system
    forbid(monkeypatch, folders / "run/qlb")
    assert choose(environ) == own
    (folders / "run/qlb").rmdir()
    forbid(monkeypatch, folders / "run")
    assert choose(environ) == own
    assert choose({}) is None
    assert choose({"XDG_RUNTIME_DIR": str(folders / "run/missing")}) is None


def test_a_folder_that_another_user_controls(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of a third user is not used, because that user could replace the socket. A file is no folder."""
    (folders / "run/qlb").mkdir()
    real = Path.stat

    def owned_by_another(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        status = real(path, follow_symlinks=follow_symlinks)
        return os.stat_result((*status[:4], os.geteuid() + 1, *status[5:])) if path.name == "qlb" else status

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", owned_by_another)
        assert choose({}) is None
    (folders / "run/qlb").rmdir()
    (folders / "run/qlb").write_text("")
    assert choose({}) is None
    assert choose({"RUNTIME_DIRECTORY": str(folders / "run/qlb/below")}) is None


def test_a_command_finds_the_daemon_of_its_user(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command uses the first socket that its user can write to. Without any, it names that of a new daemon."""
    environ = {"XDG_RUNTIME_DIR": str(folders / "run/user")}
    system, own = folders / "run/qlb/qlb.sock", folders / "run/user/qlb.sock"
    assert find(environ) == system
    own.touch()
    assert find(environ) == own
    system.parent.mkdir()
    system.touch()
    assert find(environ) == system
    forbid(monkeypatch, system)
    assert find(environ) == own
    own.unlink()
    forbid(monkeypatch, system, system.parent)
    assert find(environ) == own
    assert find({}) == system


def test_the_folder_that_the_daemon_creates_is_closed(folders: Path) -> None:
    """Only the parent of the chosen path may be missing, and only in /run: qlb creates it with mode 0700."""
    chosen = choose({})
    assert chosen is not None
    assert not chosen.parent.exists()
    assert stat.S_ISDIR(chosen.parent.parent.stat().st_mode)
    (folders / "run/user").rmdir()
    (folders / "run").rmdir()
    assert choose({}) is None
