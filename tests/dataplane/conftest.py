"""Fixtures that run a test on every plane of this machine."""

import pytest

from lab.dataplane.running import WORKER_PLANES, Run, runs
from qlb.dataplane import planes


@pytest.fixture(params=WORKER_PLANES)
def plane_name(request: pytest.FixtureRequest) -> str:
    """Return the name of a plane, or skip the test if this machine cannot run it."""
    name: str = request.param
    if lack := planes.what_lacks(name):
        pytest.skip(lack)
    return name


@pytest.fixture
def running(plane_name: str) -> Run:
    """Return a context manager that runs the plane."""
    return runs(plane_name)
