"""A soak test of seconds. ``make soak`` runs it for minutes, and ``make asan`` with the sanitizers."""

from pathlib import Path
from typing import Final

import pytest

from lab.soak import soak

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SECONDS: Final = 12.0
LIMIT_S: Final = 360.0
GROWTH_KIB: Final = 16 << 10
"""Room for the parts of workers' buffers that earlier cycles did not use. A leak would exceed it."""


async def test_everything_at_once(tmp_path: Path) -> None:
    """Address changes, reloads, killed workers and garbage: no call is lost, sums agree, and memory does not grow."""
    seen = await soak(tmp_path, SECONDS, limit_s=LIMIT_S)
    assert seen.lost == []
    assert seen.metrics is not None
    assert seen.metrics.total("qlb_worker_restarts_total") == seen.kills, "a worker has died that was not killed"
    assert seen.metrics.total("qlb_config_generation") == 1 + seen.reloads
    assert seen.growth_kib < GROWTH_KIB, str(seen)
