"""Standard input, output and error, also of a process that was started without some of them (``2>&-``).

Sockets and files that the process opens later must not get their numbers. Otherwise text for standard error would go
to such a socket or file, and libuv aborts the process when it closes descriptor 2.
"""

import os
import sys
from contextlib import suppress
from typing import Final

_LAST: Final = 2
"""Standard error has the highest number of the three."""


def open_missing_streams() -> None:
    """Open /dev/null for each standard stream that is closed. Call this before anything else is opened."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, "r", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def discard_unwritable() -> None:
    """Flush standard output and error. If one cannot be written to, redirect it to /dev/null.

    Call this last. Python flushes both when it exits, and replaces the exit code with 120 if that fails.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def escaped(line: str) -> str:
    """Return a line with its control characters escaped, so that text from outside cannot command a terminal."""
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
