"""The pauses between probes."""

import pytest

from qlb.health.pace import Pace


@pytest.mark.parametrize(
    ("draw", "now", "slept"),
    [(0.5, 100.0, 2.0), (0.0, 100.0, 1.8), (1.0, 100.0, 2.2), (0.5, 101.5, 0.5), (0.5, 109.0, 0.0)],
)
async def test_rest_is_what_is_left_of_a_jittered_interval(draw: float, now: float, slept: float) -> None:
    """A rest is the interval, up to a tenth longer or shorter, minus the time of the probe, and at least 0."""
    rests: list[float] = []

    async def sleep(delay_s: float) -> None:
        rests.append(delay_s)

    await Pace(now=lambda: now, sleep=sleep, draw=lambda: draw).rest(100.0, 2.0)
    assert rests == pytest.approx([slept])


async def test_by_default_it_is_the_real_clock() -> None:
    """By default the clock is monotonic, and there is no rest if the interval is over."""
    pace = Pace()
    began_s = pace.now()
    await pace.rest(began_s - 1.0, 0.5)
    assert pace.now() >= began_s
