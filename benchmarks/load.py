"""The clients and servers of a measurement: native/load.c as a process that takes commands."""

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
    """What one command of the load has seen.

    sent, received: datagrams, each counted once even where it went there and back. send_s: until the last was
    sent. elapsed_s: until the last has arrived. The latencies are 0 but for paced runs. repeated: connection IDs
    were sent for a second time.
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
    """A running load. backends: the ports of its servers."""

    def __init__(self, process: "subprocess.Popen[str]", point: Point) -> None:
        """Use load_running() instead."""
        self._process = process
        self.pid = process.pid
        self.point = point
        self.unsent = laps(point) * point.flows
        self.backends: list[int] = self._answer()["backends"]

    def probe(self, timeout_ms: int) -> bool:
        """Send until something arrives, at most so long; return whether it did."""
        return self._run(f"probe {timeout_ms}").received > 0

    def closed(self, window: int, count: int) -> Run:
        """Send so many datagrams with at most a window of them under way."""
        return self._run(f"closed {window} {count}")

    def paced(self, rate: float, count: int) -> Run:
        """Send so many datagrams at so many a second, whatever arrives."""
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
            raise RuntimeError(f"the load has ended: exit code {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


@contextmanager
def load_running(program: Path, point: Point, cids: Path, port: int) -> Iterator[Load]:
    """Run the load. port: the forwarder's, on 127.0.0.1; 0: the clients send straight to the servers."""
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
