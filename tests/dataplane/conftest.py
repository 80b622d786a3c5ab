"""Every plane that this machine can run."""

import pytest

from qlb.dataplane import probe
from tests.dataplane.running import Run, runs


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
