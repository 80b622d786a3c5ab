"""The floors: the minimum that a forwarder must do, in C and in Python."""

import sys
from pathlib import Path

from benchmarks.forwarders.base import Missing, Place
from benchmarks.points import Point
from benchmarks.programs import compile_program
from qlb.errors import PlaneUnavailable


class Floor:
    """native/floor.c: only the system calls of proxy mode."""

    name = "floor"

    def __init__(self, folder: Path) -> None:
        """Set the folder to compile into."""
        self._folder = folder

    def command(self, place: Place, point: Point) -> list[str]:  # noqa: ARG002
        """Compile the program at the first call, and return the command. Raises Missing."""
        program = self._folder / "floor"
        if not program.exists():
            try:
                compile_program("floor", self._folder)
            except PlaneUnavailable as error:
                raise Missing(str(error)) from None
        return [str(program), str(place.port), *map(str, place.backends)]

    def pids(self, pid: int, place: Place) -> list[int]:  # noqa: ARG002
        """Return the only process."""
        return [pid]


class Relay:
    """relay_loop.py: a minimal Python forwarder on uvloop. It uses only the first backend."""

    name = "Python relay"

    def command(self, place: Place, point: Point) -> list[str]:  # noqa: ARG002
        """Return the command."""
        return [sys.executable, "-m", "benchmarks.forwarders.relay_loop", str(place.port), str(place.backends[0])]

    def pids(self, pid: int, place: Place) -> list[int]:  # noqa: ARG002
        """Return the only process."""
        return [pid]
