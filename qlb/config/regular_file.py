"""Reading a file that an operator has named, without waiting for anything that is no file."""

import os
import stat
from pathlib import Path


def read_regular_file(path: Path, max_bytes: int) -> tuple[bytes, int]:
    """Return the content of a regular file and its mode.

    Raises OSError where it cannot be opened, ValueError where it is no regular file or has more than max_bytes octets.
    """
    # Look before opening: opening a device can have effects (a watchdog starts, a tape is rewound).
    _require_regular(path.stat().st_mode)
    # O_NONBLOCK: a pipe that took the file's place since then would block until a writer comes.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _require_regular(status.st_mode)
        content = file.read(max_bytes + 1) if status.st_size <= max_bytes else b""
    if status.st_size > max_bytes or len(content) > max_bytes:
        raise ValueError(f"the file has more than {_size(max_bytes)}")
    return content, status.st_mode


def _require_regular(mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise ValueError("Is a directory, not a file")
    if not stat.S_ISREG(mode):
        raise ValueError("this is not a regular file (a pipe, a socket or a device); write the text to a file first")


def _size(octets: int) -> str:
    return f"{octets >> 20} MiB" if octets >= 1 << 20 else f"{octets} octets"
