"""The part of libbpf that qlb needs, through ctypes: the library, links and test runs. See also bpf_object.py.

Functions have libbpf's names without their prefix. If the kernel refuses a call, they raise OSError with its reason. If
this machine lacks something, library() raises PlaneUnavailable. Needs libbpf 1.0 and kernel 5.15.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
import sys
from pathlib import Path
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
"""CAP_PERFMON: without it the verifier rejects packet pointers that move by an unknown number."""
_CAP_SYS_ADMIN: Final = 21
_LINK_INFO_BYTES: Final = 20
_PROGRAM_INFO_BYTES: Final = 40
"""Sizes of the parts that qlb needs of the kernel's structs; the kernel fills the size that the caller passes."""
_MAX_PACKET_BYTES: Final = 3520
"""The longest packet of a test run: a page of 4,096 octets minus the kernel's own part."""


class _LinkCreate(ctypes.Structure):
    """struct bpf_link_create_opts."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("flags", ctypes.c_uint32),
        ("iter_info", ctypes.c_void_p),
        ("iter_info_len", ctypes.c_uint32),
        ("target_btf_id", ctypes.c_uint32),
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
    """The result of a test run. action: such as XDP_PASS. packet: as the program left it. duration_ns: mean of runs."""

    action: int
    packet: bytes
    duration_ns: int


@functools.cache
def library() -> ctypes.CDLL:
    """Return libbpf. Raises PlaneUnavailable if the library, a capability or the kernel's support is missing."""
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
        raise PlaneUnavailable("this kernel, or the sandbox of this process, loads no XDP program")
    return found


def what_lacks() -> str:
    """Return what this machine or process lacks to run XDP programs; empty if it lacks nothing."""
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
    if effective >> _CAP_SYS_ADMIN & 1:  # before kernel 5.8 it included the other two
        return [name for name in ("CAP_NET_ADMIN",) if not effective >> _CAPABILITIES[name] & 1]
    return [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]


def possible_cpus() -> int:
    """Return the number of values in an element of a per-CPU map."""
    return int(library().libbpf_num_possible_cpus())


class Link:
    """A program attached to an interface. The kernel detaches it when all descriptors and pins are gone."""

    def __init__(self, fd: int) -> None:
        """Use attach() or open_pinned()."""
        self.fd = fd

    @classmethod
    def attach(cls, program: int, interface: int, attach: str) -> Link:
        """Attach a program. interface: index. attach: native, generic, or auto (native if possible). Raises OSError."""
        modes = ("native", "generic") if attach == "auto" else (attach,)
        for mode in modes:
            options = _LinkCreate(sz=ctypes.sizeof(_LinkCreate), flags=_ATTACH_FLAGS[mode])
            fd = library().bpf_link_create(program, interface, _ATTACH_TYPE_XDP, ctypes.byref(options))
            if fd >= 0:
                return cls(fd)
        raise last_error("cannot attach")

    @classmethod
    def open_pinned(cls, path: Path) -> Link | None:
        """Return the link that is pinned at a path; None if there is none. Raises OSError."""
        fd = library().bpf_obj_get(os.fsencode(path))
        if fd >= 0:
            return cls(fd)
        if ctypes.get_errno() == errno.ENOENT:
            return None
        raise last_error(str(path))

    def update(self, program: int) -> None:
        """Replace the attached program, between two packets. Raises OSError."""
        check(library().bpf_link_update(self.fd, program, None), "cannot replace the program")

    def on(self) -> tuple[int, int]:
        """Return the index of the interface (0: detached) and the ID of the program. Raises OSError."""
        octets = _information(self.fd, _LINK_INFO_BYTES)  # struct bpf_link_info: type, id, prog_id, then xdp.ifindex
        return struct.unpack_from("=8xI4xI", octets)[::-1]

    def pin(self, path: Path) -> None:
        """Let the program stay attached after this process ends. path: in a BPF file system. Raises OSError."""
        check(library().bpf_obj_pin(self.fd, os.fsencode(path)), str(path))

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


def program_id(program: int) -> int:
    """Return the kernel's ID of a loaded program. Raises OSError."""
    number: int = struct.unpack_from("=4xI", _information(program, _PROGRAM_INFO_BYTES))[0]
    return number


def _information(fd: int, size_bytes: int) -> bytes:
    octets, length = ctypes.create_string_buffer(size_bytes), ctypes.c_uint32(size_bytes)
    check(library().bpf_obj_get_info_by_fd(fd, octets, ctypes.byref(length)), "object information")
    return octets.raw


def run_packet(program: int, packet: bytes, *, interface: int = 0, repeat: int = 1) -> TestedPacket:
    """Run a program on one packet. interface: index of the one on which it seems to arrive, 0 = lo. Raises OSError."""
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
    check(library().bpf_prog_test_run_opts(program, ctypes.byref(options)), "test run")
    return TestedPacket(options.retval, out.raw[: options.data_size_out], options.duration)


def check(result: int, what: str) -> None:
    """Raise the OSError of a call that returned a negative number. what: for the message."""
    if result < 0:
        raise last_error(what)


def last_error(what: str) -> OSError:
    """Return the OSError of the last call. what: for the message."""
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
