"""State that outlives the daemon's process: what operators have set, and the verdicts of health.

The state is in memory with a descriptor. A service manager can store the descriptor while the daemon restarts, and the
new process reads the last state, even if the old process crashed. The state contains no secret.
"""

import dataclasses
import json
import logging
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final


def open_anonymous(name: str) -> int:
    """Open an empty file without a path, and return its descriptor. name: appears in /proc. Raises OSError.

    The file is in memory if the system supports it. Sandboxes and old kernels may refuse memfd_create(); then it is in
    the folder for temporary files.
    """
    if hasattr(os, "memfd_create"):
        with suppress(OSError):
            return os.memfd_create(name, os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


log = logging.getLogger("qlb")

_MAX_BYTES: Final = 16 << 20
"""Enough for a hundred thousand backends; qlb writes no more."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """The stored state. states: backend name → state that an operator set. healthy: backend name → verdict of health.

    discovered: the members that sources found, as Members writes them. former: config ID → fingerprint of its last CID
    config.
    """

    states: Mapping[str, str] = field(default_factory=dict)
    healthy: Mapping[str, bool] = field(default_factory=dict)
    discovered: Mapping[str, object] = field(default_factory=dict)
    former: Mapping[str, str] = field(default_factory=dict)


class Memory:
    """The memory of the state: one line of JSON."""

    def __init__(self, descriptor: int | None = None) -> None:
        """Open the memory. descriptor: of an earlier process, owned from now on; None: start with an empty one."""
        self.descriptor = open_anonymous("qlb-state") if descriptor is None else descriptor
        self._last: Remembered | None = None
        self._closed = False

    def read(self) -> Remembered:
        """Return the state that a process wrote last. If it is unreadable, log a warning and return an empty state."""
        try:
            octets = os.pread(self.descriptor, _MAX_BYTES, 0)
            return _parse(json.loads(octets.partition(b"\n")[0])) if octets else Remembered()
        except (OSError, ValueError) as error:
            log.warning("the stored state of the old process cannot be read", extra={"reason": str(error)})
            return Remembered()

    def write(self, remembered: Remembered) -> None:
        """Replace the stored state in one step. Do nothing after close()."""
        if self._closed or remembered == self._last:
            return
        # Not asdict(): it copies every list and string of thousands of backends before anything is written.
        sections = {section.name: getattr(remembered, section.name) for section in dataclasses.fields(remembered)}
        line = json.dumps(sections).encode() + b"\n"
        with suppress(OSError):  # out of memory: the new process probes the backends itself
            os.pwrite(self.descriptor, line, 0)
            os.ftruncate(self.descriptor, len(line))
            self._last = remembered

    def close(self) -> None:
        """Close the descriptor; other processes may still have theirs."""
        if not self._closed:
            os.close(self.descriptor)
        self._closed = True


def _parse(found: object) -> Remembered:
    """Return the parts of the expected type: another release may have written the state."""
    sections = found if isinstance(found, dict) else {}
    states, healthy, discovered, former = (sections.get(name) for name in ("states", "healthy", "discovered", "former"))
    return Remembered(
        {str(name): state for name, state in states.items() if isinstance(state, str)}
        if isinstance(states, dict)
        else {},
        {str(name): one for name, one in healthy.items() if isinstance(one, bool)} if isinstance(healthy, dict) else {},
        {str(name): one for name, one in discovered.items()} if isinstance(discovered, dict) else {},
        {str(n): one for n, one in former.items() if isinstance(one, str)} if isinstance(former, dict) else {},
    )
