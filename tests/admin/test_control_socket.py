"""The file of the control socket: who may use it, whose it is, and what happens to what was there."""

import asyncio
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qlb.admin.control_socket import open_control_socket
from qlb.errors import QlbError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the socket is to be; its folder is not there yet."""
    return tmp_path / "deep" / "run" / "qlb.sock"


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    """A careless umask, which must come back."""
    before = os.umask(0)
    yield
    assert os.umask(before) == 0


def mode(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.lstat().st_mode)


async def test_only_the_owner_gets_in(path: Path) -> None:
    """Whatever the umask: the socket is 0600, its new folder 0700."""
    control = await open_control_socket(path)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    control.close()
    assert not path.exists()


async def test_closed_to_others_from_the_first_moment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its birth and the first connection there is no moment with another mode."""
    modes: list[int] = []
    listen = socket.socket.listen

    def watched(sock: socket.socket, backlog: int) -> None:
        modes.append(mode(path))
        listen(sock, backlog)

    monkeypatch.setattr(socket.socket, "listen", watched)
    (await open_control_socket(path)).close()
    assert modes == [0o600]


async def test_an_existing_folder_stays_as_it_is(tmp_path: Path) -> None:
    """It may be shared with others."""
    tmp_path.chmod(0o755)
    control = await open_control_socket(tmp_path / "qlb.sock")
    assert mode(tmp_path) == 0o755
    control.close()


async def test_what_a_dead_daemon_left_is_replaced(path: Path) -> None:
    """A socket on which nobody listens is only a name."""
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    control = await open_control_socket(path)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
    control.close()


async def test_a_living_daemon_keeps_it(path: Path) -> None:
    """The text says what to do, and the socket still works."""
    control = await open_control_socket(path)
    with pytest.raises(QlbError, match=r"a daemon answers at .*qlb\.sock already: stop it, or .*admin\.socket"):
        await open_control_socket(path)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
    control.close()


async def test_a_busy_daemon_is_a_living_one(path: Path) -> None:
    """Its queue is full, so it answers nobody now; it is there all the same."""
    path.parent.mkdir(parents=True)
    callers = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        for caller in callers:
            caller.setblocking(False)
            caller.connect_ex(str(path))
        with pytest.raises(QlbError, match="already"):
            await open_control_socket(path)
    for caller in callers:
        caller.close()


@pytest.mark.parametrize("kind", ["file", "folder", "link to a dead socket"])
async def test_something_else_is_not_touched(path: Path, kind: str) -> None:
    """A mistyped path costs nobody a file."""
    path.parent.mkdir(parents=True)
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path.with_name("other")))
        path.symlink_to("other")
    before = path.lstat()
    with pytest.raises(QlbError, match="is no socket: move it away"):
        await open_control_socket(path)
    assert path.lstat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("name", "words"), [("x" * 200, "AF_UNIX path too long"), ("file/qlb.sock", "Not a directory|File exists")]
)
async def test_a_path_that_cannot_be(tmp_path: Path, name: str, words: str) -> None:
    """The error names the path, the key and the reason."""
    (tmp_path / "file").touch()
    with pytest.raises(QlbError, match=rf"cannot open the control socket .* \(admin\.socket\): ({words})"):
        await open_control_socket(tmp_path / name)


async def test_only_what_is_ours_is_removed(path: Path) -> None:
    """Somebody put another file there meanwhile, or took ours away."""
    control = await open_control_socket(path)
    path.unlink()
    path.write_text("theirs")
    control.close()
    assert path.read_text() == "theirs"
    path.unlink()
    control = await open_control_socket(path)
    path.unlink()
    control.close()


async def test_of_two_that_start_together_one_wins(path: Path) -> None:
    """Both find the same dead socket; one replaces it, the other finds the first one living."""
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    results: list[Any] = await asyncio.gather(*(open_control_socket(path) for _ in range(2)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["ControlSocket", "QlbError"]
    next(result for result in results if not isinstance(result, QlbError)).close()


async def test_a_lock_is_waited_for_and_not_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another daemon holds the lock for a moment; a process that never lets go is named as the reason."""
    (await open_control_socket(path)).close()
    naps: list[float] = []
    other = os.open(path.with_name("qlb.sock.lock"), os.O_RDWR)

    async def nap(delay_s: float) -> None:
        naps.append(delay_s)
        if len(naps) == 3:
            fcntl.flock(other, fcntl.LOCK_UN)

    monkeypatch.setattr(asyncio, "sleep", nap)
    fcntl.flock(other, fcntl.LOCK_EX)
    (await open_control_socket(path)).close()
    assert len(naps) == 3
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(QlbError, match=r"another process keeps .* locked"):
        await open_control_socket(path)
    os.close(other)


async def test_who_may_only_look_into_the_folder_locks_nothing(path: Path) -> None:
    """A lock on the folder itself, which any user may take who can read it, is none on the daemon."""
    (await open_control_socket(path)).close()
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    (await open_control_socket(path)).close()
    os.close(folder)
    assert stat.S_IMODE(path.with_name("qlb.sock.lock").stat().st_mode) == 0o600


async def test_a_lock_of_another_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that all may write to: another user could hold it for ever, so it is refused in words."""
    path.parent.mkdir(parents=True)
    path.with_name("qlb.sock.lock").touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(QlbError, match=r"qlb\.sock\.lock belongs to another user"):
        await open_control_socket(path)


async def test_a_lock_that_is_a_link(path: Path) -> None:
    """It is not followed: it could lead to a file of somebody else."""
    path.parent.mkdir(parents=True)
    path.with_name("qlb.sock.lock").symlink_to("/dev/null")
    with pytest.raises(QlbError, match="cannot open the control socket"):
        await open_control_socket(path)
