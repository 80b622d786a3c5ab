"""The floors: as little as a forwarder can do, in C and in Python."""

import sys
from pathlib import Path

from benchmarks.forwarders.base import Missing, Place
from benchmarks.points import Point
from benchmarks.programs import compile_program
from qlb.errors import PlaneUnavailable


class Floor:
    """native/floor.c: the system calls of proxy mode and nothing else."""

    name = "floor"

    def __init__(self, folder: Path) -> None:
        """Remember where to compile it."""
        self._folder = folder

    def command(self, place: Place, point: Point) -> list[str]:  # noqa: ARG002
        """Compile it at the first call."""
        program = self._folder / "floor"
        if not program.exists():
            try:
                compile_program("floor", self._folder)
            except PlaneUnavailable as error:
                raise Missing(str(error)) from None
        return [str(program), str(place.port), *map(str, place.backends)]

    def pids(self, pid: int, place: Place) -> list[int]:  # noqa: ARG002
        """It is one process."""
        return [pid]


class Relay:
    """relay_loop.py: the floor of one datagram a callback on uvloop. It has one backend, whatever there are."""

    name = "Python relay"

    def command(self, place: Place, point: Point) -> list[str]:  # noqa: ARG002
        """It needs no configuration."""
        return [sys.executable, "-m", "benchmarks.forwarders.relay_loop", str(place.port), str(place.backends[0])]

    def pids(self, pid: int, place: Place) -> list[int]:  # noqa: ARG002
        """It is one process."""
        return [pid]
