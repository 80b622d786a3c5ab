"""The files that a configuration is made of, watched for changes that somebody else makes: `reload_on_change`.

They are looked at, not subscribed to: links that are turned (Kubernetes), whole replacement and rewriting in place all
look alike then. A change counts when the next look sees the same, so that nobody is read in mid-sentence.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from qlb.config.model import Config

INTERVAL_S: Final = 1.0
"""From one look to the next."""

_Look = dict[Path, tuple[int, ...] | None]


class FileWatch:
    """What the files looked like when they were last read, and at the last look."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """paths: of what has just been read."""
        self.read(paths)

    def read(self, paths: Iterable[Path]) -> None:
        """Note that the files are being read as they are now, whatever comes of it."""
        self._read = self._last = _look(paths)

    def has_changed(self, paths: Iterable[Path]) -> bool:
        """Look. Return whether they are other than when they were read, and have been so at the last look already.

        A file that was none of them then has just been read, too.
        """
        now, before = _look(paths), self._last
        self._last = now
        return now == before and any(self._read.get(path, seen) != seen for path, seen in now.items())


def files_of(path: Path, config: Config) -> tuple[Path, ...]:
    """Return the files that a configuration is made of: its own, and its keys'."""
    keys = (*(one.key_file for one in config.cid_configs), config.fallback.hash_key_file)
    return (path, *(key for key in keys if key is not None))


def _look(paths: Iterable[Path]) -> _Look:
    return {path: _look_at(path) for path in paths}


def _look_at(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
