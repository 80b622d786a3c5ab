"""Listening sockets that came with the process: from a service manager, or from the daemon before this one.

Packets and calls wait in them meanwhile, so whoever takes them misses nothing. A socket is recognised by what it is
and what it is bound to; its name only says which worker it was, so that a client stays with the same one.

Spec: sd_listen_fds(3) of systemd.
"""

import ipaddress
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Final, NamedTuple

from qlb.addresses import Endpoint
from qlb.dataplane.sockets import bound_endpoint
from qlb.local_addresses import interface_index

log = logging.getLogger("qlb")

STATE: Final = "qlb.state"
"""The name of the descriptor behind which a daemon keeps what it remembers."""

_FIRST_DESCRIPTOR: Final = 3
_UNNAMED: Final = "unknown"
_SO_COOKIE: Final = 57
_COOKIE: Final = struct.Struct("=Q")
_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)


class Named(NamedTuple):
    """A descriptor, and the name that it came under."""

    name: str
    descriptor: int


def listener_name(sock: socket.socket, worker: int = 0) -> str:
    """Return the name of a listening socket: what it is and where; a service socket's ends with its worker's number.

    Names of descriptors may not hold colons, so those of IPv6 are written as hyphens.
    """
    if sock.family not in _INTERNET:
        return "qlb.control"
    host, port = bound_endpoint(sock)
    place = f"{host.replace(':', '-')}.{port}"
    return f"qlb.udp.{place}.{worker}" if sock.type == socket.SOCK_DGRAM else f"qlb.tcp.{place}"


def is_ours(name: str, sock: socket.socket) -> bool:
    """Whether a socket came under a name that this daemon has given it: it was in the store, not in a .socket unit."""
    return name == listener_name(sock, _worker_of(name))


def from_manager(environ: MutableMapping[str, str]) -> list[Named]:
    """Return what the service manager has passed; none where there is none, or where it was for another process.

    environ: of this process; what concerns the descriptors is taken out.
    """
    pid, count, names = (environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    environ.pop("LISTEN_PIDFDID", None)
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    given = names.split(":") if names else []
    given += [_UNNAMED] * (int(count) - len(given))
    found = [Named(name, _FIRST_DESCRIPTOR + number) for number, name in enumerate(given[: int(count)])]
    for each in found:
        os.set_inheritable(each.descriptor, False)
    return found


class Inherited:
    """Sockets that nobody has taken yet, each with the name that it came under."""

    def __init__(self, descriptors: Iterable[Named] = ()) -> None:
        """Take descriptors over. Whatever is no socket is closed; a socket that came twice is taken once."""
        self._sockets: list[tuple[str, socket.socket]] = []
        self.borrowed: dict[int, str] = {}
        """Sockets that a .socket unit holds, so that they need no store: their cookies, and names there."""
        self.state: int | None = None
        """The descriptor of what an earlier process has remembered (see memory.py), if it came along."""
        self.stored: set[str] = set()
        """Names that the manager's store has, or had."""
        seen: set[int] = set()
        for name, descriptor in descriptors:
            self._add(name, descriptor, seen)

    @property
    def inodes(self) -> frozenset[int]:
        """The kernel's numbers of the sockets that nobody has taken yet, as /proc/net shows them."""
        return frozenset(os.fstat(sock.fileno()).st_ino for _, sock in self._sockets)

    def take_udp(self, endpoint: Endpoint) -> socket.socket | None:
        """Take a service socket that is bound to an address, the lowest worker's first; port 0 is any port.

        Another such socket is taken with the next call. None where there is none.
        """
        return self._take(lambda sock: _is_udp(sock) and _is_bound_to(sock, endpoint))

    def take_tcp(self, endpoint: Endpoint) -> socket.socket | None:
        """Take a listening TCP socket that is bound to an address. None where there is none."""
        return self._take(lambda sock: _is_listening(sock, *_INTERNET) and _is_bound_to(sock, endpoint))

    def take_unix(self, path: Path) -> socket.socket | None:
        """Take a listening Unix socket whose file is still there. None where there is none."""
        if not path.is_socket():
            return None
        return self._take(
            lambda sock: (
                _is_listening(sock, socket.AF_UNIX) and Path(os.fsdecode(sock.getsockname())) == path.absolute()
            )
        )

    def name_of(self, sock: socket.socket, worker: int = 0) -> str:
        """Return the name under which to pass a socket on: the one it came under from a .socket unit, or qlb's own."""
        cookie = cookie_of(sock)
        return self.borrowed.get(cookie, "") if cookie in self.borrowed else listener_name(sock, worker)

    def is_borrowed(self, sock: socket.socket) -> bool:
        """Whether a .socket unit holds this socket: it, and its file, stay when the daemon ends."""
        return cookie_of(sock) in self.borrowed

    def close_rest(self) -> int:
        """Close what nobody has taken, and tell: a socket that is not read would swallow its share of packets.

        Returns how many there were.
        """
        rest, self._sockets = self._sockets, []
        for name, sock in rest:
            log.warning(
                "a socket that was passed to qlb is not used, and closed", extra={"socket": _describe(name, sock)}
            )
            sock.close()
        return len(rest)

    def _add(self, name: str, descriptor: int, seen: set[int]) -> None:
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                return self._add_file(name, descriptor)
            sock = socket.socket(fileno=descriptor)
        except OSError as error:
            return log.warning(
                "a descriptor that was passed to qlb is not there", extra={"descriptor": name, "reason": str(error)}
            )
        sock.setblocking(False)
        cookie = cookie_of(sock)
        if cookie in seen:
            return sock.close()
        if cookie is not None:
            seen.add(cookie)
        if is_ours(name, sock):
            self.stored.add(name)
        elif cookie is not None:
            self.borrowed[cookie] = name
        self._sockets.append((name, sock))
        self._sockets.sort(key=lambda each: (is_ours(*each), _worker_of(each[0])))
        return None

    def _add_file(self, name: str, descriptor: int) -> None:
        if name == STATE and self.state is None:
            self.state = descriptor
            self.stored.add(name)
            return
        os.close(descriptor)
        log.warning("a descriptor that was passed to qlb is no socket, and closed", extra={"descriptor": name})

    def _take(self, fits: Callable[[socket.socket], bool]) -> socket.socket | None:
        for number, (_, sock) in enumerate(self._sockets):
            if fits(sock):
                del self._sockets[number]
                return sock
        return None


def cookie_of(sock: socket.socket) -> int | None:
    """Return the kernel's own number of a socket, whoever holds it; None where the system gives none."""
    try:
        (cookie,) = _COOKIE.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE.size))
    except (OSError, struct.error):
        return None
    return int(cookie)


def _is_udp(sock: socket.socket) -> bool:
    """IPv6 sockets that take IPv4, too, are not what qlb would open: packets would have two addresses."""
    if sock.type != socket.SOCK_DGRAM or sock.family not in _INTERNET:
        return False
    return sock.family == socket.AF_INET or bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def _is_listening(sock: socket.socket, *families: int) -> bool:
    if sock.type != socket.SOCK_STREAM or sock.family not in families:
        return False
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _is_bound_to(sock: socket.socket, endpoint: Endpoint) -> bool:
    """Whether a socket has an address; one that is valid on a link only must be on the same link, too."""
    host, port = bound_endpoint(sock)
    same_host = ipaddress.ip_address(host.partition("%")[0]) == ipaddress.ip_address(endpoint.host.partition("%")[0])
    return same_host and _scope_of(sock) == _scope_id(endpoint.host) and port != 0 and endpoint.port in (0, port)


def _scope_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[3]) if sock.family == socket.AF_INET6 else 0


def _scope_id(host: str) -> int:
    """Return the number of an address's ``%scope``: 0 if it has none, -1 if there is no such interface."""
    scope = host.partition("%")[2]
    try:
        return interface_index(scope) if scope else 0
    except OSError:
        return -1


def _worker_of(name: str) -> int:
    number = name.rpartition(".")[2]
    return int(number) if number.isdecimal() else 0


def _describe(name: str, sock: socket.socket) -> str:
    return f"{name} at {sock.getsockname()!r}"
