"""UDP sockets as QUIC wants them: never fragmenting, keeping ECN, and shared by the workers of a port.

The supervisor opens listeners and passes them down; a plane opens sockets towards backends. Nothing here
is on the packet path.
"""

import ipaddress
import socket
import struct
import sys
from collections.abc import Callable
from typing import Final, NamedTuple

from qlb.addresses import Endpoint
from qlb.dataplane import ancillary
from qlb.local_addresses import address_of, family_of, interface_name


class Buffers(NamedTuple):
    """Octets of memory to ask for on a listener: for packets not read yet, and for packets not sent yet."""

    receive_bytes: int = 4 << 20
    send_bytes: int = 4 << 20


DEFAULT_BUFFERS: Final = Buffers()


# Linux: always set "don't fragment", and do not let a forged ICMP message shrink what may be sent.
_IP_MTU_DISCOVER: Final = 10
_IP_MTU: Final = 14
_IPV6_MTU: Final = 24
_IPV6_MTU_DISCOVER: Final = 23
_PMTUDISC_PROBE: Final = 3
# Linux: buffers beyond the limit of the system, for CAP_NET_ADMIN; and the use of a socket's memory, an array of
# 32-bit numbers, one of which counts dropped datagrams.
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("=9I")
_MEMINFO_DROPS: Final = 8
_DROPS_WRAP: Final = 1 << 32
# Linux: SO_TIMESTAMP, SO_TIMESTAMPNS and SO_TIMESTAMPING.
_TIMESTAMPS: Final = (29, 35, 37) if sys.platform == "linux" else ()
# Linux: many datagrams of one sender in one piece.
_UDP_GRO: Final = 104
# Linux: bind, and send from, addresses that no interface has (yet).
_IP_FREEBIND: Final = 15
_IPV6_FREEBIND: Final = 78


def open_listener(endpoint: Endpoint, buffers: Buffers = DEFAULT_BUFFERS, *, freebind: bool = True) -> socket.socket:
    """Bind a non-blocking UDP socket that other workers may bind too. Port 0 takes any free one.

    buffers: sizes to ask for; the system may grant less (see receive_buffer_shortfall(), send_buffer_shortfall()).
    freebind: on Linux, also bind an address that no interface has yet; see is_local().
    Raises OSError where the address is not this machine's, the port is taken or needs privileges.
    """
    sock = _open(endpoint)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        _prepare_listener(sock, endpoint, buffers, freebind)
        sock.bind(address_of(endpoint))
    except OSError:
        sock.close()
        raise
    return sock


def adopt_listener(sock: socket.socket, buffers: Buffers = DEFAULT_BUFFERS, *, freebind: bool = True) -> None:
    """Set on a UDP socket that another process has bound what open_listener() sets on its own. Raises OSError."""
    _make_quic(sock)
    _where_supported(_no_timestamps, sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # more workers may join it
    _prepare_listener(sock, bound_endpoint(sock), buffers, freebind)


def bind_freely(sock: socket.socket) -> None:
    """Let a socket bind, and send from, addresses that no interface has (yet), if the system can do so.

    A wildcard IPv6 listener needs it too: without it the kernel refuses to send from an address that is local only
    by a route (``ip -6 route add local 2001:db8:1::/64 dev lo``). For IPv4 it does not.
    """
    if sys.platform == "linux":
        ipv6 = sock.family == socket.AF_INET6
        level, option = (socket.IPPROTO_IPV6, _IPV6_FREEBIND) if ipv6 else (socket.IPPROTO_IP, _IP_FREEBIND)
        _where_supported(lambda one: one.setsockopt(level, option, 1), sock)


def take_single_datagrams(sock: socket.socket) -> None:
    """Have a listener hand over each datagram by itself: a plane that was here before may have asked for pieces."""
    if sys.platform == "linux":
        _where_supported(lambda one: one.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 0), sock)


def open_upstream(endpoint: Endpoint) -> socket.socket:
    """Open a non-blocking UDP socket connected to a backend, on a port that the system picks at random.

    Raises OSError where there are no descriptors or ports left, or no route.
    """
    sock = _open(endpoint)
    try:
        sock.connect(address_of(endpoint))
    except OSError:
        sock.close()
        raise
    return sock


def path_mtu(endpoint: Endpoint) -> int | None:
    """Return the octets of the largest IP packet on the path to an address, as far as the system knows; else None."""
    if sys.platform != "linux":
        return None
    try:
        with open_upstream(endpoint) as sock:
            if sock.family == socket.AF_INET6:
                return sock.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
            return sock.getsockopt(socket.IPPROTO_IP, _IP_MTU)
    except OSError:
        return None


def bound_endpoint(sock: socket.socket) -> Endpoint:
    """Return the address that a socket is bound to, with the ``%scope`` of a link-local one."""
    host, port, *rest = sock.getsockname()
    return Endpoint(f"{host}%{interface_name(rest[1])}" if rest and rest[1] else host, port)


def granted_receive_buffer(sock: socket.socket) -> int:
    """Return the octets of a socket's receive buffer, as they were asked for."""
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return granted // 2 if sys.platform == "linux" else granted  # Linux tells its double: its own bookkeeping


def granted_send_buffer(sock: socket.socket) -> int:
    """Return the octets of a socket's send buffer, in the unit in which they are asked for."""
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    return granted // 2 if sys.platform == "linux" else granted  # Linux reports twice the size: its own bookkeeping


def send_buffer_shortfall(wanted_bytes: int, granted_bytes: int) -> str | None:
    """Return a warning for the operator of a system that grants a smaller send buffer; None if it does not."""
    if granted_bytes >= wanted_bytes:
        return None
    limit = "net.core.wmem_max" if sys.platform == "linux" else "kern.ipc.maxsockbuf"
    privilege = ", or give qlb CAP_NET_ADMIN" if sys.platform == "linux" else ""
    return (
        f"forwarding.send_buffer is {wanted_bytes:,} octets, but the system grants {granted_bytes:,}: fewer packets to "
        f"clients can wait for the network device; raise the sysctl {limit} to {wanted_bytes:d}{privilege}"
    )


def receive_buffer_shortfall(wanted_bytes: int, granted_bytes: int) -> str | None:
    """Return what to tell an operator whose system grants less than is wanted; None where all is well."""
    if granted_bytes >= wanted_bytes:
        return None
    limit = "net.core.rmem_max" if sys.platform == "linux" else "kern.ipc.maxsockbuf"
    privilege = ", or give qlb CAP_NET_ADMIN" if sys.platform == "linux" else ""
    return (
        f"forwarding.receive_buffer is {wanted_bytes:,} octets, but the system grants {granted_bytes:,}: bursts beyond "
        f"that are dropped; raise the sysctl {limit} to {wanted_bytes:d}{privilege}"
    )


def dropped_at(sock: socket.socket) -> int | None:
    """Return how many datagrams the system has dropped on the way into a socket since it was opened, modulo 2³².

    Nearly always because its receive queue was full. None if the system does not report it: it is not Linux, or
    Linux before 4.12, or a sandbox such as gVisor.
    """
    if sys.platform != "linux":
        return None
    try:
        figures = _MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
    except (OSError, struct.error):
        return None
    return int(figures[_MEMINFO_DROPS])


class DropCounter:
    """Datagrams that the system has dropped on the way into one socket, counted on where its own number wraps.

    Right as long as it is asked at least once in 2³² drops.
    """

    __slots__ = ("_last", "_sock", "_total")

    def __init__(self, sock: socket.socket) -> None:
        """sock: watched from now on, and not closed here; it may have dropped some for a process before this one."""
        self._sock = sock
        self._last = dropped_at(sock) or 0
        self._total = 0

    def read(self) -> int | None:
        """Return the drops until now, or until the socket was closed; None where the system does not tell."""
        if self._sock.fileno() < 0:
            return self._total
        seen = dropped_at(self._sock)
        if seen is None:
            return None
        self._total += (seen - self._last) % _DROPS_WRAP
        self._last = seen
        return self._total


def _open(endpoint: Endpoint) -> socket.socket:
    sock = socket.socket(family_of(endpoint), socket.SOCK_DGRAM)
    _make_quic(sock)
    return sock


def _make_quic(sock: socket.socket) -> None:
    sock.setblocking(False)
    for option in (ancillary.receive_traffic_class, _never_fragment):
        _where_supported(option, sock)


def _prepare_listener(sock: socket.socket, endpoint: Endpoint, buffers: Buffers, freebind: bool) -> None:
    _ask_for_buffer(sock, socket.SO_RCVBUF, _SO_RCVBUFFORCE, buffers.receive_bytes)
    _ask_for_buffer(sock, socket.SO_SNDBUF, _SO_SNDBUFFORCE, buffers.send_bytes)
    if freebind:
        bind_freely(sock)
    _where_supported(ancillary.receive_hop_limit, sock)
    if ipaddress.ip_address(endpoint.host).is_unspecified:
        _where_supported(ancillary.receive_destination, sock)


def _ask_for_buffer(sock: socket.socket, option: int, force_option: int, wanted_bytes: int) -> None:
    if sys.platform == "linux":
        try:
            return sock.setsockopt(socket.SOL_SOCKET, force_option, wanted_bytes)
        except OSError:  # no privilege, or a kernel (gVisor) without the option
            return _where_supported(  # cut to rmem_max or wmem_max
                lambda one: one.setsockopt(socket.SOL_SOCKET, option, wanted_bytes), sock
            )
    while wanted_bytes:  # the BSDs refuse what is too much
        try:
            return sock.setsockopt(socket.SOL_SOCKET, option, wanted_bytes)
        except OSError:
            wanted_bytes //= 2
    return None


def _never_fragment(sock: socket.socket) -> None:
    if sys.platform == "linux":
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_PROBE)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_PROBE)


def _no_timestamps(sock: socket.socket) -> None:
    """Undo Timestamping= of a .socket unit: a plane has no room for such control messages, and would lose ECN marks."""
    for option in _TIMESTAMPS:
        sock.setsockopt(socket.SOL_SOCKET, option, 0)


def _where_supported(option: Callable[[socket.socket], None], sock: socket.socket) -> None:
    """Set an option that forwarding can do without on systems that lack it."""
    try:
        option(sock)
    except OSError:
        return
