"""Tests of the load against its own servers, with no forwarder between them."""

from dataclasses import replace

import pytest

from benchmarks.points import Point
from tests.benchmarks.conftest import StartLoad

pytestmark = pytest.mark.toolchain

POINT = Point(flows=20)
TRAFFIC = {
    "there and back": POINT,
    "there": replace(POINT, answered=False),
    "bursts": replace(POINT, burst=16),
    "small": replace(POINT, size_bytes=64, flows=1),
    "large": replace(POINT, size_bytes=1200, backends=50),
}


@pytest.mark.parametrize("name", TRAFFIC)
def test_loses_nothing_within_a_window(start_load: StartLoad, name: str) -> None:
    """Every sent datagram is received and counted once, also in bursts."""
    with start_load(TRAFFIC[name], 0) as load:
        run = load.closed(64, 3200)
        assert (run.sent, run.received) == (3200, 3200)
        assert 0 < run.send_s <= run.elapsed_s + 0.1


def test_latencies_are_in_order(start_load: StartLoad) -> None:
    """A paced run sends the requested number and returns plausible percentiles."""
    with start_load(POINT, 0) as load:
        run = load.paced(10_000, 1000)
        assert (run.sent, run.received) == (1000, 1000)
        assert 0 < run.p50_us <= run.p99_us <= run.p999_us <= run.elapsed_s * 1e6
        assert run.send_s >= 0.09


def test_reports_a_repeated_id(start_load: StartLoad, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh IDs do not repeat until the file ends; after that the run reports a repetition."""
    monkeypatch.setattr("benchmarks.connection_ids.FRESH", 400)
    with start_load(replace(POINT, fresh=True), 0) as load:
        assert load.unsent == 400
        assert not load.closed(20, 380).repeated
        assert load.closed(20, 40).repeated
        assert load.unsent == -20


def test_counts_lost_datagrams(start_load: StartLoad, unused_port: int) -> None:
    """A run ends even if no datagram is read by its receiver."""
    with start_load(POINT, unused_port) as load:
        run = load.paced(100_000, 50)
        assert (run.sent, run.received) == (50, 0)
        assert not load.probe(40)
