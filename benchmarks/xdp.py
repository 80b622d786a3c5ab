"""ns of a packet's way through the XDP plane, by the kernel's own accounting, beside a plain encapsulator.

``python -m benchmarks.xdp`` sends frames through a veth pair in a network of its own; every row sees the same traffic,
in turns, and what the accounting itself takes (a program that drops at once) is taken off. Needs root, clang and
libbpf with its headers.
"""

import ctypes
import fcntl
import json
import os
import random
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

from benchmarks.programs import SOURCES, compile_program
from qlb.addresses import Endpoint
from qlb.cid import CidCodec, CidParams
from qlb.dataplane.base import Orders, PlaneSettings
from qlb.dataplane.xdp import libbpf
from qlb.dataplane.xdp.libbpf import BpfObject, Link
from qlb.dataplane.xdp.plane import FORWARD, XdpPlane, XdpSettings
from qlb.routing.backends import Backend
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
RATE_S: Final = 1.0
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
link add in0 address 02:00:00:00:00:01 type veth peer name in1
link add out0 type veth peer name out1
link set in0 up
link set in1 up
link set out0 up
link set out1 up
addr add 10.0.0.1/16 dev out0
addr add 192.0.2.1/32 dev lo
route add 198.51.100.0/24 dev in0
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
    if missing := lack():
        print(f"\nThe XDP plane: not measured, {missing}")
        return
    with tempfile.TemporaryDirectory() as name, _network(), _accounting(), _floor_loaded(Path(name)) as floor:
        folder = Path(name)
        sender = compile_program("frames", folder)
        _print("A packet, three backends", _algorithms(folder, sender, floor))
        _print("A packet, four-pass IDs never seen before, by backends", _backends(folder, sender, floor))
        _print_rates(_rates(folder, sender, floor))


def lack() -> str:
    """Return what this machine lacks to measure it; empty where it has all."""
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


def _backends(folder: Path, sender: Path, floor: BpfObject) -> list[Row]:
    rows = []
    for count in BACKENDS:
        plane = _plane(count)
        try:
            params = SHAPES["four-pass, three passes"]
            frames = _write(folder, _frames(params, count, DISTINCT))
            own = Measured(f"{count:,} backends", plane.program(FORWARD), frames)
            rows += _in_turns(sender, floor.program("drop"), [own])
        finally:
            plane.stop()
    return rows


class Rate(NamedTuple):
    """What passed from end to end in a second. offered: what the sender got rid of."""

    name: str
    passed: float
    offered: float


def _rates(folder: Path, sender: Path, floor: BpfObject) -> list[Rate]:
    """Let each have all that the sender can give, for a while; a packet has passed when it is out of the other end."""
    plane = _plane(3)
    four_pass = SHAPES["four-pass, three passes"]
    plain, fresh = (_write(folder, _frames(p, 3, DISTINCT)) for p in (SHAPES["plaintext"], four_pass))
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
            rates.append(_rate("qlb batch, four-pass, fresh", sender, _write(folder, _frames(four_pass, 3, REPEATED))))
        return rates
    finally:
        plane.stop()


def _rate(name: str, sender: Path, frames: Path) -> Rate:
    found = []
    for _ in range(ROUNDS):
        before, since_s = _received("out1"), time.monotonic()
        sent = subprocess.run([sender, "in1", frames, "0", str(RATE_S)], check=True, capture_output=True).stdout
        elapsed_s = time.monotonic() - since_s
        found.append(((_received("out1") - before) / elapsed_s, int(sent) / elapsed_s))
    passed, offered = (statistics.median(values) for values in zip(*found, strict=True))
    return Rate(name, passed, offered)


def _received(interface: str) -> int:
    rows = Path("/proc/thread-self/net/dev").read_text().splitlines()
    return next(int(row.split()[2]) for row in rows if row.strip().startswith(f"{interface}:"))


def _receive_on(interface: str) -> None:
    """Turn GRO on: a veth takes what XDP sends to it only then."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        value = (ctypes.c_uint32 * 2)(0x2C, 1)  # ETHTOOL_SGRO
        fcntl.ioctl(sock, 0x8946, struct.pack("16sP", interface.encode(), ctypes.addressof(value)).ljust(40, b"\0"))


@contextmanager
def _batch(folder: Path) -> Iterator[None]:
    """Run the daemon on the batch plane, for the same backends, until the end of the block."""
    params = SHAPES["four-pass, three passes"]
    config = {
        "listen": [str(SERVICE)],
        "cid_configs": [
            {"config_id": params.config_id, "server_id_length": 4, "nonce_length": 10, "key": KEY.hex()},
        ],
        "backends": [
            {"name": f"b{n}", "address": f"{_address(n)}:4433", "server_ids": {2: _server_id(n, params).hex()}}
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
        assert line, "it has ended"
    try:
        yield
    finally:
        daemon.terminate()
        daemon.communicate()


def _print_rates(rates: Sequence[Rate]) -> None:
    width = max(len(rate.name) for rate in rates)
    print("\nFrom end to end over veth, the sender and the driver's half of the kernel on one core\n")
    print(f"| {'':{width}} | passed, packets/s | offered | passed / offered |\n| {'-' * width} | --- | --- | --- |")
    for rate in rates:
        print(f"| {rate.name:{width}} | {rate.passed:,.0f} | {rate.offered:,.0f} | {rate.passed / rate.offered:.0%} |")


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
    words = (0x4500, 20 + len(udp), 0, 0x4000, 64 << 8 | 17, *struct.unpack("!4H", addresses))
    total = sum(words) % 0xFFFF
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17, 0xFFFF - total) + addresses
    return bytes.fromhex("020000000001") + bytes.fromhex("0200000000fe") + b"\x08\x00" + head + udp


def _write(folder: Path, frames: Iterator[bytes]) -> Path:
    handle, name = tempfile.mkstemp(dir=folder)
    with os.fdopen(handle, "wb") as file:
        first = next(frames)
        file.write(struct.pack("=I", len(first)) + first)
        file.writelines(frames)
    return Path(name)


def _in_turns(sender: Path, nothing: int, others: Sequence[Measured]) -> list[Row]:
    """Let each have its rounds, one after the other."""
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
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open("rb") as before:
        if libc.unshare(0x40000000):
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            subprocess.run(["ip", "-batch", "-"], input=_COMMANDS, text=True, check=True)
            Path("/proc/sys/net/ipv4/conf/in0/forwarding").write_text("1")
            _receive_on("out1")
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
def _floor_loaded(folder: Path) -> Iterator[BpfObject]:
    """Compile and load encapsulator.c."""
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
