"""What outlives the daemon's process: operators' words on backends, and health's verdicts.

It is kept in a piece of memory that has a descriptor, so a service manager can hold it while the daemon is restarted,
and the next process reads what was true last, however this one ended. Nothing secret is in it.
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
    """Open an empty file that has no name in any folder; return its descriptor. name: shown in /proc. Raises OSError.

    In memory where the system can do that. Sandboxes and old kernels refuse memfd_create() though Python knows it; a
    file in the folder for temporary files does as well there.
    """
    if hasattr(os, "memfd_create"):
        with suppress(OSError):
            return os.memfd_create(name, os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


log = logging.getLogger("qlb")

_MAX_BYTES: Final = 16 << 20
"""Room for a hundred thousand backends; more is no memory of qlb's."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """states: backend name → what an operator has set. healthy: backend name → health's verdict.

    discovered: what sources have found, as Members has written it. former: config ID → fingerprint of the configuration
    that it stood for last.
    """

    states: Mapping[str, str] = field(default_factory=dict)
    healthy: Mapping[str, bool] = field(default_factory=dict)
    discovered: Mapping[str, object] = field(default_factory=dict)
    former: Mapping[str, str] = field(default_factory=dict)


class Memory:
    """Where it is kept: one line of JSON."""

    def __init__(self, descriptor: int | None = None) -> None:
        """descriptor: of the memory of an earlier process, owned from now on; None: begin with an empty one."""
        self.descriptor = open_anonymous("qlb-state") if descriptor is None else descriptor
        self._last: Remembered | None = None
        self._closed = False

    def read(self) -> Remembered:
        """Return what was written last, by whichever process; nothing, and a warning, where it cannot be read."""
        try:
            octets = os.pread(self.descriptor, _MAX_BYTES, 0)
            return _parse(json.loads(octets.partition(b"\n")[0])) if octets else Remembered()
        except (OSError, ValueError) as error:
            log.warning("what the daemon before this one remembered cannot be read", extra={"reason": str(error)})
            return Remembered()

    def write(self, remembered: Remembered) -> None:
        """Put this in the place of what was there, in one step. Nothing, after close()."""
        if self._closed or remembered == self._last:
            return
        # Not asdict(): it copies every list and string of thousands of backends before anything is written.
        sections = {section.name: getattr(remembered, section.name) for section in dataclasses.fields(remembered)}
        line = json.dumps(sections).encode() + b"\n"
        with suppress(OSError):  # no memory is left: the next start asks the backends itself
            os.pwrite(self.descriptor, line, 0)
            os.ftruncate(self.descriptor, len(line))
            self._last = remembered

    def close(self) -> None:
        """Let go of it; others may keep it."""
        if not self._closed:
            os.close(self.descriptor)
        self._closed = True


def _parse(found: object) -> Remembered:
    """Keep what has the right shape: another release may have written it."""
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
