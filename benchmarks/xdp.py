"""Measure a packet's way through the XDP plane, in ns, and compare it with a plain encapsulator.

``python -m benchmarks.xdp`` sends frames through a veth pair in a network namespace of its own. The rows are measured
in turns, on the same kind of traffic, by the kernel's own accounting. The cost of the accounting itself is measured
with a program that drops every packet, and subtracted.
Needs root, clang and libbpf with its headers.
"""

import json
import os
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.options import command_line
from benchmarks.programs import SOURCES, compile_program
from benchmarks.xdp_frames import (
    KEY,
    SERVICE,
    SHAPES,
    backend_address,
    routable_frames,
    server_id,
    unroutable_frames,
    write_frames,
)
from benchmarks.xdp_network import accounted, accounting, network, received
from lab.dataplane.settings import DEFAULTS
from qlb.addresses import Endpoint
from qlb.dataplane.base import Orders
from qlb.dataplane.xdp import libbpf
from qlb.dataplane.xdp.bpf_object import BpfObject
from qlb.dataplane.xdp.libbpf import Link
from qlb.dataplane.xdp.plane import XdpPlane
from qlb.dataplane.xdp.program import FORWARD, XdpSettings
from qlb.routing.backends import Backend
from qlb.routing.maglev import DEFAULT_KEY
from qlb.routing.snapshot import Snapshot, compile_snapshot

ROUNDS: Final = 7
FRAMES: Final = 300_000
"""Frames sent in a round."""
DISTINCT: Final = 131_072
"""Frames with different IDs: sixteen times as many as the memo has entries."""
REPEATED: Final = 1_000
"""Connections that take turns in the rows with repeated IDs."""
RATE_S: Final = 1.0
BACKENDS: Final = (3, 300, 30_000)
_FLAGS: Final = ("-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall")


class Row(NamedTuple):
    """One figure. ns: of a packet, the median of the rounds, without the cost of the accounting."""

    name: str
    ns: float


class Measured(NamedTuple):
    """A program, and the file of frames to measure it with."""

    name: str
    program: int
    frames: Path


class Rate(NamedTuple):
    """Packets per second from end to end.

    passed: received at the other end. offered: accepted from the sender.
    """

    name: str
    passed: float
    offered: float


def main(arguments: Sequence[str] = ()) -> None:
    """Measure, and print one table for each question."""
    command_line("benchmarks.xdp", __doc__).parse_args(arguments)
    if missing := lack():
        print(f"\nThe XDP plane: not measured, {missing}")
        return
    with tempfile.TemporaryDirectory() as name, network(), accounting(), _floor_loaded(Path(name)) as floor:
        folder = Path(name)
        sender = compile_program("frames", folder)
        _print("A packet, three backends", _algorithms(folder, sender, floor))
        _print("A packet, four-pass IDs never seen before, by number of backends", _backends(folder, sender, floor))
        _print_rates(_rates(folder, sender, floor))


def lack() -> str:
    """Return what this machine lacks for the measurement; empty if it lacks nothing."""
    if shutil.which("clang") is None or not Path("/usr/include/bpf/bpf_helpers.h").exists():
        return "clang or libbpf's headers are not installed"
    return libbpf.what_lacks()


def _algorithms(folder: Path, sender: Path, floor: BpfObject) -> list[Row]:
    plane = _plane(3)
    try:
        rows = []
        for name, params in SHAPES.items():
            repeated = write_frames(folder, routable_frames(params, 3, REPEATED))
            fresh = write_frames(folder, routable_frames(params, 3, DISTINCT))
            forward = plane.program(FORWARD)
            rows += [
                Measured(f"qlb, {name}, repeated", forward, repeated),
                Measured(f"qlb, {name}, fresh", forward, fresh),
            ]
        plain = rows[0].frames
        unroutable = write_frames(folder, unroutable_frames(REPEATED))
        others = [
            Measured("plain encapsulator", floor.program("encapsulate"), plain),
            Measured("plain encapsulator, one route lookup per packet", floor.program("ask_route"), plain),
            *rows,
            Measured("qlb, unroutable, known 4-tuple", plane.program(FORWARD), unroutable),
        ]
        return _in_turns(sender, floor.program("drop"), others)
    finally:
        plane.stop()


def _backends(folder: Path, sender: Path, floor: BpfObject) -> list[Row]:
    rows = []
    for count in BACKENDS:
        plane = _plane(count)
        try:
            params = SHAPES["four-pass, three passes"]
            frames = write_frames(folder, routable_frames(params, count, DISTINCT))
            own = Measured(f"{count:,} backends", plane.program(FORWARD), frames)
            rows += _in_turns(sender, floor.program("drop"), [own])
        finally:
            plane.stop()
    return rows


def _rates(folder: Path, sender: Path, floor: BpfObject) -> list[Rate]:
    """Send to each plane as fast as possible. A packet has passed when out1 has received it."""
    plane = _plane(3)
    four_pass = SHAPES["four-pass, three passes"]
    plain, fresh = (
        write_frames(folder, routable_frames(params, 3, DISTINCT)) for params in (SHAPES["plaintext"], four_pass)
    )
    interface = socket.if_nametoindex("in0")
    try:
        rates = []
        for name, program, frames in (
            ("plain encapsulator", floor.program("encapsulate"), plain),
            ("qlb xdp, plaintext", plane.program(FORWARD), plain),
            ("qlb xdp, four-pass, fresh", plane.program(FORWARD), fresh),
        ):
            link = Link.attach(program, interface, "native")
            rates.append(_rate(name, sender, frames))
            link.close()
        with _batch(folder):
            repeated = write_frames(folder, routable_frames(four_pass, 3, REPEATED))
            rates.append(_rate("qlb batch, four-pass, fresh", sender, repeated))
        return rates
    finally:
        plane.stop()


def _rate(name: str, sender: Path, frames: Path) -> Rate:
    found = []
    for _ in range(ROUNDS):
        before, since_s = received("out1"), time.monotonic()
        sent = subprocess.run([sender, "in1", frames, "0", str(RATE_S)], check=True, capture_output=True).stdout
        elapsed_s = time.monotonic() - since_s
        found.append(((received("out1") - before) / elapsed_s, int(sent) / elapsed_s))
    passed, offered = (statistics.median(values) for values in zip(*found, strict=True))
    return Rate(name, passed, offered)


@contextmanager
def _batch(folder: Path) -> Iterator[None]:
    """Run the daemon on the batch plane, with the same backends, until the end of the block."""
    params = SHAPES["four-pass, three passes"]
    config = {
        "listen": [str(SERVICE)],
        "cid_configs": [
            {"config_id": params.config_id, "server_id_length": 4, "nonce_length": 10, "key": KEY.hex()},
        ],
        "backends": [
            {"name": f"b{n}", "address": f"{backend_address(n)}:4433", "server_ids": {2: server_id(n, params).hex()}}
            for n in range(3)
        ],
        "forwarding": {"plane": "batch"},
        "health": {"probe": "none"},
        "admin": {"listen": "none"},
    }
    path = folder / "batch.yaml"
    path.touch(mode=0o600)
    path.write_text(json.dumps(config))
    daemon = subprocess.Popen([sys.executable, "-m", "qlb", "run", path], stderr=subprocess.PIPE, text=True)
    assert daemon.stderr is not None
    while "ready" not in (line := daemon.stderr.readline()):
        assert line, "the daemon ended before it was ready"
    try:
        yield
    finally:
        daemon.terminate()
        daemon.communicate()


def _plane(count: int) -> XdpPlane:
    backends = [
        Backend(
            f"b{n}",
            Endpoint(backend_address(n), 4433),
            {params.config_id: (server_id(n, params),) for params in SHAPES.values()},
        )
        for n in range(count)
    ]
    settings = XdpSettings(services=(SERVICE,), interfaces=("in0",), mode="ipip")
    return XdpPlane(settings, Orders(_snapshot(backends), DEFAULTS))


def _snapshot(backends: Sequence[Backend]) -> Snapshot:
    return compile_snapshot(1, list(SHAPES.values()), backends, fallback_key=DEFAULT_KEY)


def _in_turns(sender: Path, nothing: int, others: Sequence[Measured]) -> list[Row]:
    """Measure the programs in turns, round by round. nothing: the program that drops every packet."""
    link = Link.attach(nothing, socket.if_nametoindex("in0"), "native")
    try:
        costs: dict[str, list[float]] = {one.name: [] for one in others}
        least: list[float] = []
        for _ in range(ROUNDS):
            least.append(_cost_ns(sender, link, nothing, others[0].frames))
            for one in others:
                costs[one.name].append(_cost_ns(sender, link, one.program, one.frames))
        return [Row(name, statistics.median(found) - statistics.median(least)) for name, found in costs.items()]
    finally:
        link.close()


def _cost_ns(sender: Path, link: Link, program: int, frames: Path) -> float:
    """Attach a program, send a round after a short warm-up, and return the ns of one run."""
    link.update(program)
    subprocess.run([sender, "in1", frames, str(FRAMES // 10)], check=True, capture_output=True)
    before = accounted(program)
    subprocess.run([sender, "in1", frames, str(FRAMES)], check=True, capture_output=True)
    after = accounted(program)
    return (after[0] - before[0]) / max(after[1] - before[1], 1)


@contextmanager
def _floor_loaded(folder: Path) -> Iterator[BpfObject]:
    """Compile and load native/encapsulator.c."""
    target = folder / "encapsulator.o"
    machine = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    subprocess.run(["clang", *_FLAGS, machine, "-c", SOURCES / "encapsulator.c", "-o", target], check=True)
    with BpfObject(target.read_bytes()) as loaded:
        loaded.load()
        macs = bytes.fromhex("020000000002") + bytes.fromhex("020000000011")
        to = macs + struct.pack("=I", socket.if_nametoindex("out0"))
        to += socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2")
        loaded.map("destinations").set(struct.pack("=I", 0), to)
        yield loaded


def _print_rates(rates: Sequence[Rate]) -> None:
    width = max(len(rate.name) for rate in rates)
    print("\nFrom end to end over veth; the sender and half of the driver's work share one core\n")
    print(f"| {'':{width}} | passed, packets/s | offered | passed / offered |\n| {'-' * width} | --- | --- | --- |")
    for rate in rates:
        print(f"| {rate.name:{width}} | {rate.passed:,.0f} | {rate.offered:,.0f} | {rate.passed / rate.offered:.0%} |")


def _print(title: str, rows: Sequence[Row]) -> None:
    width = max(len(row.name) for row in rows)
    print(f"\n{title}\n")
    print(f"| {'':{width}} | ns | ratio |\n| {'-' * width} | --- | --- |")
    for row in rows:
        print(f"| {row.name:{width}} | {row.ns:.0f} | {row.ns / rows[0].ns:.2f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
