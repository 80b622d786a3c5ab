"""Interface of a forwarder: its command, and its processes that move packets."""

import itertools
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from benchmarks.load import Load
from benchmarks.network import cores, in_network_of, pinned
from benchmarks.points import Point

STOP_S: Final = 10
PROBE_MS: Final = 250
TRIES: Final = 80


class Missing(Exception):
    """A forwarder that cannot be measured on this machine or with this traffic. The text gives the reason."""


@dataclass(frozen=True, slots=True)
class Place:
    """Folder for a forwarder's files, its UDP port, and its backends' ports, all on 127.0.0.1."""

    folder: Path
    port: int
    backends: list[int]


class Forwarder(Protocol):
    """A program that forwards datagrams to backends and their answers back."""

    name: str

    def command(self, place: Place, point: Point) -> list[str]:
        """Write the configuration, and return the command. Raises Missing."""

    def pids(self, pid: int, place: Place) -> list[int]:
        """Return the processes that move packets. Call it once the forwarder forwards. pid: of the command."""


@dataclass(frozen=True, slots=True)
class Running:
    """A forwarder that is ready. pids: its processes that move packets."""

    name: str
    pids: list[int]


@contextmanager
def forwarder_running(forwarder: Forwarder, place: Place, load: Load) -> Iterator[Running]:
    """Run a forwarder on its core and in the load's network; yield once it forwards. Raises Missing."""
    command = in_network_of(load.pid, forwarder.command(place, load.point))
    errors = place.folder / "errors"
    with errors.open("wb") as log, pinned(cores()[0]):
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        tries = itertools.takewhile(lambda _: process.poll() is None, range(TRIES))
        if not any(load.probe(PROBE_MS) for _ in tries):
            said = errors.read_text(errors="replace").strip().splitlines() or ["no output"]
            raise Missing(f"{said[-1]} (exit code {process.poll()})")
        yield Running(forwarder.name, forwarder.pids(process.pid, place))
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
