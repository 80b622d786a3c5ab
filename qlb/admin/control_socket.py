"""The control socket: a Unix socket that only its owner can reach, from the moment of its creation.

A socket that a dead daemon left behind is replaced, but not the socket of a live one. A daemon checks and binds under a
lock, so of two daemons that start at the same time, one succeeds and the other reports an error. The lock is on a
separate file beside the socket, which only its owner can open. A lock on the folder would not do: every user who may
read the folder could lock it.
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
"""The umask that makes a file 0600. It applies to the whole process during one bind(), for some microseconds."""


class ControlSocket(NamedTuple):
    """A listening socket and its file.

    identity: of the file, (device, inode). borrowed: another process owns the file, so close() does not remove it.
    """

    sock: socket.socket
    path: Path
    identity: tuple[int, int]
    borrowed: bool = False

    @classmethod
    def adopt(cls, sock: socket.socket, path: Path, *, borrowed: bool) -> "ControlSocket":
        """Use a socket that already listens, and its file. Raises OSError if the file does not exist."""
        return cls(sock, path, _identity(path), borrowed)

    def close(self) -> None:
        """Stop listening, and remove the file unless another daemon has replaced it."""
        with suppress(FileNotFoundError):
            if not self.borrowed and _identity(self.path) == self.identity:
                self.path.unlink()
        self.sock.close()


async def open_control_socket(path: Path) -> ControlSocket:
    """Listen on a Unix socket with mode 0600. Create its folder, but none above it, with mode 0700.

    The folders above must exist: a mistyped path would otherwise create a tree of folders somewhere.

    Raises QlbError if a daemon answers there, if the path is no socket, or if the system refuses.
    """
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        async with _locked(path.with_name(f"{path.name}{_LOCK_SUFFIX}")):
            _remove_stale(path)
            return _bind(path)
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, FileNotFoundError):
            reason = f"the folder {path.parent.parent} does not exist; create it, or set another path"
        raise QlbError(f"cannot open the control socket {path} (admin.socket): {reason}") from error


@asynccontextmanager
async def _locked(file: Path) -> AsyncIterator[None]:
    """Lock a file for the time of a block. The file stays: one daemon might lock it while another one removes it."""
    descriptor = _open_lock(file)
    try:
        for _ in range(_LOCK_POLLS):
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            await asyncio.sleep(_LOCK_POLL_S)
        else:
            raise QlbError(f"another process has locked {file}: stop it, or set admin.socket to another path")
        yield
    finally:
        os.close(descriptor)


def _open_lock(file: Path) -> int:
    """Open the lock file, mode 0600. Raises QlbError if it belongs to another user, who could lock it too."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    status = os.fstat(descriptor)
    if status.st_uid == os.geteuid() and stat.S_ISREG(status.st_mode):
        with suppress(OSError):
            os.fchmod(descriptor, 0o600)
        return descriptor
    os.close(descriptor)
    raise QlbError(f"{file} belongs to another user: move admin.socket to a folder of its own")


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise QlbError(f"{path} (admin.socket) exists and is no socket: move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.setblocking(False)
        try:
            caller.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass  # it listens, but its queue of connections is full
    raise QlbError(f"a daemon already answers at {path}: stop it, or set another admin.socket for this one")


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
