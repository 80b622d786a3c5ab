"""The admission of packets: bad source addresses, new sessions under overload, and the gate of the send queue."""

import fcntl
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from qlb.addresses import canonical_host
from qlb.local_addresses import own_hosts
from qlb.routing.outcomes import CONFIG_IDS

_SIOCOUTQ: Final = 0x5411
_ASK_BYTES: Final = 65_536
_OVERHEAD_BYTES: Final = 768
"""Roughly the memory that Linux adds to each datagram in the queue: SO_SNDBUF limits memory, not payload."""
_INT: Final = struct.Struct("i")


class SendGate:
    """The send queue of one listener. is_closed: half of it or more was in use at the last ask()."""

    __slots__ = ("_limit_bytes", "_unasked_bytes", "is_closed", "sock")

    def __init__(self, sock: socket.socket) -> None:
        """Measure a listener's send buffer."""
        self.sock = sock
        self.is_closed = False
        self._unasked_bytes = 0
        # SO_SNDBUF and SIOCOUTQ both count octets with the kernel's own bookkeeping.
        self._limit_bytes = sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2

    def note_sent(self, size_bytes: int) -> None:
        """Count a datagram; read the length of the queue once per _ASK_BYTES."""
        self._unasked_bytes += size_bytes + _OVERHEAD_BYTES
        if self._unasked_bytes >= _ASK_BYTES:
            self.ask()

    def ask(self) -> bool:
        """Read the length of the queue. Return whether the gate is closed."""
        self._unasked_bytes = 0
        self.is_closed = _queued_bytes(self.sock) >= self._limit_bytes
        return self.is_closed


def _queued_bytes(sock: socket.socket) -> int:
    """Return the unsent octets of a socket; 0 if the system does not report them."""
    if sys.platform != "linux":
        return 0
    try:
        return int(_INT.unpack(fcntl.ioctl(sock.fileno(), _SIOCOUTQ, bytes(_INT.size)))[0])
    except OSError:
        return 0


MAX_OPENS: Final = 512
"""Unused opens of one kind that can accumulate. The kinds: packets that are routed by their ID, and all others."""
OPENS_PER_S: Final = 1000.0
"""Opens of one kind that accumulate each second: they use a fifth of a core."""


class Admission:
    """The number of sessions that full batches may open."""

    __slots__ = ("_opens", "_refilled_s")

    def __init__(self, now_s: float) -> None:
        """Start with MAX_OPENS of each kind."""
        self._opens = [float(MAX_OPENS)] * 2
        self._refilled_s = now_s

    def refill(self, now_s: float) -> None:
        """Add the opens for the time since the last call."""
        more = (now_s - self._refilled_s) * OPENS_PER_S
        self._opens = [min(opens + more, MAX_OPENS) for opens in self._opens]
        self._refilled_s = now_s

    def admits(self, outcome: int) -> bool:
        """Return whether a packet may open a session, and subtract the open."""
        kind = outcome < CONFIG_IDS
        if self._opens[kind] < 1:
            return False
        self._opens[kind] -= 1
        return True


_UNSPECIFIED: Final = frozenset({"0.0.0.0", "::"})
_LOOK_UP_S: Final = 1.0


class Service(NamedTuple):
    """A service address. host: canonical; 0.0.0.0 or :: if the listener is a wildcard."""

    host: str
    port: int


class Sources:
    """Recognition of source addresses that no client has."""

    __slots__ = ("_find_hosts", "_hosts", "_looked_up_s", "_ports", "_services")

    def __init__(self, services: Iterator[Service], find_hosts: Callable[[], frozenset[str]] | None = None) -> None:
        """services: of the plane. find_hosts: returns this machine's addresses; own_hosts() by default."""
        self._services = frozenset(services)
        self._ports = frozenset(service.port for service in self._services)
        self._find_hosts = find_hosts or own_hosts
        self._hosts: frozenset[str] = frozenset()
        self._looked_up_s = float("-inf")

    def is_bad(self, host: str, port: int, service: str, now_s: float) -> bool:
        """Return whether no client can have this address. service: the host to which the packet was sent."""
        host = canonical_host(host)
        return (
            not port or host in _UNSPECIFIED or (port in self._ports and self._is_service(host, port, service, now_s))
        )

    def _is_service(self, host: str, port: int, service: str, now_s: float) -> bool:
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
