"""Read the file that ``qlb server-config`` prints, and follow its changes: the one impure module of floors 0 to 2.

Only the two methods ``from_file`` import it, when they are called. So a server that passes its parameters itself loads
no file, clock, signal, thread or log with `qlb.cid`. YAML needs PyYAML, which is imported only for a file that is not
JSON: `qlb.cid` still works with `cryptography` alone.
"""

import json
import logging
import os
import queue
import signal
import stat
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

from qlb.cid.params import CidParams
from qlb.cid.server_config import ServerConfig, read_server_config
from qlb.errors import CidError

log: Final = logging.getLogger("qlb.cid")

MAX_FILE_BYTES: Final = 1 << 20
LOOK_S: Final = 1.0
"""The time between two looks at a file. A change counts when it is the same in two looks, or on SIGHUP at once."""

_State = tuple[int, int, int, int, int] | None
"""Properties of a file that differ after each write and each replacement; None if the file does not exist."""


def load(
    path: str | os.PathLike[str], config_id: int | None, server_id_index: int, *, is_followed: bool = False
) -> tuple[CidParams, bytes]:
    """Read a file and return the parameters and the server ID to issue from, as ServerConfig.choose() does.

    is_followed: reject a pipe and a device, whose changes are invisible.
    Raises CidError, which names the file, if it cannot be read or is wrong.
    """
    try:
        if is_followed and Path(path).exists() and not Path(path).is_file():
            raise CidError("it is not a regular file, so its changes cannot be followed")
        chosen = _read(Path(path)).choose(config_id, server_id_index)
    except CidError as error:
        raise CidError(f"{os.fspath(path)}: {error}") from None
    if chosen[0].key is not None and _is_exposed(Path(path)):
        log.warning("%s contains a key, and every user of this machine can read it: chmod o-rwx it", os.fspath(path))
    return chosen


def _read(path: Path) -> ServerConfig:
    """Read a file. Raises CidError without its name."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: the path has a null character
        raise CidError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_FILE_BYTES:
        raise CidError(f"the file has more than {MAX_FILE_BYTES >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CidError("not UTF-8 text") from None
    return read_server_config(_parse(text))


def _is_exposed(path: Path) -> bool:
    """Return whether other users can read a file.

    A read-only file system is an exception: Docker and Kubernetes deliver secrets on one, with the modes 0444 and 0644.
    """
    try:
        return bool(path.stat().st_mode & stat.S_IROTH) and not os.statvfs(path).f_flag & os.ST_RDONLY
    except OSError:
        return False


def _parse(text: str) -> object:
    """Return the data of a text in JSON or YAML. Raises CidError."""
    try:
        document: object = json.loads(text)
    except ValueError:
        return _parse_yaml(text)
    except RecursionError:
        raise CidError("the file is nested too deeply") from None
    return document


def _parse_yaml(text: str) -> object:
    try:
        import yaml
    except ImportError:
        raise CidError("it is not JSON, and YAML needs PyYAML: pip install PyYAML, or write the file as JSON") from None
    try:
        document: object = yaml.load(text, yaml.BaseLoader)  # noqa: S506 (it creates only text, lists and mappings)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        raise CidError(f"{where}{getattr(error, 'problem', None) or 'not YAML'}") from None
    return document


class Follower:
    """A thread that reads a file again after each change and on SIGHUP. It never ends its process and never raises.

    States: new → start() → following → stop() → stopped. It also stops when the owner of its receiver is gone, and
    starts again in a forked child.
    """

    def __init__(self, path: str | os.PathLike[str], receive: Callable[[ServerConfig], str]) -> None:
        """receive: a method; applies what was read, and returns the change in words, "" if nothing has changed.

        It may raise CidError to reject what was read. The follower does not keep the object of the method alive.
        """
        self._path = Path(path).absolute()  # the process may change its directory
        self._receive = weakref.WeakMethod(receive)
        self._wakes: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._is_following = False
        self._unhook: Callable[[], None] = lambda: None
        self._read: _State = None
        """The state of the file when it was last read; the first look reads the file again."""
        self._pending: _State = None
        self._complaint = ""

    def start(self, *, on_sighup: bool) -> None:
        """Follow the file. on_sighup: also read it at each SIGHUP, if this is the main thread."""
        self._is_following = True
        if on_sighup:
            self._unhook = _on_sighup(self.wake)
        again = weakref.WeakMethod(self._restart)
        os.register_at_fork(after_in_child=lambda: _call(again))
        self._restart()

    def wake(self) -> None:
        """Read the file now. A signal handler may call this: the queue can be used inside its own methods."""
        self._wakes.put(True)

    def stop(self) -> None:
        """Follow no longer, and restore the handler of SIGHUP if it is still this follower's."""
        self._is_following = False
        self._unhook()
        self._wakes.put(False)

    def look(self, *, is_asked: bool) -> None:
        """Read the file if it has changed since it was last read, and no longer changes; if asked, in any case."""
        now = _state(self._path)
        is_settled = now == self._pending
        self._pending = now
        if is_asked or (is_settled and now != self._read):
            self._read = now
            self._apply(is_asked)

    def _restart(self) -> None:
        """Start the thread: at first, and in a forked child, which has no other thread than the one that forked."""
        if self._is_following:
            self._wakes = queue.SimpleQueue()
            threading.Thread(target=self._follow, args=(self._wakes,), name="qlb.cid follower", daemon=True).start()

    def _follow(self, wakes: "queue.SimpleQueue[bool]") -> None:
        while self._is_following and self._receive() is not None:
            try:
                is_asked = wakes.get(timeout=LOOK_S)
            except queue.Empty:
                is_asked = False
            if self._is_following:
                self.look(is_asked=is_asked)

    def _apply(self, is_asked: bool) -> None:
        receive = self._receive()
        if receive is None:
            return
        try:
            change = receive(_read(self._path))
        except CidError as error:
            if is_asked or str(error) != self._complaint:
                log.error("%s: %s; connection IDs still have the old parameters", self._path, error)
            self._complaint = str(error)
            return
        self._complaint = ""
        if change or is_asked:
            log.info("%s was read again: %s", self._path, change or "no changes")


def _call(method: "weakref.WeakMethod[Callable[[], None]]") -> None:
    if (found := method()) is not None:
        found()


def _state(path: Path) -> _State:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _on_sighup(wake: Callable[[], None]) -> Callable[[], None]:
    """Call a function at each SIGHUP, and then the handler before it. Return a function that undoes this.

    Only the main thread can handle signals. A handler that was not installed by Python stays alone.
    """
    before = signal.getsignal(signal.SIGHUP)
    if threading.current_thread() is not threading.main_thread() or before is None:
        return lambda: None

    def handle(number: int, frame: FrameType | None) -> None:
        wake()
        if callable(before):
            before(number, frame)

    def undo() -> None:
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGHUP) is handle:
            signal.signal(signal.SIGHUP, before)

    signal.signal(signal.SIGHUP, handle)
    return undo
