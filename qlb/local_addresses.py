"""The addresses of this machine: packets that it sends to one of them come back to it.

Linux is asked by netlink for the route to an address. The answer covers addresses of interfaces, all of 127.0.0.0/8,
and prefixes that are routed to the machine as a whole (`ip route add local 2001:db8:1::/64 dev lo`). Binding a socket
to the address would miss such IPv6 prefixes, and would take every address for a local one where
net.ipv4.ip_nonlocal_bind is set, as it often is beside keepalived.
"""

import errno
import ipaddress
import socket
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from qlb.addresses import Endpoint

FindLocal = Callable[[Iterable[str]], frozenset[str]]
"""Return those of some IP literals that are addresses of this machine."""

# Linux: linux/netlink.h and linux/rtnetlink.h.
_HEADER: Final = struct.Struct("=IHHII")
_ROUTE: Final = struct.Struct("=8BI")
_INTERFACE_ADDRESS: Final = struct.Struct("=4BI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_NLM_F_REQUEST: Final = 1
_NLM_F_REQUEST_DUMP: Final = 0x301
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_RTM_GETROUTE: Final = 26
_RTM_NEWROUTE: Final = 24
_RTA_DST: Final = 1
_RTA_OIF: Final = 4
_RTN_LOCAL: Final = 2
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
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


_WILDCARDS: Final = ("0.0.0.0", "::")


def find_loops(
    places: Iterable[Endpoint], listen: Sequence[Endpoint], find_local: FindLocal | None = None
) -> Mapping[Endpoint, Endpoint]:
    """Return those of some places that lead back to one of the service's addresses, each with that address.

    A wildcard (0.0.0.0 or ::) takes packets to loopback and to every address of this machine, of its own family
    alone: listeners are IPv6-only.
    find_local: finds this machine's addresses; None where the machine that will run the daemon is another one.
    """
    wildcards = {(":" in one.host, one.port): one for one in listen if one.host in _WILDCARDS}
    named = {one: one for one in listen}
    ports = {one.port for one in listen} - {0}
    found, doubtful = {}, []
    for place in places:
        if place.port not in ports:
            continue
        wildcard = wildcards.get((":" in place.host, place.port))
        if place in named:
            found[place] = named[place]
        elif wildcard is not None and ipaddress.ip_address(place.host).is_loopback:
            found[place] = wildcard
        elif wildcard is not None:
            doubtful.append((place, wildcard))
    local = find_local(place.host for place, _ in doubtful) if find_local and doubtful else frozenset()
    return found | {place: wildcard for place, wildcard in doubtful if place.host in local}


_SO_BINDTODEVICE: Final = 25
_LOOPBACK: Final = b"lo\0"


def address_of(endpoint: Endpoint) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return an address in the form that socket calls take.

    A ``%scope`` becomes the number of its interface, because bind() and connect() ignore it inside the host.
    Raises OSError (ENODEV) if there is no such interface.
    """
    host, _, scope = endpoint.host.partition("%")
    return (host, endpoint.port, 0, interface_index(scope)) if scope else (host, endpoint.port)


def interface_index(scope: str) -> int:
    """Return the number of a network interface. scope: its name or its number. Raises OSError (ENODEV)."""
    try:
        return int(scope) if scope.isdecimal() else socket.if_nametoindex(scope)
    except OSError as error:
        raise OSError(errno.ENODEV, f"there is no network interface {scope}") from error


def family_of(endpoint: Endpoint) -> socket.AddressFamily:
    """Return the address family of a host."""
    return socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET


def interface_name(index: int) -> str:
    """Return the name of an interface, or its number if it has gone since."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


def is_local(endpoint: Endpoint) -> bool:
    """Return whether packets to an address reach this machine now: an interface has it, or a route makes it local.

    True, too, if that cannot be found out. A tentative IPv6 address (DAD) is not local yet.
    """
    try:
        address = address_of(endpoint._replace(port=0))
        with socket.socket(family_of(endpoint), socket.SOCK_DGRAM) as sock:
            sock.bind(address)
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV) or _is_routed_locally(endpoint)
    return True


def _is_routed_locally(endpoint: Endpoint) -> bool:
    """Return whether a route of type ``local`` covers an IPv6 address. bind() to it fails all the same, unlike IPv4's.

    A socket that is tied to loopback can reach only what is local, so connect() finds out; it sends nothing.
    """
    if sys.platform != "linux" or ":" not in endpoint.host:
        return False
    try:
        with socket.socket(family_of(endpoint), socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, _SO_BINDTODEVICE, _LOOPBACK)
            sock.connect(address_of(endpoint))
    except OSError:
        return False
    return True


def own_hosts() -> frozenset[str]:
    """Return the addresses of this machine's interfaces; none if the system does not report them."""
    if sys.platform != "linux":
        return frozenset()
    found: set[str] = set()
    try:
        with _open_netlink() as netlink:
            size = _HEADER.size + _INTERFACE_ADDRESS.size
            netlink.send(_HEADER.pack(size, _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0) + bytes(_INTERFACE_ADDRESS.size))
            while answer := netlink.recv(_ANSWER_BYTES):
                for kind, message in _messages(answer):
                    if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                        return frozenset(found)
                    if kind == _RTM_NEWADDR:
                        found |= _hosts_in(message)
    except (OSError, struct.error):
        pass
    return frozenset(found)


def _messages(answer: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _HEADER.size <= len(answer):
        size, kind, _, _, _ = _HEADER.unpack_from(answer, at)
        if size < _HEADER.size:
            return
        yield kind, answer[at + _HEADER.size : at + size]
        at += size + 3 & ~3


def _hosts_in(message: bytes) -> set[str]:
    """Return the local address that one message names. IFA_ADDRESS is the other end's on point-to-point links."""
    family = message[0]
    found = {}
    at = _INTERFACE_ADDRESS.size
    while at + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, at)
        if size < _ATTRIBUTE.size:
            break
        found[kind] = message[at + _ATTRIBUTE.size : at + size]
        at += size + 3 & ~3
    octets = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    return {socket.inet_ntop(family, octets)} if octets else set()
