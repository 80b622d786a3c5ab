"""Stopping other processes: packets then remain in their sockets."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_POLL_S: Final = 0.001


@contextmanager
def standing_still(*pids: int) -> Iterator[None]:
    """Stop processes until the end of the block. The block starts when /proc shows that all their threads stopped."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        while not all(map(_stands_still, pids)):
            time.sleep(_POLL_S)
        yield
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _stands_still(pid: int) -> bool:
    stats = [each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)
