"""Tests of each installed forwarder, in both directions."""

import re
from pathlib import Path

import pytest

from benchmarks.forwarders import Forwarder, Missing, Place, all_forwarders, forwarder_running
from benchmarks.network import forwarder_port
from benchmarks.points import Point
from benchmarks.processes import cpu, memory
from tests.benchmarks.conftest import StartLoad

pytestmark = pytest.mark.toolchain

NAMES = [forwarder.name for forwarder in all_forwarders(Path())]
FLOWS = {"socat": 1}
SIXTEEN = 16
NOT_HERE = re.compile(r"not installed|no C compiler|no plane|plane batch")


@pytest.fixture
def forwarder(request: pytest.FixtureRequest, tmp_path: Path) -> Forwarder:
    """The forwarder with the parameter's name."""
    return next(each for each in all_forwarders(tmp_path) if each.name == request.param)


@pytest.mark.parametrize("forwarder", NAMES, indirect=True)
@pytest.mark.parametrize("burst", [1, SIXTEEN])
def test_forwards_there_and_back(forwarder: Forwarder, burst: int, start_load: StartLoad, tmp_path: Path) -> None:
    """No datagram is lost, and the CPU and memory of the named process can be measured."""
    port = forwarder_port()
    with start_load(Point(flows=FLOWS.get(forwarder.name, 20), burst=burst), port) as load:
        try:
            with forwarder_running(forwarder, Place(tmp_path, port, load.backends), load) as running:
                run = load.closed(64, 160)
                assert (run.sent, run.received) == (160, 160)
                assert len(running.pids) == 1
                assert cpu(running.pids).total_ns > 0
                assert memory(running.pids).resident > 0
        except Missing as error:
            if NOT_HERE.search(str(error)) is None:
                raise
            pytest.skip(str(error))


def test_socat_forwards_one_flow(tmp_path: Path) -> None:
    """With more than one flow socat is reported as missing, with the reason."""
    socat = next(each for each in all_forwarders(tmp_path) if each.name == "socat")
    with pytest.raises(Missing, match=r"one flow|not installed"):
        socat.command(Place(tmp_path, 1, [2]), Point(flows=2))
