"""Standard input, output and error of a process that was started without some of them (``2>&-``).

Their numbers must not go to sockets and files that the process opens later: whatever writes to standard error would
write to those, and libuv aborts the process when it closes descriptor 2.
"""

import os
import sys
from contextlib import suppress
from typing import Final

_LAST: Final = 2
"""Standard error has the highest number of the three."""


def open_missing_streams() -> None:
    """Put /dev/null in the place of each standard stream that is closed. Call it before anything else is opened."""
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
    """Flush standard output and error; point one that cannot be written to at /dev/null.

    Call it last. Python flushes both when it ends, and replaces the exit code by 120 if that fails.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)
