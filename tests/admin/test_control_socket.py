"""The file of the control socket: its permissions, its owner, and how an existing file is treated."""

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
    """Return a path for the socket. Its folder does not exist yet."""
    return tmp_path / "run" / "qlb.sock"


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    """Set a umask of 0, and check that it is restored after the test."""
    before = os.umask(0)
    yield
    assert os.umask(before) == 0


def mode(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.lstat().st_mode)


async def test_only_the_owner_gets_in(path: Path) -> None:
    """With any umask, the socket has mode 0600 and its new folder has mode 0700."""
    control = await open_control_socket(path)
    assert (mode(path), mode(path.parent)) == (0o600, 0o700)
    control.close()
    assert not path.exists()


async def test_closed_to_others_from_the_first_moment(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket has mode 0600 before it starts to listen, so no connection can use another mode."""
    modes: list[int] = []
    listen = socket.socket.listen

    def watched(sock: socket.socket, backlog: int) -> None:
        modes.append(mode(path))
        listen(sock, backlog)

    monkeypatch.setattr(socket.socket, "listen", watched)
    (await open_control_socket(path)).close()
    assert modes == [0o600]


async def test_an_existing_folder_stays_as_it_is(tmp_path: Path) -> None:
    """An existing folder retains its mode, because other programs may use it."""
    tmp_path.chmod(0o755)
    control = await open_control_socket(tmp_path / "qlb.sock")
    assert mode(tmp_path) == 0o755
    control.close()


async def test_the_socket_of_a_dead_daemon_is_replaced(path: Path) -> None:
    """A socket file on which no process listens is replaced."""
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    control = await open_control_socket(path)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
    control.close()


async def test_the_socket_of_a_running_daemon_is_refused(path: Path) -> None:
    """A second daemon gets an error with advice, and the first daemon's socket still works."""
    control = await open_control_socket(path)
    with pytest.raises(QlbError, match=r"a daemon already answers at .*qlb\.sock: stop it, or .*admin\.socket"):
        await open_control_socket(path)
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))
    control.close()


async def test_a_busy_daemon_counts_as_running(path: Path) -> None:
    """A daemon whose queue is full accepts no connection, but it is still found to be running."""
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
async def test_a_path_that_is_not_a_socket_is_not_touched(path: Path, kind: str) -> None:
    """A path that is not a socket is not removed, so a mistyped path cannot delete a file."""
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
async def test_an_impossible_path(tmp_path: Path, name: str, words: str) -> None:
    """The error names the path, the key and the reason."""
    (tmp_path / "file").touch()
    with pytest.raises(QlbError, match=rf"cannot open the control socket .* \(admin\.socket\): ({words})"):
        await open_control_socket(tmp_path / name)


async def test_only_the_daemons_own_file_is_removed(path: Path) -> None:
    """If another program has replaced or removed the file, closing the socket does not remove anything."""
    control = await open_control_socket(path)
    path.unlink()
    path.write_text("theirs")
    control.close()
    assert path.read_text() == "theirs"
    path.unlink()
    control = await open_control_socket(path)
    path.unlink()
    control.close()


async def test_of_two_daemons_that_start_together_one_wins(path: Path) -> None:
    """Both daemons find the same dead socket. One replaces it; the other finds the first one running."""
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    results: list[Any] = await asyncio.gather(*(open_control_socket(path) for _ in range(2)), return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["ControlSocket", "QlbError"]
    next(result for result in results if not isinstance(result, QlbError)).close()


async def test_a_lock_is_awaited_for_a_limited_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock that another daemon has for a moment is awaited. If it is never released, the error names it."""
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
    with pytest.raises(QlbError, match=r"another process has locked .*"):
        await open_control_socket(path)
    os.close(other)


async def test_a_lock_on_the_folder_does_not_matter(path: Path) -> None:
    """Any user who can read the folder can lock the folder itself. That does not lock out the daemon."""
    (await open_control_socket(path)).close()
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    (await open_control_socket(path)).close()
    os.close(folder)
    assert stat.S_IMODE(path.with_name("qlb.sock.lock").stat().st_mode) == 0o600


async def test_a_lock_of_another_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock file of another user is refused, because that user could keep it locked for ever."""
    path.parent.mkdir(parents=True)
    path.with_name("qlb.sock.lock").touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(QlbError, match=r"qlb\.sock\.lock belongs to another user"):
        await open_control_socket(path)


async def test_a_lock_that_is_a_link(path: Path) -> None:
    """A lock file that is a symbolic link is not followed, because it could lead to another user's file."""
    path.parent.mkdir(parents=True)
    path.with_name("qlb.sock.lock").symlink_to("/dev/null")
    with pytest.raises(QlbError, match="cannot open the control socket"):
        await open_control_socket(path)
