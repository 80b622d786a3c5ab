"""UDP sockets as QUIC needs them: they never fragment, report ECN, and several workers share a port.

The supervisor opens listeners and passes them to workers; a plane opens sockets to backends. The packet path does not
call this module.
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
    """Sizes of a listener's buffers to ask for: for packets that are not read yet, and for packets not sent yet."""

    receive_bytes: int = 4 << 20
    send_bytes: int = 4 << 20


DEFAULT_BUFFERS: Final = Buffers()


# Linux: always set "don't fragment", and ignore forged ICMP messages that lower the path MTU.
_IP_MTU_DISCOVER: Final = 10
_IP_MTU: Final = 14
_IPV6_MTU: Final = 24
_IPV6_MTU_DISCOVER: Final = 23
_PMTUDISC_PROBE: Final = 3
# Linux: buffers above the limit of the system, with CAP_NET_ADMIN; and figures about a socket's memory, an array of
# 32-bit numbers of which one counts dropped datagrams.
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_MEMINFO: Final = struct.Struct("=9I")
_MEMINFO_DROPS: Final = 8
_DROPS_WRAP: Final = 1 << 32
# Linux: SO_TIMESTAMP, SO_TIMESTAMPNS and SO_TIMESTAMPING.
_TIMESTAMPS: Final = (29, 35, 37) if sys.platform == "linux" else ()
# Linux: one receive may return several datagrams of one sender.
_UDP_GRO: Final = 104
# Linux: bind and send from addresses that no interface has (yet).
_IP_FREEBIND: Final = 15
_IPV6_FREEBIND: Final = 78


def open_listener(endpoint: Endpoint, buffers: Buffers = DEFAULT_BUFFERS, *, freebind: bool = True) -> socket.socket:
    """Bind a non-blocking UDP socket whose port other workers may bind too. Port 0 chooses a free port.

    buffers: sizes to ask for; the system may grant less (see receive_buffer_shortfall(), send_buffer_shortfall()).
    freebind: on Linux, also bind an address that no interface has yet; see is_local().
    Raises OSError if the address is not one of this machine, or if the port is in use or needs privileges.
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
    """Set the options of open_listener() on a UDP socket that another process has bound. Raises OSError."""
    _make_quic(sock)
    _where_supported(_no_timestamps, sock)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # more workers may bind it
    _prepare_listener(sock, bound_endpoint(sock), buffers, freebind)


def bind_freely(sock: socket.socket) -> None:
    """Allow a socket to bind and send from addresses that no interface has (yet), if the system can do so.

    A wildcard IPv6 listener needs it too: without it the kernel refuses to send from an address that is local only
    by a route (``ip -6 route add local 2001:db8:1::/64 dev lo``). For IPv4 the kernel allows it.
    """
    if sys.platform == "linux":
        ipv6 = sock.family == socket.AF_INET6
        level, option = (socket.IPPROTO_IPV6, _IPV6_FREEBIND) if ipv6 else (socket.IPPROTO_IP, _IP_FREEBIND)
        _where_supported(lambda one: one.setsockopt(level, option, 1), sock)


def take_single_datagrams(sock: socket.socket) -> None:
    """Turn off UDP GRO on a listener: a plane that read it before may have turned it on."""
    if sys.platform == "linux":
        _where_supported(lambda one: one.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 0), sock)


def open_connected(endpoint: Endpoint) -> socket.socket:
    """Open a non-blocking UDP socket connected to a backend, on a port that the system picks at random.

    Raises OSError if no descriptor or port is left, or if there is no route.
    """
    sock = _open(endpoint)
    try:
        sock.connect(address_of(endpoint))
    except OSError:
        sock.close()
        raise
    return sock


def path_mtu(endpoint: Endpoint) -> int | None:
    """Return the size in octets of the largest IP packet to an address; None if the system does not know it."""
    if sys.platform != "linux":
        return None
    try:
        with open_connected(endpoint) as sock:
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
    """Return the octets of a socket's receive buffer, in the unit in which they are asked for."""
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return granted // 2 if sys.platform == "linux" else granted  # Linux reports twice the size: its own bookkeeping


def granted_send_buffer(sock: socket.socket) -> int:
    """Return the octets of a socket's send buffer, in the unit in which they are asked for."""
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    return granted // 2 if sys.platform == "linux" else granted  # Linux reports twice the size: its own bookkeeping


def receive_buffer_shortfall(wanted_bytes: int, granted_bytes: int) -> str | None:
    """Return a warning if the system grants a smaller receive buffer than wanted; None if it does not."""
    return _shortfall("receive_buffer", "rmem_max", wanted_bytes, granted_bytes, "it drops packets of longer bursts")


def send_buffer_shortfall(wanted_bytes: int, granted_bytes: int) -> str | None:
    """Return a warning if the system grants a smaller send buffer than wanted; None if it does not."""
    effect = "fewer packets to clients can wait for the network device"
    return _shortfall("send_buffer", "wmem_max", wanted_bytes, granted_bytes, effect)


def _shortfall(key: str, sysctl: str, wanted_bytes: int, granted_bytes: int, effect: str) -> str | None:
    if granted_bytes >= wanted_bytes:
        return None
    limit, privilege = "kern.ipc.maxsockbuf", ""
    if sys.platform == "linux":
        limit, privilege = f"net.core.{sysctl}", ", or give qlb CAP_NET_ADMIN"
    return (
        f"forwarding.{key} is {wanted_bytes:,} octets, but the system grants {granted_bytes:,}: {effect}; "
        f"raise the sysctl {limit} to {wanted_bytes:d}{privilege}"
    )


def dropped_at(sock: socket.socket) -> int | None:
    """Return how many datagrams for a socket the system has dropped since it was opened, modulo 2³².

    The cause is nearly always a full receive queue. None if the system does not report it: systems other than Linux,
    Linux before 4.12, and sandboxes such as gVisor.
    """
    if sys.platform != "linux":
        return None
    try:
        figures = _MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))
    except (OSError, struct.error):
        return None
    return int(figures[_MEMINFO_DROPS])


class DropCounter:
    """The datagrams for one socket that the system has dropped, without the wrap of the system's own number.

    It is exact if read() is called at least once in 2³² drops.
    """

    __slots__ = ("_last", "_sock", "_total")

    def __init__(self, sock: socket.socket) -> None:
        """Begin to count. sock: the owner closes it; earlier drops, for another process, do not count."""
        self._sock = sock
        self._last = dropped_at(sock) or 0
        self._total = 0

    def read(self) -> int | None:
        """Return the drops until now, or until the socket was closed; None if the system does not report them."""
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
    while wanted_bytes:  # the BSDs refuse sizes above their limit
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
    """Undo Timestamping= of a .socket unit: such control messages fill the buffer, and ECN marks would be lost."""
    for option in _TIMESTAMPS:
        sock.setsockopt(socket.SOL_SOCKET, option, 0)


def _where_supported(option: Callable[[socket.socket], None], sock: socket.socket) -> None:
    """Set an option if the system supports it; forwarding works without it."""
    try:
        option(sock)
    except OSError:
        return
