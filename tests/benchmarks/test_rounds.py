"""Tests of the measurement: forwarders measured in turns, and the recorded rounds."""

from pathlib import Path

import pytest

from benchmarks.forwarders import all_forwarders
from benchmarks.points import Point
from benchmarks.rounds import Bench, Pace, Row

pytestmark = pytest.mark.toolchain


def test_measures_the_floor(load_program: Path, tmp_path: Path) -> None:
    """Every round moves packets and counts both directions; a forwarder that cannot run is named."""
    floor, socat = (each for each in all_forwarders(tmp_path) if each.name in ("floor", "socat"))
    rows = [(Row("base", "base", each.name, Point(flows=10)), each) for each in (floor, socat)]
    Bench(tmp_path, load_program, Pace(rounds=2, round_s=0.01)).measure(rows, paced=True)
    measured, missing = (row for row, _ in rows)
    assert missing.missing is not None
    assert missing.rounds == []
    assert measured.missing is None
    assert len(measured.rounds) == 2
    assert all(each.packets == 2 * each.received > 0 and each.cpu_ns > 0 for each in measured.rounds)
    assert measured.sessions is not None
    assert measured.paced is not None
    assert len(measured.paced.most) == len(measured.paced.half) == len(measured.paced.direct) == 2
