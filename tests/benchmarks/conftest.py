"""Fixtures that compile and start the load generator."""

import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from benchmarks.connection_ids import write_cids
from benchmarks.load import Load, load_running
from benchmarks.points import Point
from benchmarks.programs import compile_program
from qlb.errors import PlaneUnavailable

StartLoad = Callable[[Point, int], AbstractContextManager[Load]]


@pytest.fixture(scope="session")
def load_program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program native/load.c, compiled once per session."""
    try:
        return compile_program("load", tmp_path_factory.mktemp("native"))
    except PlaneUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture
def start_load(load_program: Path, tmp_path: Path) -> StartLoad:
    """Return a function that starts a load of a point at a port. Port 0 sends directly to its own servers."""
    return lambda point, port: load_running(load_program, point, write_cids(point, tmp_path), port)


@pytest.fixture
def unused_port() -> Iterator[int]:
    """The port of a bound socket from which nothing is read."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]
