"""Source addresses that no client has. An answer to such an address would come back to this machine, without end."""

import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from qlb.routing.maglev import canonical_host

_UNSPECIFIED: Final = frozenset({"0.0.0.0", "::", "::ffff:0.0.0.0", "::ffff:0:0"})
_LOOK_UP_S: Final = 1.0
# Linux: linux/netlink.h, linux/rtnetlink.h and linux/if_addr.h.
_HEADER: Final = struct.Struct("=IHHII")
_ADDRESS: Final = struct.Struct("=4BI")
_ATTRIBUTE: Final = struct.Struct("=HH")
_RTM_NEWADDR: Final = 20
_RTM_GETADDR: Final = 22
_NLM_F_REQUEST_DUMP: Final = 0x301
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_IFA_ADDRESS: Final = 1
_IFA_LOCAL: Final = 2
_ANSWER_BYTES: Final = 1 << 16


class Service(NamedTuple):
    """A service address. host: canonical; 0.0.0.0 or :: if the listener is a wildcard."""

    host: str
    port: int


class Sources:
    """Recognise sources that are no clients'."""

    __slots__ = ("_find_hosts", "_hosts", "_looked_up_s", "_ports", "_services")

    def __init__(self, services: Iterator[Service], find_hosts: Callable[[], frozenset[str]] | None = None) -> None:
        """services: the plane's own. find_hosts: returns this machine's addresses; own_hosts() by default."""
        self._services = frozenset(services)
        self._ports = frozenset(service.port for service in self._services)
        self._find_hosts = find_hosts or own_hosts
        self._hosts: frozenset[str] = frozenset()
        self._looked_up_s = float("-inf")

    def is_bad(self, host: str, port: int, service: str, now_s: float) -> bool:
        """Return whether no client can have an address. service: the host to which the packet was sent."""
        return (
            not port or host in _UNSPECIFIED or (port in self._ports and self._is_service(host, port, service, now_s))
        )

    def _is_service(self, host: str, port: int, service: str, now_s: float) -> bool:
        host = canonical_host(host)
        if (host, port) in self._services:
            return True
        if not {("0.0.0.0", port), ("::", port)} & self._services:
            return False
        return host == canonical_host(service.partition("%")[0]) or self._is_own(host, now_s)

    def _is_own(self, host: str, now_s: float) -> bool:
        if now_s - self._looked_up_s > _LOOK_UP_S:
            self._looked_up_s = now_s
            self._hosts = self._find_hosts()
        return host in self._hosts or host.startswith("127.")


def own_hosts() -> frozenset[str]:
    """Return the addresses of this machine's interfaces; none if the system does not report them."""
    if sys.platform != "linux":
        return frozenset()
    found: set[str] = set()
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as netlink:
            netlink.setblocking(False)  # the kernel answers within the calls
            netlink.send(_HEADER.pack(_HEADER.size + _ADDRESS.size, _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0) + bytes(8))
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
    at = _ADDRESS.size
    while at + _ATTRIBUTE.size <= len(message):
        size, kind = _ATTRIBUTE.unpack_from(message, at)
        if size < _ATTRIBUTE.size:
            break
        found[kind] = message[at + _ATTRIBUTE.size : at + size]
        at += size + 3 & ~3
    octets = found.get(_IFA_LOCAL) or found.get(_IFA_ADDRESS)
    return {socket.inet_ntop(family, octets)} if octets else set()
