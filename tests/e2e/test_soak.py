"""A soak of seconds; ``make soak`` is one of minutes, ``make asan`` one under the sanitizers."""

from pathlib import Path
from typing import Final

import pytest

from lab.soak import soak

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SECONDS: Final = 12.0
LIMIT_S: Final = 360.0
GROWTH_KIB: Final = 16 << 10
"""What a worker's buffers may come to that an earlier cycle has not touched; a leak has no such bound."""


async def test_everything_at_once(tmp_path: Path) -> None:
    """Address changes, reloads, kills of workers and garbage: 0 calls lost, the sums hold, memory stays flat."""
    seen = await soak(tmp_path, SECONDS, limit_s=LIMIT_S)
    assert seen.lost == []
    assert seen.metrics is not None
    assert seen.metrics.total("qlb_worker_restarts_total") == seen.kills, "nobody has died but who was killed"
    assert seen.metrics.total("qlb_config_generation") == 1 + seen.reloads
    assert seen.growth_kib < GROWTH_KIB, str(seen)
