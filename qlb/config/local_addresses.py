"""The addresses of this machine: packets that it sends to one of them come back to it.

Linux is asked by netlink for the route to an address. The answer covers addresses of interfaces, all of 127.0.0.0/8,
and prefixes that are routed to the machine as a whole (`ip route add local 2001:db8:1::/64 dev lo`). Binding a socket
to the address would miss such IPv6 prefixes, and would take every address for a local one where
net.ipv4.ip_nonlocal_bind is set, as it often is beside keepalived.
"""

import ipaddress
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final

FindLocal = Callable[[Iterable[str]], frozenset[str]]
"""Return those of some IP literals that are addresses of this machine."""

# Linux: linux/netlink.h and linux/rtnetlink.h.
_HEADER: Final = struct.Struct("=IHHII")
_ROUTE: Final = struct.Struct("=8BI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_NLM_F_REQUEST: Final = 1
_NLMSG_ERROR: Final = 2
_RTM_GETROUTE: Final = 26
_RTM_NEWROUTE: Final = 24
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTN_LOCAL: Final = 2
_ROUTE_TYPE: Final = _HEADER.size + 7
_ANSWER_BYTES: Final = 1 << 16
_ANSWER_S: Final = 1.0
"""The kernel answers within the call that asks. The limit only keeps a broken sandbox from blocking the caller."""
_ANY_PORT: Final = 9


def local_hosts(hosts: Iterable[str]) -> frozenset[str]:
    """Return those of some IP literals that are addresses of this machine now. A scope (fe80::1%eth0) counts."""
    wanted = tuple(hosts)
    if not wanted:
        return frozenset()
    with suppress(OSError, struct.error, AttributeError), _open_netlink() as netlink:
        return frozenset(host for number, host in enumerate(wanted, 1) if _is_local(netlink, host, number))
    return frozenset(host for host in wanted if leads_back(host))


def leads_back(host: str) -> bool:
    """Whether this machine would send from an address what it sends to it, which shows that the address is its own.

    For systems without netlink. Sends nothing. Misses prefixes of IPv6 that are routed to the machine as a whole.
    """
    bare, _, _ = host.partition("%")
    if ipaddress.ip_address(bare).is_loopback:
        return True
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            scope = (0, _interface(host)) if family == socket.AF_INET6 else ()
            sock.connect((bare, _ANY_PORT, *scope))
            source = sock.getsockname()[0]
    except OSError:
        return False
    return ipaddress.ip_address(source.partition("%")[0]) == ipaddress.ip_address(bare)


def _open_netlink() -> socket.socket:
    """Open a socket for questions about routes. Raises OSError or AttributeError where the system has none."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    sock.settimeout(_ANSWER_S)
    return sock


def _is_local(netlink: socket.socket, host: str, number: int) -> bool:
    """Ask for the route to one address. number: of the question, which its answer repeats. Raises OSError."""
    try:
        question = _question(host, number)
    except OSError:
        return False  # its scope is no interface of this machine
    netlink.send(question)
    while True:
        answer = netlink.recv(_ANSWER_BYTES)
        _, kind, _, answered, _ = _HEADER.unpack_from(answer)
        if answered == number and kind in (_RTM_NEWROUTE, _NLMSG_ERROR):
            break
    return kind == _RTM_NEWROUTE and answer[_ROUTE_TYPE] == _RTN_LOCAL


def _question(host: str, number: int) -> bytes:
    bare, _, scope = host.partition("%")
    family = socket.AF_INET6 if ":" in bare else socket.AF_INET
    packed = socket.inet_pton(family, bare)
    attributes = _attribute(_RTA_DST, packed)
    if scope:
        attributes += _attribute(_RTA_OIF, struct.pack("=I", _interface(host)))
    body = _ROUTE.pack(family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0) + attributes
    return _HEADER.pack(_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, number, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value


def _interface(host: str) -> int:
    """Return the number of the interface in a scope, 0 where there is no scope. Raises OSError."""
    _, _, scope = host.partition("%")
    return socket.if_nametoindex(scope) if scope else 0
