"""ns of a packet's way through the XDP plane, by the kernel's own accounting, beside a plain encapsulator.

``python -m benchmarks.xdp`` sends frames through a veth pair in a network of its own; every row sees the same traffic,
in turns, and what the accounting itself takes (a program that drops at once) is taken off. Needs root, clang and
libbpf with its headers.
"""

import os
import random
import shutil
import socket
import statistics
import struct
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.programs import SOURCES, compile_program
from qlb.cid import CidCodec, CidParams
from qlb.dataplane.base import Orders, PlaneSettings
from qlb.dataplane.xdp import libbpf
from qlb.dataplane.xdp.libbpf import BpfObject, Link
from qlb.dataplane.xdp.plane import FORWARD, XdpPlane, XdpSettings
from qlb.routing.backends import Backend, Endpoint
from qlb.routing.maglev import DEFAULT_KEY
from qlb.routing.snapshot import Snapshot, compile_snapshot

ROUNDS: Final = 7
FRAMES: Final = 300_000
"""Sent in a round."""
DISTINCT: Final = 131_072
"""Frames with other IDs each: eight times what the memo holds."""
REPEATED: Final = 1_000
"""Connections that take turns, where IDs repeat."""
DATAGRAM_BYTES: Final = 300
BACKENDS: Final = (3, 300, 30_000)
KEY: Final = bytes(range(16))
SERVICE: Final = Endpoint("192.0.2.1", 4433)
SHAPES: Final = {
    "plaintext": CidParams(0, 4, 10),
    "single pass": CidParams(1, 4, 12, KEY),
    "four-pass, three passes": CidParams(2, 4, 10, KEY),
    "four-pass, four passes": CidParams(3, 9, 5, KEY),
}
_FLAGS: Final = ("-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall")
_STATISTICS: Final = Path("/proc/sys/kernel/bpf_stats_enabled")
_COMMANDS: Final = """
link set lo up
link add in0 type veth peer name in1
link add out0 type veth peer name out1
link set in0 up
link set in1 up
link set out0 up
link set out1 up
addr add 10.0.0.1/16 dev out0
addr add 192.0.2.254/24 dev in0
neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 nud permanent dev out0
route add 10.1.0.0/16 via 10.0.0.2
"""


class Row(NamedTuple):
    """One figure. ns: of a packet, the median of the rounds, without what the accounting takes."""

    name: str
    ns: float


class Measured(NamedTuple):
    """A program, and the frames that it is measured with."""

    name: str
    program: int
    frames: Path


def main() -> None:
    """Measure and print one table for each question."""
    if lack := _lack():
        print(f"\nThe XDP plane: not measured, {lack}")
        return
    with tempfile.TemporaryDirectory() as name, _network(), _accounting(), libbpf_objects(Path(name)) as floor:
        folder = Path(name)
        sender = compile_program("frames", folder)
        _print("A packet, three backends", _algorithms(folder, sender, floor))
        _print("A packet, four-pass IDs never seen before, by backends", _backends(folder, sender))


def _lack() -> str:
    if shutil.which("clang") is None or not Path("/usr/include/bpf/bpf_helpers.h").exists():
        return "clang or libbpf's headers are not installed"
    return libbpf.what_lacks()


def _algorithms(folder: Path, sender: Path, floor: BpfObject) -> list[Row]:
    plane = _plane(3)
    try:
        rows = []
        for name, params in SHAPES.items():
            repeated = _write(folder, _frames(params, 3, REPEATED))
            fresh = _write(folder, _frames(params, 3, DISTINCT))
            forward = plane.program(FORWARD)
            rows += [
                Measured(f"qlb, {name}, repeated", forward, repeated),
                Measured(f"qlb, {name}, fresh", forward, fresh),
            ]
        plain = rows[0].frames
        unroutable = _write(folder, _unroutable())
        others = [
            Measured("plain encapsulator", floor.program("encapsulate"), plain),
            Measured("the same, asking for a route each time", floor.program("ask_route"), plain),
            *rows,
            Measured("qlb, unroutable, known 4-tuple", plane.program(FORWARD), unroutable),
        ]
        return _in_turns(sender, floor.program("drop"), others)
    finally:
        plane.stop()


def _backends(folder: Path, sender: Path) -> list[Row]:
    rows = []
    for count in BACKENDS:
        plane = _plane(count)
        try:
            params = SHAPES["four-pass, three passes"]
            frames = _write(folder, _frames(params, count, DISTINCT))
            ((_, ns),) = _in_turns(
                sender, plane.program(FORWARD), [Measured("", plane.program(FORWARD), frames)], base=0
            )
            rows.append(Row(f"{count:,} backends", ns))
        finally:
            plane.stop()
    return rows


def _plane(count: int) -> XdpPlane:
    backends = [
        Backend(f"b{n}", Endpoint(_address(n), 4433), {p.config_id: (_server_id(n, p),) for p in SHAPES.values()})
        for n in range(count)
    ]
    settings = XdpSettings(services=(SERVICE,), interfaces=("in0",), mode="ipip")
    return XdpPlane(settings, Orders(_snapshot(backends), PlaneSettings()))


def _snapshot(backends: Sequence[Backend]) -> Snapshot:
    return compile_snapshot(1, list(SHAPES.values()), backends, fallback_key=DEFAULT_KEY)


def _address(number: int) -> str:
    return f"10.1.{number >> 8}.{number & 0xFF}"


def _server_id(number: int, params: CidParams) -> bytes:
    return number.to_bytes(params.server_id_length, "big")


def _frames(params: CidParams, backends: int, count: int) -> Iterator[bytes]:
    codec, dice = CidCodec(params), random.Random(count)
    for _ in range(count):
        server_id = _server_id(dice.randrange(backends), params)
        yield _frame(
            b"\x40" + codec.encode(server_id, dice.randbytes(params.nonce_length)), dice.randrange(1024, 65536)
        )


def _unroutable() -> Iterator[bytes]:
    return (_frame(b"\x40\xe0", 1024 + number) for number in range(REPEATED))


def _frame(datagram: bytes, port: int) -> bytes:
    """Return a frame from a client, whose ports differ; its checksums do not matter to anybody here."""
    udp = struct.pack("!HHHH", port, SERVICE.port, 8 + DATAGRAM_BYTES, 0) + datagram.ljust(DATAGRAM_BYTES, b"\0")
    addresses = socket.inet_aton("198.51.100.7") + socket.inet_aton(SERVICE.host)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17, 0) + addresses
    return bytes.fromhex("020000000001") + bytes.fromhex("0200000000fe") + b"\x08\x00" + head + udp


def _write(folder: Path, frames: Iterator[bytes]) -> Path:
    handle, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(handle, "wb") as file:
        first = next(frames)
        file.write(struct.pack("=I", len(first)) + first)
        file.writelines(frames)
    return Path(name)


def _in_turns(sender: Path, nothing: int, others: Sequence[Measured], base: float | None = None) -> list[Row]:
    """Let each have its rounds, one after the other."""
    link = Link.attach(nothing, socket.if_nametoindex("in0"), "native")
    try:
        costs: dict[str, list[float]] = {one.name: [] for one in others}
        least = []
        for _ in range(ROUNDS):
            if base is None:
                least.append(_cost_ns(sender, link, nothing, others[0].frames))
            for one in others:
                costs[one.name].append(_cost_ns(sender, link, one.program, one.frames))
        off = statistics.median(least) if least else base or 0.0
        return [Row(name, statistics.median(found) - off) for name, found in costs.items()]
    finally:
        link.close()


def _cost_ns(sender: Path, link: Link, program: int, frames: Path) -> float:
    link.update(program)
    subprocess.run([sender, "in1", frames, str(FRAMES // 10)], check=True, capture_output=True)
    before = _accounted(program)
    subprocess.run([sender, "in1", frames, str(FRAMES)], check=True, capture_output=True)
    after = _accounted(program)
    return (after[0] - before[0]) / max(after[1] - before[1], 1)


def _accounted(program: int) -> tuple[int, int]:
    """Return the ns and the runs of a program."""
    told = dict(line.split(":\t", 1) for line in Path(f"/proc/self/fdinfo/{program}").read_text().splitlines())
    return int(told["run_time_ns"]), int(told["run_cnt"])


@contextmanager
def _network() -> Iterator[None]:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open("rb") as before:
        if libc.unshare(0x40000000):
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            subprocess.run(["ip", "-batch", "-"], input=_COMMANDS, text=True, check=True)
            Path("/proc/sys/net/ipv4/conf/in0/forwarding").write_text("1")
            yield
        finally:
            libc.setns(before.fileno(), 0x40000000)


@contextmanager
def _accounting() -> Iterator[None]:
    """Let the kernel account for BPF programs within the block."""
    before = _STATISTICS.read_text()
    _STATISTICS.write_text("1")
    try:
        yield
    finally:
        _STATISTICS.write_text(before)


@contextmanager
def libbpf_objects(folder: Path) -> Iterator[BpfObject]:
    """Compile and load the floor."""
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


def _print(title: str, rows: Sequence[Row]) -> None:
    width = max(len(row.name) for row in rows)
    print(f"\n{title}\n")
    print(f"| {'':{width}} | ns | ratio |\n| {'-' * width} | --- | --- |")
    for row in rows:
        print(f"| {row.name:{width}} | {row.ns:.0f} | {row.ns / rows[0].ns:.2f} |")


if __name__ == "__main__":
    main()
