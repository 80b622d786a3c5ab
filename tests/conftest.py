"""Fixtures that several test folders share."""

import fcntl
import logging
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import settings

from lab.dataplane.network import Network

# Machines differ in speed, so examples have no deadline. Derandomized examples make failures reproducible.
settings.register_profile("qlb", deadline=None, derandomize=True)
settings.load_profile("qlb")


@pytest.fixture
def network() -> Iterator[Network]:
    """A small network on loopback addresses."""
    with ExitStack() as stack:
        yield Network(stack)


@pytest.fixture(scope="session", autouse=True)
def own_runtime_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Give daemons without admin.socket a folder of this test run for their control socket, in place of /run/qlb."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNTIME_DIRECTORY", str(tmp_path_factory.mktemp("run")))
        for name in ("QLB_SOCKET", "QLB_CONFIG", "XDG_RUNTIME_DIR"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def restored_logger() -> Iterator[None]:
    """Restore the logger after each test: a supervisor configures it for a whole process."""
    logger = logging.getLogger("qlb")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def usual_ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep other tests from `qlb init` until the end of the test: it chooses the usual ports while they are free."""
    with (tmp_path_factory.getbasetemp().parent / "usual-ports").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
