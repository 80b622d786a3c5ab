"""The processor time and the memory that a worker reports."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from qlb.routing.counters import CPU_NS, RESIDENT_BYTES, SIZE_BYTES, Counters
from qlb.workers import usage
from qlb.workers.usage import report_usage, resident_bytes


async def test_the_count_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker adds its time to that of the workers before it, from the start of the report on."""
    times = iter((700, 700, 900))
    monkeypatch.setattr(time, "process_time_ns", lambda: next(times))
    monkeypatch.setattr(usage, "resident_bytes", lambda: 4096)
    counters = Counters(bytearray(SIZE_BYTES))
    counters.slots[CPU_NS] = 50
    seen = []

    async def note(_: float) -> None:
        seen.append((counters.slots[CPU_NS], counters.slots[RESIDENT_BYTES]))
        if len(seen) == 2:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", note)
    with pytest.raises(asyncio.CancelledError):
        await report_usage(counters)
    assert seen == [(50, 4096), (250, 4096)]


def test_resident_memory(tmp_path: Path) -> None:
    """The second field of statm counts pages. Without the file, or with an odd one, the memory is unknown."""
    path = tmp_path / "statm"
    path.write_text("900 3 2 1 0 4 0\n")
    assert resident_bytes(path) == 3 * os.sysconf("SC_PAGE_SIZE")
    for text in ("", "900", "900 many"):
        path.write_text(text)
        assert resident_bytes(path) == 0
    assert resident_bytes(tmp_path / "none") == 0
