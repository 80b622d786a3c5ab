"""Backends from a separate file that another program writes. The source reads it again after each change.

It notices a replaced file (a rename, or the symbolic links of Kubernetes) and a file that is rewritten in place. An
invalid or half-written file changes nothing.
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
    """A source that checks its file every second."""

    kind: Final = "file"
    patience: Final = 1
    most: Final = MAX_BACKENDS
    retry_s: Final = _POLL_S

    def __init__(self, name: str, path: Path, read: Read) -> None:
        """read: returns the backends in the file."""
        self._name = name
        self._path = path
        self._read = read
        self._seen: tuple[int, ...] | None = None
        self._answer = Answer((), _POLL_S)
        self._error: DiscoveryError | None = None

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return self._name

    def recall(self, backends: Sequence[Backend]) -> None:
        """Do nothing: the first question reads the file."""

    async def ask(self) -> Answer:
        """Return the backends in the file. Read it only if it has changed."""
        await asyncio.to_thread(self._check)
        if self._error is not None:
            raise self._error
        return self._answer

    def _check(self) -> None:
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
