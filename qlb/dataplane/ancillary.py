"""Control messages of UDP sockets: the ECN bits, and the address that a client sent to.

QUIC needs the ECN bits end to end, so they are copied both ways (RFC 9000, section 13.4). A listener on a
wildcard address answers from the very address that the client sent to, or the client drops the answer.
"""

import socket
import struct
import sys
from collections.abc import Iterable
from typing import Final

ControlMessage = tuple[int, int, bytes]
"""(level, type, data), as socket.recvmsg() gives and socket.sendmsg() takes."""

ECN_MASK: Final = 0x03
BUFFER_BYTES: Final = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(20)
"""Room for a TOS or traffic class and for one packet-info message."""

# The socket module names these on newer Pythons only; the numbers are the kernels' own.
_IP_RECVTOS: Final = {"linux": 13, "darwin": 27}.get(sys.platform)
_IP_PKTINFO: Final = {"linux": 8, "darwin": 26}.get(sys.platform)
_IP_RECVPKTINFO: Final = {"linux": 8, "darwin": 26}.get(sys.platform)
_IPV4_INFO: Final = struct.Struct("=I4s4s")
_IPV6_INFO: Final = struct.Struct("=16sI")


def receive_ecn(sock: socket.socket) -> None:
    """Ask for the TOS octet or traffic class of each datagram, where the system can tell it."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    elif _IP_RECVTOS is not None:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)


def receive_destination(sock: socket.socket) -> None:
    """Ask for the destination address of each datagram."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    elif _IP_RECVPKTINFO is not None:
        sock.setsockopt(socket.IPPROTO_IP, _IP_RECVPKTINFO, 1)


def set_ecn(sock: socket.socket, ecn: int) -> None:
    """Send with these two bits from now on; the rest of the octet is 0."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, ecn)
    else:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, ecn)


def read_ecn(messages: Iterable[ControlMessage]) -> int:
    """Return the two ECN bits among a datagram's control messages; 0 where none came."""
    for level, kind, data in messages:
        # IPv4 sends one octet, IPv6 an int in the machine's order: octet 0 holds the bits on little-endian.
        if level == socket.IPPROTO_IP and kind in (socket.IP_TOS, _IP_RECVTOS):
            return data[0] & ECN_MASK
        if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_TCLASS:
            return int.from_bytes(data, sys.byteorder) & ECN_MASK
    return 0


def read_destination(messages: Iterable[ControlMessage]) -> str | None:
    """Return the address that a datagram was sent to, as a literal; None where the system did not say.

    A link-local address is followed by ``%`` and the number of the interface: one on another interface is another.
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

    host: as read_destination() returns it. An interface is named for link-local addresses only: all others leave
    by the route to the client, which may be another interface than the one that the client's packet came in by.
    """
    if ":" in host:
        address, _, interface = host.partition("%")
        data = _IPV6_INFO.pack(socket.inet_pton(socket.AF_INET6, address), int(interface or 0))
        return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, data
    assert _IP_PKTINFO is not None, "asked only where read_destination() has answered"
    data = _IPV4_INFO.pack(0, socket.inet_pton(socket.AF_INET, host), bytes(4))
    return socket.IPPROTO_IP, _IP_PKTINFO, data


def ecn_message(family: int, ecn: int) -> ControlMessage:
    """Return the control message that marks one datagram with these ECN bits."""
    data = ecn.to_bytes(4, sys.byteorder)
    if family == socket.AF_INET6:
        return socket.IPPROTO_IPV6, socket.IPV6_TCLASS, data
    return socket.IPPROTO_IP, socket.IP_TOS, data


def _is_link_local(octets: bytes) -> bool:
    return octets[0] == 0xFE and octets[1] & 0xC0 == 0x80
