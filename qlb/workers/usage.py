"""The processor time and the memory that a worker uses. The worker writes them into its counters."""

import asyncio
import os
import time
from pathlib import Path
from typing import Final

from qlb.routing.counters import CPU_NS, RESIDENT_BYTES, Counters

_INTERVAL_S: Final = 0.25
_STATM: Final = Path("/proc/self/statm")
_RESIDENT: Final = 1
"""Index of the resident pages in statm."""


async def report_usage(counters: Counters) -> None:
    """Write this process's usage into its counters four times a second, until it is cancelled."""
    before_ns, began_ns = counters.slots[CPU_NS], time.process_time_ns()
    while True:
        counters.slots[CPU_NS] = before_ns + time.process_time_ns() - began_ns
        counters.slots[RESIDENT_BYTES] = resident_bytes()
        await asyncio.sleep(_INTERVAL_S)


def resident_bytes(statm: Path = _STATM) -> int:
    """Return the resident memory of this process; 0 if the system does not report it."""
    try:
        return int(statm.read_text().split()[_RESIDENT]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
