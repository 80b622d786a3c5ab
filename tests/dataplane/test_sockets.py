"""Listeners as the supervisor opens them: what the system grants, and what it drops."""

import socket
import sys
from collections.abc import Iterator

import pytest

from qlb.dataplane import sockets
from qlb.dataplane.sockets import DropCounter, bound_endpoint, dropped_at, open_listener
from qlb.routing.backends import Endpoint

FLOOD = 200

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what a socket has dropped")


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """A listener that nobody reads, with the smallest queue there is."""
    with open_listener(Endpoint(request.param, 0)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        yield sock


def flood(listener: socket.socket, datagrams: int) -> None:
    """Send so many datagrams to a listener; on loopback they have arrived, or are lost, when this returns."""
    with socket.socket(listener.family, socket.SOCK_DGRAM) as client:
        for _ in range(datagrams):
            client.sendto(b"x" * 100, bound_endpoint(listener))


def drain(listener: socket.socket) -> int:
    """Read all that has arrived; return how many datagrams."""
    count = 0
    while True:
        try:
            listener.recv(65535)
        except BlockingIOError:
            return count
        count += 1


@only_linux
def test_drops_are_what_was_sent_and_cannot_be_read(listener: socket.socket) -> None:
    """Exactly, more than once, and the count stays when the socket closes."""
    drops = DropCounter(listener)
    assert drops.read() == 0
    read = 0
    for round_number in (1, 2):
        flood(listener, FLOOD)
        dropped = drops.read()
        read += drain(listener)
        assert dropped == round_number * FLOOD - read
        assert 0 < read < FLOOD
    listener.close()
    assert drops.read() == dropped


def test_the_count_goes_on_where_the_systems_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    """32 bits are an hour of a flood."""
    seen = iter([2**32 - 5, 3, 3, 10])
    monkeypatch.setattr(sockets, "dropped_at", lambda _: next(seen))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        drops = DropCounter(sock)
        assert [drops.read() for _ in range(4)] == [2**32 - 5, 2**32 + 3, 2**32 + 3, 2**32 + 10]


def test_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """None, which is not the same as 0."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert dropped_at(sock) is None
        assert DropCounter(sock).read() is None
