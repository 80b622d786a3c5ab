"""Clients and servers of a measurement: native/load.c, run as a process that reads commands from its stdin."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.connection_ids import laps
from benchmarks.network import cores, in_new_network, pinned
from benchmarks.points import SHAPES, Point


@dataclass(frozen=True, slots=True)
class Run:
    """Result of one command to the load.

    sent, received: datagrams; one that goes there and back counts once. send_s: time until the last one was sent.
    elapsed_s: time until the last one arrived. The latencies are 0 except in paced runs. repeated: the load sent at
    least one connection ID twice.
    """

    sent: int
    received: int
    send_s: float
    elapsed_s: float
    p50_us: float
    p99_us: float
    p999_us: float
    repeated: bool


class Load:
    """A running load program. backends: the ports of its servers."""

    def __init__(self, process: "subprocess.Popen[str]", point: Point) -> None:
        """Read the servers' ports. Callers use load_running() instead."""
        self._process = process
        self.pid = process.pid
        self.point = point
        self.unsent = laps(point) * point.flows
        self.backends: list[int] = self._answer()["backends"]

    def probe(self, timeout_ms: int) -> bool:
        """Send until a datagram arrives or the timeout passes; return whether one arrived."""
        return self._run(f"probe {timeout_ms}").received > 0

    def closed(self, window: int, count: int) -> Run:
        """Send this many datagrams, with at most `window` of them in flight."""
        return self._run(f"closed {window} {count}")

    def paced(self, rate: float, count: int) -> Run:
        """Send this many datagrams at a fixed rate per second, even if they are lost."""
        return self._run(f"paced {rate:f} {count}")

    def _run(self, command: str) -> Run:
        assert self._process.stdin is not None, "it was started with a pipe"
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        run = Run(**self._answer())
        self.unsent -= run.sent
        return run

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None, "it was started with a pipe"
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load program ended with exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def load_running(program: Path, point: Point, cids: Path, port: int) -> Iterator[Load]:
    """Run the load program. port: the forwarder's on 127.0.0.1; 0 = clients send directly to the servers."""
    words = [port, point.flows, point.backends, point.size_bytes, point.burst]
    way = "back" if point.answered else "there"
    command = [str(program), *map(str, words), way, str(cids), str(SHAPES[point.shape].cid_length)]
    with pinned(cores()[1]):
        process = subprocess.Popen(
            in_new_network(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
    with process:
        try:
            yield Load(process, point)
        finally:
            process.kill()
