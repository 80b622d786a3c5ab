"""As much of libbpf as qlb needs, through ctypes: objects, maps, programs, links, test runs.

Names are libbpf's without their prefix. Whatever the kernel refuses is raised as OSError with its reason; what this
machine lacks altogether is raised as PlaneUnavailable, by library(). Needs libbpf 1.0 and kernel 5.15.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple

from qlb.errors import PlaneUnavailable

XDP_DROP: Final = 1
XDP_PASS: Final = 2
XDP_TX: Final = 3
XDP_REDIRECT: Final = 4

_PROG_TYPE_XDP: Final = 6
_ATTACH_TYPE_XDP: Final = 37
_ATTACH_FLAGS: Final = {"generic": 1 << 1, "native": 1 << 2}
_CAPABILITIES: Final = {"CAP_NET_ADMIN": 12, "CAP_PERFMON": 38, "CAP_BPF": 39}
"""CAP_PERFMON: without it the verifier lets no pointer into a packet move by a number that it does not know."""
_CAP_SYS_ADMIN: Final = 21
_LOG_BYTES: Final = 1 << 20
_FAILURE_LOG_BYTES: Final = 1 << 16
_VERIFIER_STATISTICS: Final = 4
_LINK_INFO_BYTES: Final = 20
_PROGRAM_INFO_BYTES: Final = 40
"""Of the kernel's structures, as much as is needed; it fills what it is given room for."""
_MAX_PACKET_BYTES: Final = 3520
"""The most that a test run takes: what is left of a page of 4,096 octets."""


class _LinkCreate(ctypes.Structure):
    """struct bpf_link_create_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("flags", ctypes.c_uint32),
        ("iter_info", ctypes.c_void_p),
        ("iter_info_len", ctypes.c_uint32),
        ("target_btf_id", ctypes.c_uint32),
    )


class _MapCreate(ctypes.Structure):
    """struct bpf_map_create_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("btf_fd", ctypes.c_uint32),
        ("btf_key_type_id", ctypes.c_uint32),
        ("btf_value_type_id", ctypes.c_uint32),
        ("btf_vmlinux_value_type_id", ctypes.c_uint32),
        ("inner_map_fd", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("map_extra", ctypes.c_uint64),
        ("numa_node", ctypes.c_uint32),
        ("map_ifindex", ctypes.c_uint32),
    )


class _TestRun(ctypes.Structure):
    """struct bpf_test_run_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_char_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_char_p),
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


class TestedPacket(NamedTuple):
    """What a program made of a packet. action: XDP_PASS and the like. duration_ns: of one run, on average."""

    action: int
    packet: bytes
    duration_ns: int


@functools.cache
def library() -> ctypes.CDLL:
    """Return libbpf. Raises PlaneUnavailable, naming what is missing: the library, a capability, the kernel's part."""
    try:
        found = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise PlaneUnavailable("libbpf.so.1 is missing (Debian and Ubuntu: apt install libbpf1)") from error
    if missing := _missing_capabilities():
        raise PlaneUnavailable(f"this process lacks {' and '.join(missing)} (root has them)")
    pointers = (
        "bpf_object__open_mem",
        "bpf_object__next_program",
        "bpf_object__find_map_by_name",
        "bpf_object__find_program_by_name",
    )
    for name in pointers:
        getattr(found, name).restype = ctypes.c_void_p
    found.libbpf_set_print(None)
    if found.libbpf_probe_bpf_prog_type(_PROG_TYPE_XDP, None) != 1:
        raise PlaneUnavailable("this kernel, or what confines this process, loads no XDP program")
    return found


def what_lacks() -> str:
    """Return what this machine or process lacks to run XDP programs; empty where it has all."""
    if sys.platform != "linux":
        return "this system is not Linux"
    try:
        library()
    except PlaneUnavailable as missing:
        return str(missing)
    return ""


def _missing_capabilities() -> list[str]:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    effective = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    if effective >> _CAP_SYS_ADMIN & 1:  # it stood for the other two before there were any
        return [name for name in ("CAP_NET_ADMIN",) if not effective >> _CAPABILITIES[name] & 1]
    return [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]


def possible_cpus() -> int:
    """Return how many values an element of a per-CPU map has."""
    return int(library().libbpf_num_possible_cpus())


class BpfObject:
    """A compiled object: opened, then loaded with all its maps and programs. close() lets go of it; links stay."""

    def __init__(self, octets: bytes, *, log: bool = False) -> None:
        """octets: of the ELF file. log: keep what the verifier says of each program, in verifier_log."""
        self._library = library()
        self._octets = octets
        handle = self._library.bpf_object__open_mem(octets, ctypes.c_size_t(len(octets)), None)
        if not handle:
            raise _error("the BPF object cannot be read")
        self._handle = ctypes.c_void_p(handle)
        self._logs: dict[str, ctypes.Array[ctypes.c_char]] = {}
        self._log = log

    def __enter__(self) -> BpfObject:
        """Return it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close it."""
        self.close()

    def resize(self, entries: Mapping[str, int]) -> None:
        """Before load(): set how many elements maps have. Raises OSError."""
        for name, count in entries.items():
            _check(self._library.bpf_map__set_max_entries(self._map(name), ctypes.c_uint32(count)), name)

    def share(self, maps: Mapping[str, BpfMap]) -> None:
        """Before load(): take maps that are there already in place of new ones. Raises OSError."""
        for name, there in maps.items():
            _check(self._library.bpf_map__reuse_fd(self._map(name), there.fd), name)

    def set_constants(self, section: str, octets: bytes) -> None:
        """Before load(): set the values of a read-only data section. Raises OSError where the size differs."""
        size = ctypes.c_size_t(len(octets))
        _check(self._library.bpf_map__set_initial_value(self._map(section), octets, size), section)

    def load(self) -> None:
        """Create the maps and load the programs. Raises OSError with the verifier's last lines."""
        at = self._library.bpf_object__next_program(self._handle, None)
        while at:
            self._prepare(ctypes.c_void_p(at))
            at = self._library.bpf_object__next_program(self._handle, ctypes.c_void_p(at))
        failed = self._library.bpf_object__load(self._handle)
        if failed:
            lines = [log.value.decode(errors="replace").strip() for log in self._logs.values()]
            said = "\n".join(line for text in lines if text for line in text.splitlines()[-20:])
            raise OSError(-failed, f"the kernel refuses the program: {os.strerror(-failed)}\n{said}".strip())

    def _prepare(self, program: ctypes.c_void_p) -> None:
        get_name = self._library.bpf_program__name
        get_name.restype = ctypes.c_char_p
        name = get_name(program).decode()
        log = ctypes.create_string_buffer(_LOG_BYTES if self._log else _FAILURE_LOG_BYTES)
        self._logs[name] = log
        self._library.bpf_program__set_log_buf(program, log, ctypes.c_size_t(len(log)))
        if self._log:
            self._library.bpf_program__set_log_level(program, ctypes.c_uint32(_VERIFIER_STATISTICS))

    def verifier_log(self, program: str) -> str:
        """Return what the verifier said of a program that was loaded."""
        return self._logs[program].value.decode(errors="replace")

    def map(self, name: str) -> BpfMap:
        """Return a map of a loaded object."""
        at, sizes = self._map(name), []
        for what in ("key_size", "value_size", "max_entries"):
            ask = getattr(self._library, f"bpf_map__{what}")
            ask.restype = ctypes.c_uint32
            sizes.append(int(ask(at)))
        return BpfMap(int(self._library.bpf_map__fd(at)), *sizes)

    def program(self, name: str) -> int:
        """Return the descriptor of a loaded program."""
        handle = self._library.bpf_object__find_program_by_name(self._handle, name.encode())
        if not handle:
            raise _error(f"no program {name}")
        return int(self._library.bpf_program__fd(ctypes.c_void_p(handle)))

    def close(self) -> None:
        """Close every descriptor; what is attached or pinned goes on."""
        if self._handle:
            self._library.bpf_object__close(self._handle)
            self._handle = ctypes.c_void_p(None)

    def _map(self, name: str) -> ctypes.c_void_p:
        handle = self._library.bpf_object__find_map_by_name(self._handle, name.encode())
        if not handle:
            raise _error(f"no map {name}")
        return ctypes.c_void_p(handle)


class BpfMap:
    """One map. fd: owned by its object, or by the caller where create() made it. Sizes in octets."""

    def __init__(self, fd: int, key_size: int, value_size: int, max_entries: int) -> None:
        """Use BpfObject.map() or create()."""
        self.fd = fd
        self.key_size = key_size
        self.value_size = value_size
        self.max_entries = max_entries

    @classmethod
    def create_array(cls, name: str, value_size: int, max_entries: int) -> BpfMap:
        """Create an array that belongs to no object. Raises OSError."""
        map_type_array = 2
        options = _MapCreate(sz=ctypes.sizeof(_MapCreate))
        fd = library().bpf_map_create(map_type_array, name.encode(), 4, value_size, max_entries, ctypes.byref(options))
        _check(fd, name)
        return cls(fd, 4, value_size, max_entries)

    def set(self, key: bytes, value: bytes) -> None:
        """Set one element. Raises OSError."""
        _check(library().bpf_map_update_elem(self.fd, key, value, ctypes.c_uint64(0)), "map update")

    def get(self, key: bytes) -> bytes | None:
        """Return one element, or None. Not of a per-CPU map."""
        value = ctypes.create_string_buffer(self.value_size)
        return None if library().bpf_map_lookup_elem(self.fd, key, value) else value.raw

    def delete(self, key: bytes) -> None:
        """Delete an element; one that is not there is no error. Raises OSError."""
        if library().bpf_map_delete_elem(self.fd, key) < 0 and ctypes.get_errno() != errno.ENOENT:
            raise _error("map update")

    def write(self, first: int, octets: bytes) -> None:
        """Of an array: set consecutive elements, whole ones, from an index on. Raises OSError."""
        count = len(octets) // self.value_size
        if not count:
            return
        keys = struct.pack(f"={count}I", *range(first, first + count))
        done = ctypes.c_uint32(count)
        _check(library().bpf_map_update_batch(self.fd, keys, octets, ctypes.byref(done), None), "map update")

    def read_per_cpu(self) -> memoryview:
        """Of a per-CPU array: return every element, CPU after CPU within each, as 64-bit integers. Raises OSError."""
        size = self.value_size * possible_cpus() * self.max_entries
        values, keys = ctypes.create_string_buffer(size), ctypes.create_string_buffer(4 * self.max_entries)
        after, count = ctypes.c_uint32(0), ctypes.c_uint32(self.max_entries)
        failed = library().bpf_map_lookup_batch(
            self.fd, None, ctypes.byref(after), keys, values, ctypes.byref(count), None
        )
        if failed and ctypes.get_errno() != errno.ENOENT:  # there is no more after this
            raise _error("map lookup")
        return memoryview(values).cast("B").cast("Q")

    def close(self) -> None:
        """Close the descriptor of a map that create_array() made."""
        os.close(self.fd)


class Link:
    """A program attached to an interface. It is detached when the last descriptor and the last pin are gone."""

    def __init__(self, fd: int) -> None:
        """Use attach() or open_pinned()."""
        self.fd = fd

    @classmethod
    def attach(cls, program: int, interface: int, attach: str) -> Link:
        """Attach. interface: its index. attach: native, generic, or auto: native where possible. Raises OSError."""
        modes = ("native", "generic") if attach == "auto" else (attach,)
        for mode in modes:
            options = _LinkCreate(sz=ctypes.sizeof(_LinkCreate), flags=_ATTACH_FLAGS[mode])
            fd = library().bpf_link_create(program, interface, _ATTACH_TYPE_XDP, ctypes.byref(options))
            if fd >= 0:
                return cls(fd)
        raise _error("cannot attach")

    @classmethod
    def open_pinned(cls, path: Path) -> Link | None:
        """Return a link that was pinned, or None where nothing is. Raises OSError."""
        fd = library().bpf_obj_get(os.fsencode(path))
        if fd >= 0:
            return cls(fd)
        if ctypes.get_errno() == errno.ENOENT:
            return None
        raise _error(str(path))

    def update(self, program: int) -> None:
        """Put another program in place of the one that is attached, between two packets. Raises OSError."""
        _check(library().bpf_link_update(self.fd, program, None), "cannot replace the program")

    def on(self) -> tuple[int, int]:
        """Return the interface that it is on, 0 where it was detached, and the ID of its program. Raises OSError."""
        octets = _information(self.fd, _LINK_INFO_BYTES)  # struct bpf_link_info: type, id, prog_id, then xdp.ifindex
        return struct.unpack_from("=8xI4xI", octets)[::-1]

    def pin(self, path: Path) -> None:
        """Keep it attached when this process is gone. path: in a BPF file system. Raises OSError."""
        _check(library().bpf_obj_pin(self.fd, os.fsencode(path)), str(path))

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


def program_id(program: int) -> int:
    """Return the number by which the kernel lists a loaded program. Raises OSError."""
    number: int = struct.unpack_from("=4xI", _information(program, _PROGRAM_INFO_BYTES))[0]
    return number


def _information(fd: int, size_bytes: int) -> bytes:
    octets, length = ctypes.create_string_buffer(size_bytes), ctypes.c_uint32(size_bytes)
    _check(library().bpf_obj_get_info_by_fd(fd, octets, ctypes.byref(length)), "object information")
    return octets.raw


def run_packet(program: int, packet: bytes, *, interface: int = 0, repeat: int = 1) -> TestedPacket:
    """Run a program on one packet. interface: index of the one that it seems to come in at, 0 = lo. Raises OSError."""
    out = ctypes.create_string_buffer(_MAX_PACKET_BYTES + 256)
    # struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
    context = struct.pack("=6I", 0, len(packet), 0, interface, 0, 0) if interface else None
    options = _TestRun(
        sz=ctypes.sizeof(_TestRun),
        data_in=packet,
        data_size_in=len(packet),
        data_out=ctypes.cast(out, ctypes.c_void_p),
        data_size_out=len(out),
        ctx_in=context,
        ctx_size_in=len(context) if context else 0,
        repeat=repeat,
    )
    _check(library().bpf_prog_test_run_opts(program, ctypes.byref(options)), "test run")
    return TestedPacket(options.retval, out.raw[: options.data_size_out], options.duration)


def _check(result: int, what: str) -> None:
    if result < 0:
        raise _error(what)


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
