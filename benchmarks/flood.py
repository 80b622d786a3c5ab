"""Measure live calls during a flood: their loss and delay, and the fate of the flood's packets.

``python -m benchmarks.flood [--qlb PROGRAM]... [--plane NAME]... [--rate N] [--seconds N]`` runs 10 calls of 50
packets a second through ``qlb run`` with one worker, during one flood after the other. Each run has its own network
namespace. With two programs (for example the ``qlb`` of another build and this one), they take turns and both are in
one table. The daemon has one core; the flood and the calls have the other one.
Needs a C compiler and permission to create network namespaces (unshare --net).
"""

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks.calls import Calls, Echo
from benchmarks.connection_ids import server_id
from benchmarks.daemon import SOCKET, daemon_running, metrics, status, workers
from benchmarks.network import PORT, cores, in_new_network, namespace_options, pinned
from benchmarks.options import command_line
from benchmarks.points import SHAPES
from benchmarks.processes import cpu
from benchmarks.programs import compile_program
from benchmarks.table import markdown
from qlb.cid import CidCodec
from qlb.errors import PlaneUnavailable

RATE: Final = 50_000
SECONDS: Final = 5.0
SETTLE_S: Final = 2.0
"""Time for which calls run before the flood begins, and time to wait for answers after the last packet."""
BUFFER_BYTES: Final = 4 << 20
"""Receive buffer of the called server, so that it loses nothing while this process waits for its core."""
CALLED: Final = 2
"""The calls' backend. It gets no new connections (weight 0). The flood goes to the others, which read nothing."""
PARAMS: Final = SHAPES["plaintext"]
DEFAULT_QLB: Final = str(Path(sys.executable).with_name("qlb"))
HEAD: Final = (
    *("qlb", "plane", "flood", "sources", "sent", "calls' loss", "p50 ms", "p99 ms", "max ms"),
    *("worker CPU", "evicted", "kernel dropped", "dropped"),
)


class Flood(NamedTuple):
    """One kind of datagrams: a prefix (hex), random octets, a suffix (hex), and zeros.

    sources: number of addresses that take turns; 0 = every datagram has its own.
    """

    name: str
    prefix: str = ""
    random: int = 0
    suffix: str = ""
    size_bytes: int = 60
    sources: int = 0


def floods() -> tuple[Flood, ...]:
    """Return the floods: "none", each kind with one source per datagram, and each kind from a single source."""
    routable = CidCodec(PARAMS).encode(server_id(0), bytes(PARAMS.nonce_length))[: 1 + PARAMS.server_id_length]
    kinds = (
        Flood("garbage", "40e0", 16),
        Flood("routable", "40" + routable.hex(), PARAMS.nonce_length),
        Flood("initial", "c30000000108", 8, "08" + bytes(8).hex() + "004400", 1200),
    )
    return (Flood("none"), *(one._replace(sources=sources) for sources in (0, 1) for one in kinds))


@dataclass(frozen=True, slots=True)
class Figures:
    """Result of one run. Times are from a call's packet, sent during the flood, to its answer."""

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


async def measure(program: str, plane: str, flood: Flood, generator: Path, rate: int, seconds: float) -> Figures:
    """Run calls during one flood, in the network namespace of this process."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qlb-flood-")))
        backends = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(CALLED + 1)]
        for sock in backends:
            sock.bind(("127.0.0.1", 0))
        backends[CALLED].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Echo, sock=backends[CALLED])
        stack.callback(transport.close)
        stack.enter_context(daemon_running(program, _configuration(plane, backends), folder))
        calls, stop = Calls(PORT, PARAMS, server_id(CALLED)), asyncio.Event()
        running = asyncio.create_task(calls.run(stop))
        await asyncio.sleep(SETTLE_S)
        pids = workers(folder)
        before, begin_s = cpu(pids), time.perf_counter()
        flood_sent = await _flood(generator, flood, rate, seconds)
        end_s = time.perf_counter()
        used = cpu(pids) - before
        stop.set()
        await running
        await asyncio.sleep(SETTLE_S)
        counters, outcomes = metrics(folder), status(folder)["outcomes"]
        return Figures(
            flood_sent=flood_sent,
            worker_cpu=used.total_ns / 1e9 / (end_s - begin_s),
            evicted=counters.get("qlb_sessions_evicted_total", 0),
            kernel_dropped=counters.get("qlb_kernel_dropped_packets_total", 0),
            dropped={name[5:]: count for name, count in outcomes.items() if name.startswith("drop_") and count},
            **calls.end(begin_s, end_s)._asdict(),
        )


async def _flood(generator: Path, flood: Flood, rate: int, seconds: float) -> int:
    """Send a flood; return how many datagrams were sent. The kind "none" only waits for the same time."""
    if not flood.random:
        await asyncio.sleep(seconds)
        return 0
    words = (PORT, rate, seconds, flood.sources, flood.prefix, flood.random, flood.suffix, flood.size_bytes)
    process = await asyncio.create_subprocess_exec(generator, *map(str, words), stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    return int(output)


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
        "admin": {"listen": "none", "socket": SOCKET},
        "logging": {"level": "error"},
    }


def _measure_apart(program: str, plane: str, flood: Flood, generator: Path, options: argparse.Namespace) -> Figures:
    """Run one flood in a new process and network namespace, so that nothing of it affects the next one."""
    task = json.dumps([program, plane, list(flood), str(generator), options.rate, options.seconds])
    command = [sys.executable, "-m", "benchmarks.flood", "--task", task]
    with pinned(cores()[1]):
        done = subprocess.run(in_new_network(command), stdout=subprocess.PIPE, text=True, check=True)
    return Figures(**json.loads(done.stdout))


def _row(program: str, plane: str, flood: Flood, found: Figures) -> list[str]:
    sources = "" if not flood.random else "one" if flood.sources == 1 else "one each"
    dropped = ", ".join(f"{name} {count:,}" for name, count in found.dropped.items()) or "0"
    loss = f"{100 * found.lost / max(found.sent, 1):.1f}%"
    return [
        *(program, plane, flood.name, sources, f"{found.flood_sent:,}", loss),
        *(f"{value:.1f}" for value in (found.p50_ms, found.p99_ms, found.max_ms)),
        *(f"{found.worker_cpu:.2f}", f"{found.evicted:,}", f"{found.kernel_dropped:,}", dropped),
    ]


def main(arguments: Sequence[str] = ()) -> None:
    """Measure each flood, and print the table."""
    options = _parser().parse_args(arguments)
    if options.task:
        program, plane, flood, generator, rate, seconds = json.loads(options.task)
        found = asyncio.run(measure(program, plane, Flood(*flood), Path(generator), rate, seconds))
        print(json.dumps(asdict(found)))
        return
    if not namespace_options():
        print("\nCalls during floods: not measured, this user may not create network namespaces (unshare --net)")
        return
    programs, planes = options.qlb or [DEFAULT_QLB], options.plane or ["batch"]
    chosen = [flood for flood in floods() if flood.name in (options.only or [flood.name])]
    with tempfile.TemporaryDirectory() as name:
        try:
            generator = compile_program("flood", Path(name))
        except PlaneUnavailable as error:
            print(f"\nCalls during floods: not measured, {error}")
            return
        rows = [
            _row(program, plane, flood, _measure_apart(program, plane, flood, generator, options))
            for flood in chosen
            for plane in planes
            for program in programs
        ]
    print(f"\nCalls during floods of {options.rate:,} packets per second\n\n{markdown(list(HEAD), rows)}")


def _parser() -> argparse.ArgumentParser:
    parser = command_line("benchmarks.flood", __doc__)
    parser.add_argument(
        "--qlb",
        action="append",
        default=[],
        metavar="PROGRAM",
        help="measure this qlb program (repeatable; default: the one beside this Python)",
    )
    parser.add_argument(
        "--plane", action="append", default=[], metavar="NAME", help="measure this plane (repeatable; default: batch)"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="measure only this flood: none, garbage, routable or initial (repeatable)",
    )
    parser.add_argument("--rate", type=int, default=RATE, help="packets per second of the flood (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="duration of each flood (default: %(default)s)")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
