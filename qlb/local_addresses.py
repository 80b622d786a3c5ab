"""The addresses of this machine: packets that it sends to one of them come back to it.

On Linux, qlb requests the route to an address by netlink. The answer covers addresses of interfaces, all of
127.0.0.0/8, and prefixes that are local as a whole (`ip route add local 2001:db8:1::/64 dev lo`). A trial bind() would
miss such IPv6 prefixes. It would also succeed for every address if net.ipv4.ip_nonlocal_bind is set, as it often is on
hosts with keepalived.
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
"""A function that returns which of some IP literals are addresses of this machine."""

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
"""Seconds to wait for an answer. The kernel answers before send() returns; this limit is for broken sandboxes."""
_ANY_PORT: Final = 9


def local_hosts(hosts: Iterable[str]) -> frozenset[str]:
    """Return which of some IP literals are addresses of this machine now. A literal may have a scope (fe80::1%eth0)."""
    wanted = tuple(hosts)
    if not wanted:
        return frozenset()
    with suppress(OSError, struct.error, AttributeError), _open_netlink() as netlink:
        return frozenset(host for number, host in enumerate(wanted, 1) if _is_local(netlink, host, number))
    return frozenset(host for host in wanted if leads_back(host))


def leads_back(host: str) -> bool:
    """Return whether this machine would use an address as the source of packets to that address: then it is its own.

    For systems without netlink. Sends nothing. Does not find IPv6 prefixes that are local as a whole.
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
    """Open a netlink socket for requests about routes. Raises OSError or AttributeError if the system has none."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    sock.settimeout(_ANSWER_S)
    return sock


def _is_local(netlink: socket.socket, host: str, number: int) -> bool:
    """Return whether the route to an address is local. number: identifies the request. Raises OSError."""
    try:
        request = _request(host, number)
    except OSError:
        return False  # no interface of this machine has the name in its scope
    netlink.send(request)
    while True:
        answer = netlink.recv(_ANSWER_BYTES)
        _, kind, _, answered, _ = _HEADER.unpack_from(answer)
        if answered == number and kind in (_RTM_NEWROUTE, _NLMSG_ERROR):
            break
    return kind == _RTM_NEWROUTE and answer[_ROUTE_TYPE] == _RTN_LOCAL


def _request(host: str, number: int) -> bytes:
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
    """Return the number of the interface in a scope, 0 without a scope. Raises OSError if it does not exist."""
    _, _, scope = host.partition("%")
    return socket.if_nametoindex(scope) if scope else 0


_WILDCARDS: Final = ("0.0.0.0", "::")


def find_loops(
    backends: Iterable[Endpoint], listen: Sequence[Endpoint], find_local: FindLocal | None = None
) -> Mapping[Endpoint, Endpoint]:
    """Return the backend addresses that lead back to an address of the service, each with that service address.

    A wildcard (0.0.0.0 or ::) receives packets to loopback and to every address of this machine, but only of its own
    address family: IPv6 listeners are IPv6-only.
    find_local: finds this machine's addresses; None if another machine will run the daemon.
    """
    wildcards = {(":" in one.host, one.port): one for one in listen if one.host in _WILDCARDS}
    named = {one: one for one in listen}
    ports = {one.port for one in listen} - {0}
    found, doubtful = {}, []
    for backend in backends:
        if backend.port not in ports:
            continue
        wildcard = wildcards.get((":" in backend.host, backend.port))
        if backend in named:
            found[backend] = named[backend]
        elif wildcard is not None and ipaddress.ip_address(backend.host).is_loopback:
            found[backend] = wildcard
        elif wildcard is not None:
            doubtful.append((backend, wildcard))
    local = find_local(backend.host for backend, _ in doubtful) if find_local and doubtful else frozenset()
    return found | {backend: wildcard for backend, wildcard in doubtful if backend.host in local}


_SO_BINDTODEVICE: Final = 25
_LOOPBACK: Final = b"lo\0"


def address_of(endpoint: Endpoint) -> tuple[str, int] | tuple[str, int, int, int]:
    """Return an address in the form that socket calls expect.

    A ``%scope`` becomes the number of its interface, because bind() and connect() ignore a scope inside the host.
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
    """Return the address family of an endpoint."""
    return socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET


def interface_name(index: int) -> str:
    """Return the name of an interface, or its number if the interface no longer exists."""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


def is_local(endpoint: Endpoint) -> bool:
    """Return whether packets to an address reach this machine now: an interface has it, or a route makes it local.

    Also True if the system gives no clear answer. A tentative IPv6 address (DAD) is not local yet.
    """
    try:
        address = address_of(endpoint._replace(port=0))
        with socket.socket(family_of(endpoint), socket.SOCK_DGRAM) as sock:
            sock.bind(address)
    except OSError as error:
        return error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV) or _is_routed_locally(endpoint)
    return True


def _is_routed_locally(endpoint: Endpoint) -> bool:
    """Return whether a route of type ``local`` covers an IPv6 address; bind() fails for such an address, unlike IPv4.

    A socket bound to the loopback device can reach local addresses only, so connect() shows it without sending.
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
    """Return the addresses of this machine's interfaces; an empty set if the system does not report them."""
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
    """Return the local address in one message. On point-to-point links, IFA_ADDRESS is the address of the other end."""
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
