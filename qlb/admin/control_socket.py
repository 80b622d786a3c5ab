"""The control socket: a Unix socket that only its owner can reach, from the first moment that it exists.

What a dead daemon left behind is replaced; a living one's is not. Whoever looks and binds holds a lock meanwhile, so of
two daemons that start together one wins and the other says so. The lock is on a file of its own beside the socket,
which only its owner can open: anybody who may look into the folder could lock the folder itself.
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
_LOCK_SUFFIX: Final = ".lock"
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
        async with _locked(path.with_name(f"{path.name}{_LOCK_SUFFIX}")):
            _remove_stale(path)
            return _bind(path)
    except OSError as error:
        raise QlbError(f"cannot open the control socket {path} (admin.socket): {error.strerror or error}") from error


@asynccontextmanager
async def _locked(file: Path) -> AsyncIterator[None]:
    """Hold the lock. The file stays: of two daemons one might lock it while the other removes it."""
    descriptor = _open_lock(file)
    try:
        for _ in range(_LOCK_POLLS):
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await asyncio.sleep(_LOCK_POLL_S)
        else:
            raise QlbError(f"another process keeps {file} locked: stop it, or put admin.socket elsewhere")
        yield
    finally:
        os.close(descriptor)


def _open_lock(file: Path) -> int:
    """Open the lock's file, mode 0600. Raises QlbError if another user has put it there, who could lock it, too."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    status = os.fstat(descriptor)
    if status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode):
        with suppress(OSError):
            os.fchmod(descriptor, 0o600)
        return descriptor
    os.close(descriptor)
    raise QlbError(f"{file} belongs to another user: put admin.socket into a folder of its own")


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
