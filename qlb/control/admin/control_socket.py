"""The control socket: a Unix socket that only its owner can reach, from the first moment that it exists.

What a dead daemon left behind is replaced; a living one's is not. Whoever looks and binds holds a lock on the
folder meanwhile, so of two daemons that start together one wins and the other says so.
"""

import asyncio
import fcntl
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from qlb.errors import QlbError

_BACKLOG: Final = 64
_LOCK_POLL_S: Final = 0.05
_LOCK_POLLS: Final = 100
_OTHERS_NOTHING: Final = 0o177
"""The umask that makes a file 0600. The mask is the whole process's, for the microseconds of one bind()."""


class ControlSocket(NamedTuple):
    """A socket that listens, and the file that stands for it.

    identity: of the file, (device, inode). borrowed: the file is somebody else's, and stays.
    """

    sock: socket.socket
    path: Path
    identity: tuple[int, int]
    borrowed: bool = False

    @classmethod
    def adopt(cls, sock: socket.socket, path: Path, *, borrowed: bool) -> "ControlSocket":
        """Take over a socket that listens already, and its file. Raises OSError where there is no such file."""
        return cls(sock, path, _identity(path), borrowed)

    def close(self) -> None:
        """Stop listening, and remove the file unless another daemon has put its own there meanwhile."""
        with suppress(FileNotFoundError):
            if not self.borrowed and _identity(self.path) == self.identity:
                self.path.unlink()
        self.sock.close()


async def open_control_socket(path: Path) -> ControlSocket:
    """Listen on a Unix socket with mode 0600; its folder is made, with mode 0700, where it is missing.

    Raises QlbError where a daemon answers there, where something else is there, or where it cannot be.
    """
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        async with _locked(path.parent):
            _remove_stale(path)
            return _bind(path)
    except OSError as error:
        raise QlbError(f"cannot open the control socket {path} (admin.socket): {error.strerror or error}") from error


@asynccontextmanager
async def _locked(folder: Path) -> AsyncIterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(_LOCK_POLLS):
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await asyncio.sleep(_LOCK_POLL_S)
        else:
            raise QlbError(f"another process keeps {folder} locked: stop it, or put admin.socket elsewhere")
        yield
    finally:
        os.close(descriptor)


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise QlbError(f"{path} (admin.socket) is there and is no socket: move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # it listens, and many are waiting
    raise QlbError(f"a daemon answers at {path} already: stop it, or give this one another admin.socket")


def _bind(path: Path) -> ControlSocket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    mask = os.umask(_OTHERS_NOTHING)
    try:
        sock.bind(str(path))
        sock.listen(_BACKLOG)
        return ControlSocket(sock, path, _identity(path))
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(mask)


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino
