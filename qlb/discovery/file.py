"""Backends from a file of their own, which something else writes: read again whenever it has changed.

Whole replacement (rename, and the symbolic links of Kubernetes) and rewriting in place are both noticed. A file that
is wrong, or half written, changes nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from qlb.discovery.source import Answer, DiscoveryError
from qlb.errors import QlbError
from qlb.routing.backends import MAX_BACKENDS, Backend

_POLL_S: Final = 1.0

Read = Callable[[Path], tuple[Backend, ...]]
"""Read the backends in a file. Raises QlbError with every problem."""


class FileSource:
    """A file that is looked at each second."""

    kind: Final = "file"
    patience: Final = 1
    most: Final = MAX_BACKENDS
    retry_s: Final = _POLL_S

    def __init__(self, name: str, path: Path, read: Read) -> None:
        """name: what it is called. read: makes backends of the file."""
        self._name = name
        self._path = path
        self._read = read
        self._seen: tuple[int, ...] | None = None
        self._answer = Answer((), _POLL_S)
        self._error: DiscoveryError | None = None

    @property
    def name(self) -> str:
        """What it is called."""
        return self._name

    def recall(self, backends: Sequence[Backend]) -> None:
        """Nothing to learn: the file is read anew."""

    async def ask(self) -> Answer:
        """Return what the file holds; it is read only where it has changed."""
        await asyncio.to_thread(self._look)
        if self._error is not None:
            raise self._error
        return self._answer

    def _look(self) -> None:
        try:
            status = self._path.stat()
        except OSError as error:
            self._seen, self._error = None, DiscoveryError(f"{self._path}: {error.strerror}")
            return
        seen = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._answer, self._error = Answer(self._read(self._path), _POLL_S), None
        except QlbError as error:
            self._error = DiscoveryError(str(error))
