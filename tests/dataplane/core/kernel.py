"""The test program xdp_core.c in the kernel: compiled, loaded through libbpf, fed packets by BPF test-run.

Only as much of libbpf as that takes. The XDP plane has a loader of its own.
"""

import ctypes
import os
import socket
import struct
import subprocess
from pathlib import Path
from typing import Final

from qlb.dataplane.table import CONFIG, CONFIGS, HEAD, SERVER
from qlb.routing.maglev import RING_SIZES, FourTuple

SOURCE: Final = Path(__file__).with_name("xdp_core.c")
INCLUDE: Final = Path(__file__).parents[3] / "qlb" / "dataplane"

FLAGS: Final = ("-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wshadow", "-std=gnu11")
"""-mcpu=v3: 32-bit arithmetic and jumps, which kernel 5.1 has brought."""

FLOWS: Final = 65_536
"""Entries of each flow table, as xdp_core.c has it."""

ROOM: Final = {"configs": CONFIGS, "servers": 4096, "backends": 1024, "ring": RING_SIZES[0]}
"""Entries of the maps that a table is written into."""

_LOG_BYTES: Final = 1 << 20
_VERIFIER_STATISTICS: Final = 4


class Unavailable(Exception):
    """What this machine lacks."""


class _TestRun(ctypes.Structure):
    """struct bpf_test_run_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_char_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


def compile_program(into: Path) -> Path:
    """Compile xdp_core.c and return the object. Raises subprocess.CalledProcessError with clang's words."""
    target = into / "xdp_core.o"
    machine = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    subprocess.run(
        ["clang", *FLAGS, machine, f"-I{INCLUDE}", "-c", str(SOURCE), "-o", str(target)],
        check=True,
        capture_output=True,
        text=True,
    )
    return target


def libbpf() -> ctypes.CDLL:
    """Return libbpf, or raise Unavailable."""
    if os.geteuid():
        raise Unavailable("loading a BPF program needs root")
    try:
        library = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise Unavailable("libbpf.so.1 is not installed") from error
    for name in ("bpf_object__open_file", "bpf_object__next_program", "bpf_object__find_map_by_name"):
        getattr(library, name).restype = ctypes.c_void_p
    library.libbpf_set_print(None)
    if library.libbpf_probe_bpf_prog_type(6, None) != 1:  # BPF_PROG_TYPE_XDP
        raise Unavailable("the kernel, or what confines this process, loads no XDP program")
    return library


class Program:
    """xdp_core.c in the kernel, with room for small tables. close() it."""

    def __init__(self, library: ctypes.CDLL, binary: Path) -> None:
        """Load. Raises AssertionError with the verifier's words."""
        self._library = library
        self._object = ctypes.c_void_p(library.bpf_object__open_file(str(binary).encode(), None))
        for name, slots in ROOM.items():
            assert library.bpf_map__set_max_entries(self._map(name), ctypes.c_uint32(slots)) == 0
        program = ctypes.c_void_p(library.bpf_object__next_program(self._object, None))
        log = ctypes.create_string_buffer(_LOG_BYTES)
        library.bpf_program__set_log_buf(program, log, ctypes.c_size_t(_LOG_BYTES))
        library.bpf_program__set_log_level(program, ctypes.c_uint32(_VERIFIER_STATISTICS))
        failed = library.bpf_object__load(self._object)
        self.verifier = log.value.decode()
        """What the verifier said: how many instructions it walked through, how deep the stack is."""
        assert not failed, self.verifier
        self._program = library.bpf_program__fd(program)

    def close(self) -> None:
        """Unload."""
        self._library.bpf_object__close(self._object)

    def fill(self, table: bytes) -> None:
        """Write a table into the maps. What the flow tables hold stays."""
        head = HEAD.unpack(table)
        self._write("head", table[: HEAD.size_bytes], 1)
        self._write("configs", table[head["configs_at"] :], CONFIGS, CONFIG.size_bytes)
        self._write("servers", table[head["servers_at"] :], head["server_slots"], SERVER.size_bytes)
        self._write("backends", table[head["backends_at"] :], head["backend_slots"], 4)
        self._write("ring", table[head["ring_at"] :], head["ring_slots"], 4)

    def decide(self, datagram: bytes, four_tuple: FourTuple, now_ns: int) -> tuple[int, int]:
        """Return (outcome, backend index) of one datagram."""
        self._write("now_ns", struct.pack("=Q", now_ns), 1)
        result = self._run(packet(datagram, four_tuple), 1).retval
        return result & 0xFF, (result >> 8) - 1

    def cost_ns(self, datagram: bytes, four_tuple: FourTuple, repeat: int = 100_000) -> int:
        """Return what the kernel says one run takes on average, in nanoseconds."""
        return int(self._run(packet(datagram, four_tuple), repeat).duration)

    def _run(self, octets: bytes, repeat: int) -> _TestRun:
        options = _TestRun(sz=ctypes.sizeof(_TestRun), data_in=octets, data_size_in=len(octets), repeat=repeat)
        assert self._library.bpf_prog_test_run_opts(self._program, ctypes.byref(options)) == 0
        return options

    def _map(self, name: str) -> ctypes.c_void_p:
        return ctypes.c_void_p(self._library.bpf_object__find_map_by_name(self._object, name.encode()))

    def _write(self, name: str, octets: bytes, count: int, size: int = 0) -> None:
        if not count:
            return
        values = octets[: count * (size or len(octets))]
        keys = struct.pack(f"={count}I", *range(count))
        failed = self._library.bpf_map_update_batch(
            self._library.bpf_map__fd(self._map(name)), keys, values, ctypes.byref(ctypes.c_uint32(count)), None
        )
        assert not failed, (name, os.strerror(ctypes.get_errno()))


def packet(datagram: bytes, four_tuple: FourTuple) -> bytes:
    """Return Ethernet, IP and UDP around a datagram, without checksums; lengths are right."""
    client, client_port, service, service_port = four_tuple
    udp = struct.pack("!HHHH", client_port, service_port, 8 + len(datagram), 0) + datagram
    if ":" in client + service:
        addresses = _ipv6(client) + _ipv6(service)
        return bytes(12) + b"\x86\xdd" + struct.pack("!IHBB", 6 << 28, len(udp), 17, 64) + addresses + udp
    addresses = socket.inet_aton(client) + socket.inet_aton(service)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    return bytes(12) + b"\x08\x00" + head + addresses + udp


def _ipv6(host: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, host if ":" in host else f"::ffff:{host}")
