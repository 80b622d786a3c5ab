"""Every plane that this machine can run."""

import pytest

from lab.dataplane.running import Run, runs
from qlb.dataplane import planes as probe


@pytest.fixture(params=sorted(probe.WORKER_PLANES))
def plane_name(request: pytest.FixtureRequest) -> str:
    """Name a plane; skip the test where the machine lacks what it needs."""
    name: str = request.param
    if lack := probe.what_lacks(name):
        pytest.skip(lack)
    return name


@pytest.fixture
def running(plane_name: str) -> Run:
    """Run a plane until the end of a block."""
    return runs(plane_name)
