"""The files of a configuration: read and checked aside, and watched for changes by other programs.

Reading is slow and changes nothing in the daemon. A thread reads a small file, another process a large one.

`reload_on_change` compares the files once a second instead of subscribing to changes. So it finds a switched symbolic
link (Kubernetes), a replaced file, a file written in place and a changed mode in the same way. A change counts when two
checks in a row see the same, so that no half-written file is read.
"""

import asyncio
import copyreg
import io
import pickle
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from qlb.config.load import Loaded, load
from qlb.config.model import Config, read_only
from qlb.daemon.compiling import JobFailed, run_job
from qlb.daemon.preflight import preflight
from qlb.errors import ConfigError, QlbError
from qlb.health.probes import find_probe
from qlb.local_addresses import local_hosts

IN_THREAD_BYTES: Final = 1 << 16
"""The largest file that a thread reads: some 700 backends, 0.2 s. A process takes 0.4 s to start."""
INTERVAL_S: Final = 1.0
"""The time from one check of the files to the next."""
_TICK_NS: Final = 50_000_000
"""A file system's clock may stand still for this time, so that a second change within it leaves the same times."""

Look = tuple[int, ...] | None
"""The attributes that identify a file's content; None if the file does not exist or cannot be reached."""


@dataclass(frozen=True, slots=True)
class FilesRead:
    """The result of reading a configuration. loaded: None if it is invalid; problems then has the reasons.

    looks: every file that the configuration consists of or names, as it was before it was read.
    may_pass: only this machine cannot run the configuration now, so a later try can succeed without a change of a file.
    """

    loaded: Loaded | None
    problems: tuple[str, ...]
    looks: Mapping[Path, Look]
    may_pass: bool = False


async def read_aside(path: Path, running: Config) -> FilesRead:
    """Read a configuration in a thread, or in another process if the file is large. Does not raise.

    running: the configuration in force. Only the keys that a reload cannot change are compared with it.
    """
    frame = replace(running, backends=(), discovery=(), cid_configs=())
    try:
        size = (await asyncio.to_thread(path.stat)).st_size
    except (OSError, ValueError):
        size = 0
    if size <= IN_THREAD_BYTES:
        return await asyncio.to_thread(read, path, frame)
    try:
        packed = await run_job(_read_packed, path, _packed(frame))
    except JobFailed as error:
        return FilesRead(None, (f"{path} could not be read: {error}",), {path: look_at(path)}, may_pass=True)
    result: FilesRead = await asyncio.to_thread(pickle.loads, packed)
    return result


def read(path: Path, running: Config) -> FilesRead:
    """Read a configuration and check whether it can run on this machine. Does not raise."""
    looks: dict[Path, Look] = {}

    def look(named: Path) -> None:
        looks.setdefault(named, look_at(named))

    try:
        loaded = load(path, running=running, before_reading=look, find_local=local_hosts)
    except ConfigError as error:
        return FilesRead(None, error.problems, looks)
    try:
        preflight(loaded)
        find_probe(loaded.config.health.probe)  # imports its library here and not in the event loop
    except QlbError as error:
        return FilesRead(None, getattr(error, "problems", (str(error),)), looks, may_pass=True)
    return FilesRead(loaded, (), looks)


def _read_packed(path: Path, frame: bytes) -> bytes:
    return _packed(read(path, pickle.loads(frame)))  # noqa: S301 (the supervisor wrote it)


def _packed(value: object) -> bytes:
    """Pickle a value that contains configurations: pickle alone cannot pickle their read-only mappings."""
    octets = io.BytesIO()
    pickler = pickle.Pickler(octets)
    pickler.dispatch_table = {**copyreg.dispatch_table, MappingProxyType: _reduce}
    pickler.dump(value)
    return octets.getvalue()


def _reduce(mapping: MappingProxyType[int, tuple[bytes, ...]]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return read_only, (dict(mapping),)


class FileWatch:
    """The files that were read last, as they were then and as they were at the last check."""

    def __init__(self, looks: Mapping[Path, Look]) -> None:
        """looks: the files as they were before they were read."""
        self.note_read(looks)

    @classmethod
    def now(cls, paths: Iterable[Path]) -> "FileWatch":
        """Start with the files as they are now."""
        return cls({path: look_at(path) for path in paths})

    def note_read(self, looks: Mapping[Path, Look]) -> None:
        """Note that the files were read, with or without success, and watch these files from now on."""
        self._read = self._last = dict(looks)

    def has_changed(self) -> bool:
        """Return whether a file differs from what was read, and all files are as they were at the last check."""
        now, before = {path: look_at(path) for path in self._read}, self._last
        self._last = now
        return now == before and now != self._read


def files_of(path: Path, config: Config) -> tuple[Path, ...]:
    """Return the files that a configuration consists of: its own file and its key files."""
    keys = (*(one.key_file for one in config.cid_configs), config.fallback.hash_key_file)
    return (path, *(key for key in keys if key is not None))


def look_at(path: Path) -> Look:
    """Return the attributes that identify a file's content, without reading the file.

    They include the time of the last change of the inode. It changes with every write, chmod and chown, even if another
    program restores the size and the modification time. A file that has changed within the current tick of the clock
    could change again without a trace, so its result is unique.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    now_ns = time.time_ns()
    look = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode
    return (*look, now_ns) if 0 <= now_ns - status.st_ctime_ns < _TICK_NS else look
