"""Overload of a worker: every dropped datagram is counted, memory does not grow, and the worker continues."""

from pathlib import Path
from typing import Final

import pytest

from lab import datagrams
from lab.dataplane.running import WORKER_PLANES
from lab.echoes import echoes
from lab.stopped import standing_still
from qlb.dataplane import planes

pytestmark = pytest.mark.e2e

FLOOD: Final = 20_000
GROWTH_KIB: Final = 4 << 10


def resident_kib(pid: int) -> int:
    """Return the resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


@pytest.mark.parametrize("plane", WORKER_PLANES)
async def test_packets_that_a_stalled_worker_misses_are_counted(tmp_path: Path, plane: str) -> None:
    """For a worker that is stopped during a flood, sent = received + dropped by the kernel. Nothing else is queued.

    A notice reports the drops.
    """
    if lack := planes.what_lacks(plane):
        pytest.skip(lack)
    forwarding = {"plane": plane, "receive_buffer": "64KiB"}
    async with echoes(tmp_path, "127.0.0.1", forwarding=forwarding) as on:
        question = datagrams.short(on.id_of(on.servers[0]), b"?")
        await on.ask(question)
        worker = (await on.daemon.status())["workers"][0]["pid"]
        before = resident_kib(worker)
        with standing_still(worker):
            for _ in range(FLOOD):
                on.client.sendto(question, on.service)
        found = await on.daemon.settled()
        missed = found.total("qlb_kernel_dropped_packets_total")
        assert missed > 0
        assert found.received + missed == FLOOD + 1
        assert found.dropped == 0
        assert resident_kib(worker) - before < GROWTH_KIB
        assert (await on.ask(question))[0] == question
        await on.daemon.until_applied(
            lambda status: (
                [(one["severity"], one["kind"]) for one in status["notices"]] == [("critical", "kernel_drops")]
            )
        )
