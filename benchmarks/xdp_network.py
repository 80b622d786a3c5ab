"""Network namespace of benchmarks.xdp, with two veth pairs, and the kernel's accounting of BPF programs.

Frames are sent on in1 and arrive at in0, where the measured program is attached. The program sends its packets on
out0, and they arrive at out1.
"""

import ctypes
import fcntl
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_STATISTICS: Final = Path("/proc/sys/kernel/bpf_stats_enabled")
_CLONE_NEWNET: Final = 0x40000000
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


@contextmanager
def network() -> Iterator[None]:
    """Move this thread into a new network namespace with both veth pairs until the end of the block."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open("rb") as before:
        if libc.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            subprocess.run(["ip", "-batch", "-"], input=_COMMANDS, text=True, check=True)
            Path("/proc/sys/net/ipv4/conf/in0/forwarding").write_text("1")
            _enable_gro("out1")
            yield
        finally:
            libc.setns(before.fileno(), _CLONE_NEWNET)


def received(interface: str) -> int:
    """Return how many packets an interface has received."""
    rows = Path("/proc/thread-self/net/dev").read_text().splitlines()
    return next(int(row.split()[2]) for row in rows if row.strip().startswith(f"{interface}:"))


@contextmanager
def accounting() -> Iterator[None]:
    """Switch on the kernel's accounting for BPF programs within the block."""
    before = _STATISTICS.read_text()
    _STATISTICS.write_text("1")
    try:
        yield
    finally:
        _STATISTICS.write_text(before)


def accounted(program: int) -> tuple[int, int]:
    """Return how many ns a program (a file descriptor) has run in all, and how many times."""
    lines = Path(f"/proc/self/fdinfo/{program}").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in lines)
    return int(fields["run_time_ns"]), int(fields["run_cnt"])


def _enable_gro(interface: str) -> None:
    """Switch GRO on. Without it, a veth drops packets that an XDP program redirects to its peer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        value = (ctypes.c_uint32 * 2)(0x2C, 1)  # ETHTOOL_SGRO
        fcntl.ioctl(sock, 0x8946, struct.pack("16sP", interface.encode(), ctypes.addressof(value)).ljust(40, b"\0"))
