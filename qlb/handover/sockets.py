"""Listening sockets that this process inherits from a service manager or from the old process.

Packets and connections wait in these sockets, so the new process loses none. qlb recognises a socket by its type and
its address. The name only serves to find its worker's number, so that a client stays with the same worker.

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
"""The name of the descriptor of the stored state (memory.py)."""

_FIRST_DESCRIPTOR: Final = 3
_UNNAMED: Final = "unknown"
_SO_COOKIE: Final = 57
_COOKIE: Final = struct.Struct("=Q")
_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)


class Named(NamedTuple):
    """A descriptor and its name."""

    name: str
    descriptor: int


def listener_name(sock: socket.socket, worker: int = 0) -> str:
    """Return the name of a listening socket: its type and address, and the worker's number for a service socket.

    Names of descriptors cannot contain colons, so IPv6 addresses have hyphens instead.
    """
    if sock.family not in _INTERNET:
        return "qlb.control"
    host, port = bound_endpoint(sock)
    address = f"{host.replace(':', '-')}.{port}"
    return f"qlb.udp.{address}.{worker}" if sock.type == socket.SOCK_DGRAM else f"qlb.tcp.{address}"


def is_ours(name: str, sock: socket.socket) -> bool:
    """Return whether a socket has a name from qlb: it comes from the manager's store, not from a .socket unit."""
    return name == listener_name(sock, _worker_of(name))


def from_manager(environ: MutableMapping[str, str]) -> list[Named]:
    """Return the descriptors from the service manager; none if there are none, or if they are for another process.

    environ: of this process; the variables about descriptors are removed.
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
    """Inherited sockets that qlb has not taken yet, with their names."""

    def __init__(self, descriptors: Iterable[Named] = ()) -> None:
        """Take over descriptors. Close those that are not sockets, and duplicates of a socket."""
        self._sockets: list[tuple[str, socket.socket]] = []
        self.borrowed: dict[int, str] = {}
        """Cookie → name of each socket of a .socket unit, which needs no store."""
        self.state: int | None = None
        """The descriptor of an earlier process's state (memory.py), if there is one."""
        self.stored: set[str] = set()
        """The names in the manager's store when this process started."""
        seen: set[int] = set()
        for name, descriptor in descriptors:
            self._add(name, descriptor, seen)

    @property
    def inodes(self) -> frozenset[int]:
        """Inode numbers of the sockets that are not taken yet, as in /proc/net."""
        return frozenset(os.fstat(sock.fileno()).st_ino for _, sock in self._sockets)

    def take_udp(self, endpoint: Endpoint) -> socket.socket | None:
        """Take a service socket of an address, that of the lowest worker first; port 0 is any port.

        The next call takes the next such socket. None if there is none.
        """
        return self._take(lambda sock: _is_udp(sock) and _is_bound_to(sock, endpoint))

    def take_tcp(self, endpoint: Endpoint) -> socket.socket | None:
        """Take a listening TCP socket of an address; None if there is none."""
        return self._take(lambda sock: _is_listening(sock, *_INTERNET) and _is_bound_to(sock, endpoint))

    def take_unix(self, path: Path) -> socket.socket | None:
        """Take a listening Unix socket whose file still exists; None if there is none."""
        if not path.is_socket():
            return None
        return self._take(
            lambda sock: (
                _is_listening(sock, socket.AF_UNIX) and Path(os.fsdecode(sock.getsockname())) == path.absolute()
            )
        )

    def name_of(self, sock: socket.socket, worker: int = 0) -> str:
        """Return the name for passing a socket on: its name from a .socket unit, or qlb's own."""
        cookie = cookie_of(sock)
        return self.borrowed.get(cookie, "") if cookie in self.borrowed else listener_name(sock, worker)

    def is_borrowed(self, sock: socket.socket) -> bool:
        """Return whether a .socket unit owns this socket: then the socket and its file stay when the daemon ends."""
        return cookie_of(sock) in self.borrowed

    def close_rest(self) -> int:
        """Close the sockets that are not taken, log each, and return their number.

        An open socket that no process reads would receive a share of the packets.
        """
        rest, self._sockets = self._sockets, []
        for name, sock in rest:
            log.warning("closed an inherited socket that qlb does not use", extra={"socket": _describe(name, sock)})
            sock.close()
        return len(rest)

    def _add(self, name: str, descriptor: int, seen: set[int]) -> None:
        try:
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                return self._add_file(name, descriptor)
            sock = socket.socket(fileno=descriptor)
        except OSError as error:
            return log.warning(
                "an inherited descriptor does not exist", extra={"descriptor": name, "reason": str(error)}
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
        log.warning("closed an inherited descriptor that is not a socket", extra={"descriptor": name})

    def _take(self, fits: Callable[[socket.socket], bool]) -> socket.socket | None:
        for number, (_, sock) in enumerate(self._sockets):
            if fits(sock):
                del self._sockets[number]
                return sock
        return None


def cookie_of(sock: socket.socket) -> int | None:
    """Return the kernel's number of a socket, the same in all processes; None if the system has none."""
    try:
        (cookie,) = _COOKIE.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, _COOKIE.size))
    except (OSError, struct.error):
        return None
    return int(cookie)


def _is_udp(sock: socket.socket) -> bool:
    """Return whether qlb would open such a UDP socket. An IPv6 socket that also receives IPv4 is not one."""
    if sock.type != socket.SOCK_DGRAM or sock.family not in _INTERNET:
        return False
    return sock.family == socket.AF_INET or bool(sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY))


def _is_listening(sock: socket.socket, *families: int) -> bool:
    if sock.type != socket.SOCK_STREAM or sock.family not in families:
        return False
    return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def _is_bound_to(sock: socket.socket, endpoint: Endpoint) -> bool:
    """Return whether a socket is bound to an address. A link-local address must also be on the same link."""
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
