"""Inherited sockets: recognised by their properties, and closed if no part of the daemon needs them."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from qlb.addresses import Endpoint
from qlb.dataplane.sockets import adopt_listener, bound_endpoint, open_listener
from qlb.handover import sockets as inherit
from qlb.handover.sockets import STATE, Inherited, Named, from_manager, listener_name

ANY = Endpoint("127.0.0.1", 0)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close the resources of a test at its end."""
    with ExitStack() as stack:
        yield stack


def _passed(sock: socket.socket, name: str = "unknown") -> Named:
    return Named(name, os.dup(sock.fileno()))


def _is_same(one: socket.socket | None, other: socket.socket) -> bool:
    return one is not None and os.path.sameopenfile(one.fileno(), other.fileno())


def _tcp(*, listens: bool = True) -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    if listens:
        sock.listen()
    return sock


def test_a_service_socket_is_found_by_its_address(stack: ExitStack) -> None:
    """A service socket is found by its address, not its name, and only once. Port 0 matches any port on the host."""
    one, two = (stack.enter_context(open_listener(ANY)) for _ in range(2))
    inherited = Inherited([_passed(one, "web"), _passed(two)])
    assert inherited.take_udp(Endpoint("127.0.0.1", 1)) is None
    assert inherited.take_udp(Endpoint("127.0.0.2", 0)) is None
    found = stack.enter_context(inherited.take_udp(bound_endpoint(two)) or socket.socket())
    assert _is_same(found, two)
    assert not found.get_inheritable()
    assert not found.getblocking()
    assert inherited.take_udp(bound_endpoint(two)) is None
    assert _is_same(stack.enter_context(inherited.take_udp(ANY) or socket.socket()), one)


def test_workers_get_the_sockets_that_they_had(stack: ExitStack) -> None:
    """Each worker gets the socket with its number in the name, in whatever order they came. Duplicates are closed."""
    first = stack.enter_context(open_listener(ANY))
    where = bound_endpoint(first)
    rows = [first, *(stack.enter_context(open_listener(where)) for _ in range(11))]
    named = [_passed(sock, listener_name(sock, number)) for number, sock in enumerate(rows)]
    inherited = Inherited([*reversed(named), _passed(first, "again")])
    taken = [stack.enter_context(inherited.take_udp(where) or socket.socket()) for _ in rows]
    assert all(map(_is_same, taken, rows))
    assert inherited.take_udp(where) is None
    assert inherited.stored == {name for name, _ in named}


def test_names() -> None:
    """A name contains the socket's kind, address and worker. It has no colon, which systemd would reject."""
    with open_listener(Endpoint("::1", 0)) as sock, socket.socket(socket.AF_UNIX) as control, _tcp() as tcp:
        assert listener_name(sock, 3) == f"qlb.udp.--1.{sock.getsockname()[1]}.3"
        assert listener_name(tcp) == f"qlb.tcp.127.0.0.1.{tcp.getsockname()[1]}"
        assert listener_name(control) == "qlb.control"


def test_a_socket_of_a_unit_keeps_its_name(stack: ExitStack) -> None:
    """A socket of a systemd unit keeps its name and is not stored, so that the new process recognises it too."""
    theirs, ours = (stack.enter_context(open_listener(ANY)) for _ in range(2))
    inherited = Inherited([_passed(theirs, "qlb.socket"), _passed(ours, listener_name(ours, 1))])
    assert (inherited.is_borrowed(theirs), inherited.is_borrowed(ours)) == (True, False)
    assert inherited.name_of(theirs, 1) == "qlb.socket"
    assert inherited.name_of(ours, 1) == listener_name(ours, 1)
    assert inherited.close_rest() == 2


def test_listening_tcp_sockets(stack: ExitStack) -> None:
    """A TCP socket that does not listen is not used."""
    silent, listening = stack.enter_context(_tcp(listens=False)), stack.enter_context(_tcp())
    inherited = Inherited([_passed(silent), _passed(listening)])
    assert inherited.take_tcp(bound_endpoint(silent)) is None
    assert inherited.take_udp(bound_endpoint(listening)) is None
    assert _is_same(stack.enter_context(inherited.take_tcp(ANY) or socket.socket()), listening)
    assert inherited.close_rest() == 1


def test_control_sockets(stack: ExitStack, tmp_path: Path) -> None:
    """A control socket is found by its file, which must still exist."""
    path, other = tmp_path / "qlb.sock", tmp_path / "other.sock"
    for one in (path, other):
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.bind(str(one))
        sock.listen()
    inherited = Inherited([_passed(sock)])
    assert inherited.take_unix(path) is None
    other.unlink()
    assert inherited.take_unix(other) is None
    inherited.close_rest()


def test_a_dual_stack_socket_is_not_used(stack: ExitStack) -> None:
    """A dual-stack IPv6 socket is not used, because IPv4 clients would have IPv4-mapped addresses."""
    sock = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    inherited = Inherited([_passed(sock)])
    assert inherited.take_udp(bound_endpoint(sock)) is None
    inherited.close_rest()


def test_the_rest_is_closed(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    """Unused descriptors are closed and logged, because an unread socket swallows packets. Pipes are closed too."""
    sock = stack.enter_context(open_listener(ANY))
    passed = _passed(sock, "web")
    pipe = os.pipe()
    inherited = Inherited([passed, Named("pipe", pipe[0]), Named("nothing", 10_000)])
    assert inherited.close_rest() == 1
    for closed in (passed.descriptor, pipe[0]):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(closed)
    os.close(pipe[1])
    logged = [record.__dict__.get("socket") or record.__dict__["descriptor"] for record in caplog.records]
    assert logged == ["pipe", "nothing", f"web at {sock.getsockname()!r}"]


def test_the_memory_is_found(tmp_path: Path) -> None:
    """The memory file is found by its name. It is not a socket."""
    with (tmp_path / "state").open("w") as file:
        inherited = Inherited([Named(STATE, os.dup(file.fileno()))])
        assert inherited.state is not None
        assert inherited.stored == {STATE}
        os.close(inherited.state)


def test_descriptors_from_the_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors from 3 on get the listed names, then "unknown". Children get neither them nor the variables."""
    inheritable = {}
    monkeypatch.setattr(os, "set_inheritable", inheritable.__setitem__)
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "3", "LISTEN_FDNAMES": "a:b", "PATH": "/bin"}
    assert from_manager(environ) == [("a", 3), ("b", 4), ("unknown", 5)]
    assert environ == {"PATH": "/bin"}
    assert inheritable == {3: False, 4: False, 5: False}


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"},
    ],
)
def test_no_descriptors_were_passed(environ: dict[str, str]) -> None:
    """Without descriptors for this process, or with an invalid number, the list is empty."""
    assert from_manager(environ) == []
    assert environ == {}


def test_sockets_without_cookies(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a system without socket cookies, inherited sockets are still used."""
    monkeypatch.setattr(inherit, "_SO_COOKIE", 0xFFFF)
    sock = stack.enter_context(open_listener(ANY))
    inherited = Inherited([_passed(sock)])
    assert _is_same(stack.enter_context(inherited.take_udp(ANY) or socket.socket()), sock)


class _OnLink:
    """A fake socket that is bound to a link-local address. Not every machine has two such links."""

    family = socket.AF_INET6

    def __init__(self, scope_id: int) -> None:
        self._scope_id = scope_id

    def getsockname(self) -> tuple[str, int, int, int]:
        return "fe80::1", 4433, 0, self._scope_id


def test_the_same_address_on_another_link_is_not_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two listeners on fe80::1 of two interfaces are distinguished, by interface name and by number."""
    indexes = {"a": 3, "b": 4}

    def index_of(name: str) -> int:
        if name not in indexes:
            raise OSError("no such interface")
        return indexes[name]

    monkeypatch.setattr(socket, "if_nametoindex", index_of)
    hosts = ("fe80::1%a", "fe80::1%3", "fe80::1%b", "fe80::1%gone", "fe80::1")
    found = [inherit._is_bound_to(_OnLink(3), Endpoint(host, 4433)) for host in hosts]  # type: ignore[arg-type]
    assert found == [True, True, False, False, False]


def test_the_inodes_of_inherited_sockets(stack: ExitStack) -> None:
    """`inodes` identifies the inherited sockets as the daemon's own. It omits a socket once that is in use."""
    first, second = stack.enter_context(open_listener(ANY)), stack.enter_context(open_listener(ANY))
    inherited = Inherited([_passed(first), _passed(second)])
    assert inherited.inodes == {os.fstat(sock.fileno()).st_ino for sock in (first, second)}
    stack.enter_context(inherited.take_udp(bound_endpoint(first)) or socket.socket())
    assert inherited.inodes == {os.fstat(second.fileno()).st_ino}
    inherited.close_rest()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these timestamps")
@pytest.mark.parametrize("option", [29, 35, 37])
def test_timestamps_of_a_unit_are_turned_off(stack: ExitStack, option: int) -> None:
    """SO_TIMESTAMP, SO_TIMESTAMPNS and SO_TIMESTAMPING are turned off: planes have no room for control messages."""
    sock = stack.enter_context(open_listener(ANY))
    sock.setsockopt(socket.SOL_SOCKET, option, 1 << 4 if option == 37 else 1)
    assert sock.getsockopt(socket.SOL_SOCKET, option)
    adopt_listener(sock)
    assert not sock.getsockopt(socket.SOL_SOCKET, option)
