"""Source addresses that no client has. Answers to such an address would return to this machine without end."""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from qlb.addresses import canonical_host
from qlb.local_addresses import own_hosts

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
