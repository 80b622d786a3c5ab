"""Control messages of UDP sockets: the traffic class, the hop limit, and the address that a client sent to.

QUIC needs the ECN bits end to end (RFC 9000, section 13.4), so a plane copies them both ways, and the DSCP with them.
The hop limit (TTL) of a forwarded packet is lower by one, as at a router, so that a loop of balancers ends. A listener
on a wildcard address answers from the address that the client sent to, because the client drops answers from another
address.
"""

import socket
import struct
import sys
from collections.abc import Iterable
from typing import Final

ControlMessage = tuple[int, int, bytes]
"""(level, type, data), as socket.recvmsg() returns them and socket.sendmsg() accepts them."""

ECN_MASK: Final = 0x03
BUFFER_BYTES: Final = 2 * socket.CMSG_SPACE(4) + socket.CMSG_SPACE(20)
"""Room for a TOS or traffic class, a TTL or hop limit, and one packet-info message."""
ASSUMED_HOP_LIMIT: Final = 64
"""The hop limit if the system does not report one: the initial value of most systems."""

# Only newer versions of Python have these names. The numbers are those of the kernels.
_IP_RECVTOS: Final = {"linux": 13, "darwin": 27}.get(sys.platform)
_IP_RECVTTL: Final = {"linux": 12, "darwin": 24}.get(sys.platform)
_IP_PKTINFO: Final = {"linux": 8, "darwin": 26}.get(sys.platform)
_IP_RECVPKTINFO: Final = {"linux": 8, "darwin": 26}.get(sys.platform)
_IPV4_INFO: Final = struct.Struct("=I4s4s")
_IPV6_INFO: Final = struct.Struct("=16sI")


def receive_traffic_class(sock: socket.socket) -> None:
    """Receive the TOS octet or traffic class with each datagram, if the system can report it."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    if _IP_RECVTOS is not None and _carries_ipv4(sock):
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)


def receive_hop_limit(sock: socket.socket) -> None:
    """Receive the TTL or hop limit with each datagram, if the system can report it."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    if _IP_RECVTTL is not None and _carries_ipv4(sock):
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTTL, 1)


def receive_destination(sock: socket.socket) -> None:
    """Receive the destination address with each datagram."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    elif _IP_RECVPKTINFO is not None:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVPKTINFO, 1)


def set_traffic_class(sock: socket.socket, octet: int) -> None:
    """Send with this TOS octet or traffic class from now on."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, octet)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, octet)


def set_hop_limit(sock: socket.socket, hop_limit: int) -> None:
    """Send with this TTL or hop limit from now on."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hop_limit)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hop_limit)


def read_traffic_class(messages: Iterable[ControlMessage]) -> int:
    """Return the TOS octet or traffic class among a datagram's control messages; 0 if there is none."""
    for level, kind, data in messages:
        # IPv4 reports one octet, IPv6 an int in the machine's order.
        if level == socket.IPPROTO_IP and kind in (socket.IP_TOS, _IP_RECVTOS):
            return data[0]
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_TCLASS:
            return int.from_bytes(data, sys.byteorder) & 0xFF
    return 0


def read_hop_limit(messages: Iterable[ControlMessage]) -> int:
    """Return the TTL or hop limit among a datagram's control messages; ASSUMED_HOP_LIMIT if there is none."""
    for level, kind, data in messages:
        # Linux reports an int in the machine's order, others one octet for IPv4.
        if (level == socket.IPPROTO_IP and kind in (socket.IP_TTL, _IP_RECVTTL)) or (
            level == socket.IPPROTO_IPV6 and kind == socket.IPV6_HOPLIMIT
        ):
            return int.from_bytes(data, sys.byteorder) & 0xFF
    return ASSUMED_HOP_LIMIT


def marked(octet: int, dscp: int | None) -> int:
    """Return the traffic class to send with. octet: as received. dscp: 0 to 63, or None. ECN always stays."""
    return octet if dscp is None else dscp << 2 | octet & ECN_MASK


def read_destination(messages: Iterable[ControlMessage]) -> str | None:
    """Return the address that a datagram was sent to, as a literal; None if the system did not report it.

    After a link-local address come ``%`` and the number of the interface, because it is valid only there.
    """
    for level, kind, data in messages:
        if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
            return socket.inet_ntop(socket.AF_INET, _IPV4_INFO.unpack_from(data)[2])
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
            octets, interface = _IPV6_INFO.unpack_from(data)
            host = socket.inet_ntop(socket.AF_INET6, octets)
            return f"{host}%{interface}" if _is_link_local(octets) else host
    return None


def source_message(host: str) -> ControlMessage:
    """Return the control message that makes a datagram leave from this local address.

    host: as read_destination() returns it. Only link-local addresses name an interface. From others, datagrams leave by
    the route to the client, which may lead through another interface than the one on which the client's packet arrived.
    """
    if ":" in host:
        address, _, interface = host.partition("%")
        data = _IPV6_INFO.pack(socket.inet_pton(socket.AF_INET6, address), int(interface or 0))
        return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, data
    assert _IP_PKTINFO is not None, "read_destination() has returned this address"
    data = _IPV4_INFO.pack(0, socket.inet_pton(socket.AF_INET, host), bytes(4))
    return socket.IPPROTO_IP, _IP_PKTINFO, data


def traffic_class_message(family: int, octet: int) -> ControlMessage:
    """Return the control message that gives one datagram this TOS octet or traffic class."""
    data = octet.to_bytes(4, sys.byteorder)
    if family == socket.AF_INET6:
        return socket.IPPROTO_IPV6, socket.IPV6_TCLASS, data
    return socket.IPPROTO_IP, socket.IP_TOS, data


def _carries_ipv4(sock: socket.socket) -> bool:
    return sock.family == socket.AF_INET or not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def _is_link_local(octets: bytes) -> bool:
    return octets[0] == 0xFE and octets[1] & 0xC0 == 0x80
