"""Live calls beside a flood: what the calls lose, how late they are, and where the flood goes.

``python -m benchmarks.flood [--qlb PROGRAM]... [--plane NAME]... [--rate N] [--seconds N]`` runs 10 calls of 50 packets
a second through ``qlb run`` with one worker, beside one flood after another. Each run has a network of its own. Name
two programs (another build's ``qlb`` and this one's) to have both in one table; they take turns. The daemon has one
core, the flood and the calls have the other. Needs a C compiler and leave to make networks (unshare --net).
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.connection_ids import server_id
from benchmarks.network import cores, in_new_network, namespace_options, pinned
from benchmarks.points import SHAPES
from benchmarks.processes import cpu
from benchmarks.programs import compile_program
from benchmarks.table import markdown
from qlb.cid import CidCodec
from qlb.errors import PlaneUnavailable

RATE: Final = 50_000
SECONDS: Final = 5.0
CALLS: Final = 10
INTERVAL_S: Final = 0.02
CALL_BYTES: Final = 200
SETTLE_S: Final = 2.0
"""Calls are under way so long before the flood begins, and answers may come so long after the last packet."""
START_S: Final = 20.0
PORT: Final = 4433
BUFFER_BYTES: Final = 4 << 20
"""Of the called server, so that it loses nothing while this process waits for its core."""
CALLED: Final = 2
"""Backend of the calls; it gets no new connections (weight 0). The others belong to the flood and read nothing."""
PARAMS: Final = SHAPES["plaintext"]
DEFAULT_QLB: Final = str(Path(sys.executable).with_name("qlb"))


class Flood(NamedTuple):
    """A kind of datagrams: prefix (hex), random octets, suffix (hex), zeros.

    sources: how many addresses take turns; 0 = each datagram has one of its own.
    """

    name: str
    prefix: str = ""
    random: int = 0
    suffix: str = ""
    size_bytes: int = 60
    sources: int = 0


def floods() -> tuple[Flood, ...]:
    """Return the floods: none, each kind with a source for each datagram, and each from one source."""
    routable = CidCodec(PARAMS).encode(server_id(0), bytes(PARAMS.nonce_length))[: 1 + PARAMS.server_id_length]
    kinds = (
        Flood("garbage", "40e0", 16),
        Flood("routable", "40" + routable.hex(), PARAMS.nonce_length),
        Flood("initial", "c30000000108", 8, "08" + bytes(8).hex() + "004400", 1200),
    )
    return (Flood("none"), *(one._replace(sources=sources) for sources in (0, 1) for one in kinds))


@dataclass(frozen=True, slots=True)
class Figures:
    """What one run has seen. Times are of the calls' packets, there and back, sent while the flood lasted."""

    flood_sent: int
    sent: int
    lost: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    worker_cpu: float
    evicted: int
    kernel_dropped: int
    dropped: dict[str, int]


class Calls(asyncio.DatagramProtocol):
    """Calls that send at a steady rate; the server echoes. Times are kept by the number in each packet."""

    def __init__(self) -> None:
        """Choose an ID for each call."""
        codec = CidCodec(PARAMS)
        self._ids = [codec.encode(server_id(CALLED), os.urandom(PARAMS.nonce_length)) for _ in range(CALLS)]
        self._sent_s: list[float] = []
        self._waits_s: dict[int, float] = {}
        self._sockets: list[socket.socket] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Send until told to stop."""
        loop = asyncio.get_running_loop()
        for _ in self._ids:
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.connect(("127.0.0.1", PORT))
            loop.add_reader(sock, self._receive, sock)
            self._sockets.append(sock)
        begin_s = time.perf_counter()
        while not stop.is_set():
            number = len(self._sent_s)
            due_s = begin_s + number * INTERVAL_S / CALLS
            await asyncio.sleep(max(due_s - time.perf_counter(), 0))
            self._sent_s.append(time.perf_counter())
            call = number % CALLS
            payload = b"\x40" + self._ids[call] + number.to_bytes(8, "big")
            self._sockets[call].send(payload.ljust(CALL_BYTES, b"\0"))

    def figures(self, begin_s: float, end_s: float) -> dict[str, Any]:
        """Return the figures of packets that were sent within a time, and close the sockets."""
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        numbers = [number for number, at_s in enumerate(self._sent_s) if begin_s <= at_s < end_s]
        waits_ms = sorted(1000 * self._waits_s[number] for number in numbers if number in self._waits_s) or [0.0]
        return {
            "sent": len(numbers),
            "lost": sum(number not in self._waits_s for number in numbers),
            "p50_ms": waits_ms[len(waits_ms) // 2],
            "p99_ms": waits_ms[len(waits_ms) * 99 // 100],
            "max_ms": waits_ms[-1],
        }

    def _receive(self, sock: socket.socket) -> None:
        at = 1 + len(self._ids[0])
        while True:
            try:
                number = int.from_bytes(sock.recv(2048)[at : at + 8], "big")
            except OSError:
                return
            self._waits_s.setdefault(number, time.perf_counter() - self._sent_s[number])


class _Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(data, addr)


async def measure(program: str, plane: str, flood: Flood, generator: Path, rate: int, seconds: float) -> Figures:
    """Run one flood beside calls, in the network of this process."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qlb-flood-")))
        backends = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(CALLED + 1)]
        for sock in backends:
            sock.bind(("127.0.0.1", 0))
        backends[CALLED].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(_Echo, sock=backends[CALLED])
        stack.callback(transport.close)
        stack.enter_context(_daemon(program, _configuration(plane, backends), folder))
        calls, stop = Calls(), asyncio.Event()
        running = asyncio.create_task(calls.run(stop))
        await asyncio.sleep(SETTLE_S)
        workers = _workers(folder)
        before, begin_s = cpu(workers), time.perf_counter()
        flood_sent = await _flood(generator, flood, rate, seconds)
        end_s = time.perf_counter()
        used = cpu(workers) - before
        stop.set()
        await running
        await asyncio.sleep(SETTLE_S)
        metrics, outcomes = _metrics(folder), json.loads(_get(folder, "/status"))["outcomes"]
        return Figures(
            flood_sent=flood_sent,
            worker_cpu=used.total_ns / 1e9 / (end_s - begin_s),
            evicted=metrics.get("qlb_sessions_evicted_total", 0),
            kernel_dropped=metrics.get("qlb_kernel_dropped_packets_total", 0),
            dropped={name[5:]: count for name, count in outcomes.items() if name.startswith("drop_") and count},
            **calls.figures(begin_s, end_s),
        )


async def _flood(generator: Path, flood: Flood, rate: int, seconds: float) -> int:
    """Send it; return how many datagrams were sent."""
    if not flood.random:
        await asyncio.sleep(seconds)
        return 0
    words = (PORT, rate, seconds, flood.sources, flood.prefix, flood.random, flood.suffix, flood.size_bytes)
    process = await asyncio.create_subprocess_exec(generator, *map(str, words), stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    return int(output)


@contextmanager
def _daemon(program: str, configuration: dict[str, Any], folder: Path) -> Iterator[None]:
    path = folder / "qlb.yaml"
    path.touch(mode=0o600)
    path.write_text(json.dumps(configuration))  # YAML, too
    with pinned(cores()[0]):
        # Elsewhere than here: a worker would import the qlb of the current folder.
        process = subprocess.Popen([program, "run", str(path)], stdin=subprocess.DEVNULL, cwd=folder)
    with process:
        try:
            _wait_until_ready(folder, process)
            yield
        finally:
            process.terminate()


def _wait_until_ready(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        try:
            if json.loads(_get(folder, "/status"))["ready"]:
                return
        except OSError:
            pass
        time.sleep(INTERVAL_S)
    raise RuntimeError(f"qlb did not start within {START_S:g} s, exit code {process.poll()}")


def _configuration(plane: str, backends: Sequence[socket.socket]) -> dict[str, Any]:
    shape = {"server_id_length": PARAMS.server_id_length, "nonce_length": PARAMS.nonce_length}
    return {
        "listen": [f"127.0.0.1:{PORT}"],
        "cid_configs": [{"config_id": PARAMS.config_id, **shape}],
        "backends": [
            {
                "name": f"b{number}",
                "address": f"127.0.0.1:{sock.getsockname()[1]}",
                "server_ids": {str(PARAMS.config_id): server_id(number).hex()},
                "weight": 0 if number == CALLED else 1,
            }
            for number, sock in enumerate(backends)
        ],
        "health": {"probe": "none"},
        "forwarding": {"plane": plane, "workers": 1},
        "admin": {"listen": "none", "socket": "qlb.sock"},
        "logging": {"level": "error"},
    }


def _workers(folder: Path) -> list[int]:
    return [worker["pid"] for worker in json.loads(_get(folder, "/status"))["workers"]]


def _metrics(folder: Path) -> dict[str, int]:
    """Return the sums of the counters by name."""
    sums: dict[str, int] = {}
    for line in _get(folder, "/metrics").splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            sums[name] = sums.get(name, 0) + int(float(value))
    return sums


def _get(folder: Path, path: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(folder / "qlb.sock"))
        sock.sendall(f"GET {path} HTTP/1.0\r\nHost: qlb\r\n\r\n".encode())
        return b"".join(iter(lambda: sock.recv(65_536), b"")).partition(b"\r\n\r\n")[2].decode()


def _measure_apart(program: str, plane: str, flood: Flood, generator: Path, options: argparse.Namespace) -> Figures:
    """Run one flood in a process and a network of its own, so that nothing of it is left for the next one."""
    task = json.dumps([program, plane, list(flood), str(generator), options.rate, options.seconds])
    command = [sys.executable, "-m", "benchmarks.flood", "--task", task]
    with pinned(cores()[1]):
        done = subprocess.run(in_new_network(command), stdout=subprocess.PIPE, text=True, check=True)
    return Figures(**json.loads(done.stdout))


def _row(program: str, plane: str, flood: Flood, found: Figures) -> list[str]:
    sources = "" if not flood.random else "one" if flood.sources == 1 else "one each"
    dropped = ", ".join(f"{name} {count:,}" for name, count in found.dropped.items()) or "0"
    return [
        *(
            program,
            plane,
            flood.name,
            sources,
            f"{found.flood_sent:,}",
            f"{100 * found.lost / max(found.sent, 1):.1f}%",
        ),
        *(f"{value:.1f}" for value in (found.p50_ms, found.p99_ms, found.max_ms)),
        *(f"{found.worker_cpu:.2f}", f"{found.evicted:,}", f"{found.kernel_dropped:,}", dropped),
    ]


HEAD: Final = (
    *("qlb", "plane", "flood", "sources", "sent", "calls' loss", "p50 ms", "p99 ms", "max ms"),
    *("worker CPU", "evicted", "kernel dropped", "dropped"),
)


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table."""
    options = _parser().parse_args(arguments)
    if options.task:
        program, plane, flood, generator, rate, seconds = json.loads(options.task)
        found = asyncio.run(measure(program, plane, Flood(*flood), Path(generator), rate, seconds))
        print(json.dumps(asdict(found)))
        return
    if not namespace_options():
        print("\nCalls beside floods: not measured, no leave to make networks (unshare --net)")
        return
    programs, planes = options.qlb or [DEFAULT_QLB], options.plane or ["batch"]
    chosen = [flood for flood in floods() if flood.name in (options.only or [flood.name])]
    with tempfile.TemporaryDirectory() as name:
        try:
            generator = compile_program("flood", Path(name))
        except PlaneUnavailable as error:
            print(f"\nCalls beside floods: not measured, {error}")
            return
        rows = [
            _row(program, plane, flood, _measure_apart(program, plane, flood, generator, options))
            for flood in chosen
            for plane in planes
            for program in programs
        ]
    print(f"\nCalls beside floods of {options.rate:,} packets a second\n\n{markdown(list(HEAD), rows)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flood", description=__doc__)
    parser.add_argument("--qlb", action="append", default=[], metavar="PROGRAM", help="measure this qlb")
    parser.add_argument(
        "--plane", action="append", default=[], metavar="NAME", help="measure this plane (default: batch)"
    )
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="measure this flood only")
    parser.add_argument("--rate", type=int, default=RATE, help="packets a second of the flood")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each flood")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
