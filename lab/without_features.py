"""Run a command as in a sandbox or on an old kernel: optional socket options and memfd_create are refused.

python -m lab.without_features COMMAND…
"""

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Final

SYSCALLS: Final = {"x86_64": (54, 55, 319), "aarch64": (208, 209, 279)}
"""System call numbers of setsockopt, getsockopt and memfd_create, by machine."""
OPTIONS: Final = {
    # SO_SNDBUFFORCE, SO_RCVBUFFORCE, SO_BINDTODEVICE, SO_MEMINFO, SO_COOKIE
    socket.SOL_SOCKET: (32, 33, 25, 55, 57),
    # IP_PKTINFO, IP_MTU_DISCOVER, IP_RECVTOS, IP_FREEBIND
    socket.IPPROTO_IP: (8, 10, 13, 15),
    # IPV6_MTU_DISCOVER, IPV6_RECVPKTINFO, IPV6_RECVTCLASS, IPV6_FREEBIND
    socket.IPPROTO_IPV6: (23, 49, 66, 78),
    # UDP_SEGMENT, UDP_GRO
    socket.IPPROTO_UDP: (103, 104),
}

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_NUMBER_AT, _LEVEL_AT, _OPTION_AT = 0, 24, 32
_SET_NO_NEW_PRIVS: Final = 38
_SET_SECCOMP: Final = 22
_FILTER: Final = 2


def program() -> bytes:
    """Return the seccomp filter: it refuses the listed calls, and allows all others."""
    set_option, get_option, memfd = SYSCALLS[platform.machine()]
    rows = [*_refuse([(_NUMBER_AT, memfd)], errno.ENOSYS)]
    for number in (set_option, get_option):
        for level, options in OPTIONS.items():
            for option in options:
                wanted = [(_NUMBER_AT, number), (_LEVEL_AT, level), (_OPTION_AT, option)]
                rows += _refuse(wanted, errno.ENOPROTOOPT)
    return b"".join([*rows, _row(_RETURN, _ALLOW)])


def _refuse(wanted: Sequence[tuple[int, int]], number: int) -> list[bytes]:
    """Return the instructions that refuse a call if all of these words have these values."""
    rows = []
    for position, (offset, value) in enumerate(wanted):
        past = 2 * (len(wanted) - position) - 1
        rows += [_row(_LOAD, offset), _row(_JUMP_EQUAL, value, 0, past)]
    return [*rows, _row(_RETURN, _ERRNO | number)]


def _row(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _call(libc: ctypes.CDLL, *arguments: object) -> None:
    if libc.prctl(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main() -> None:
    """Install the filter and execute the command."""
    octets = program()
    rows = ctypes.create_string_buffer(octets, len(octets))
    header = struct.pack("@HP", len(octets) // 8, ctypes.addressof(rows))
    libc = ctypes.CDLL(None, use_errno=True)
    _call(libc, _SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call(libc, _SET_SECCOMP, _FILTER, ctypes.create_string_buffer(header, len(header)), 0, 0)
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
