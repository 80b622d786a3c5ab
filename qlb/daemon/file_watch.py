"""The files that a configuration is made of, watched for changes that another program makes: `reload_on_change`.

They are looked at each second, not subscribed to: links that are turned (Kubernetes), whole replacement, rewriting in
place and a changed mode all look alike then. A change counts when the next look sees the same, so that no half-written
file is read.
"""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from qlb.config.model import Config

INTERVAL_S: Final = 1.0
"""From one look to the next."""
_TICK_NS: Final = 50_000_000
"""A file system's clock may stand still for so long: a second change within it leaves the same times."""

Look = tuple[int, ...] | None
"""A file as it looks from outside; None where there is none, or it cannot be reached."""


class FileWatch:
    """The files of the last reading as they were then, and as they were at the last look."""

    def __init__(self, looks: Mapping[Path, Look]) -> None:
        """looks: at the files, from before they were read."""
        self.read(looks)

    @classmethod
    def now(cls, paths: Iterable[Path]) -> "FileWatch":
        """Begin with the files as they are now."""
        return cls({path: look_at(path) for path in paths})

    def read(self, looks: Mapping[Path, Look]) -> None:
        """Note that the files were read, whatever came of it. They are the ones to watch from now on."""
        self._read = self._last = dict(looks)

    def has_changed(self) -> bool:
        """Look. Return whether a file differs from when it was read, and all are as they were at the last look."""
        now, before = {path: look_at(path) for path in self._read}, self._last
        self._last = now
        return now == before and now != self._read


def files_of(path: Path, config: Config) -> tuple[Path, ...]:
    """Return the files that a configuration is made of: its own, and its keys'."""
    keys = (*(one.key_file for one in config.cid_configs), config.fallback.hash_key_file)
    return (path, *(key for key in keys if key is not None))


def look_at(path: Path) -> Look:
    """Return what identifies the content of a file without reading it.

    The time of the last change of its inode is part of it: it changes with every write, chmod and chown, also where the
    size and the time of modification are set to what they were. A file that has changed within this tick of the clock
    could change again without a trace, so its look is one that never comes again.
    """
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    now_ns = time.time_ns()
    look = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode
    return (*look, now_ns) if 0 <= now_ns - status.st_ctime_ns < _TICK_NS else look
