"""Listeners as the supervisor opens them: what the system grants, and what it drops."""

import errno
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from unittest.mock import Mock

import pytest

from qlb.addresses import Endpoint
from qlb.dataplane import sockets
from qlb.dataplane.sockets import (
    Buffers,
    DropCounter,
    adopt_listener,
    bound_endpoint,
    dropped_at,
    granted_receive_buffer,
    granted_send_buffer,
    open_listener,
    receive_buffer_shortfall,
    send_buffer_shortfall,
    take_single_datagrams,
)
from qlb.local_addresses import address_of, is_local

FLOOD: Final = 200
IP_PKTINFO: Final = 8
IP_RECVTOS: Final = 13
IPV6_FREEBIND: Final = 78

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
    seen = iter([0, 2**32 - 5, 3, 3, 10])
    monkeypatch.setattr(sockets, "dropped_at", lambda _: next(seen))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        drops = DropCounter(sock)
        assert [drops.read() for _ in range(4)] == [2**32 - 5, 2**32 + 3, 2**32 + 3, 2**32 + 10]


@only_linux
def test_an_adopted_socket_counts_from_now_on(listener: socket.socket) -> None:
    """What it dropped for a process before this one was counted there."""
    flood(listener, FLOOD)
    drops = DropCounter(listener)
    assert dropped_at(listener)
    assert drops.read() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the options' numbers are Linux's")
def test_an_adopted_socket_is_as_one_of_its_own() -> None:
    """Whoever has bound it: the next packet shows ECN and its destination, and workers can join it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        adopt_listener(sock)
        with open_listener(bound_endpoint(sock)) as own:
            for option in (IP_RECVTOS, IP_PKTINFO):
                assert sock.getsockopt(socket.IPPROTO_IP, option) == own.getsockopt(socket.IPPROTO_IP, option)
            assert granted_receive_buffer(sock) == granted_receive_buffer(own)
        assert not sock.getblocking()


@only_linux
@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_an_address_that_is_not_here(host: str) -> None:
    """It is bound in advance if that is wanted, and otherwise an error."""
    endpoint = Endpoint(host, 0)
    with open_listener(endpoint) as sock:
        assert bound_endpoint(sock).host == host
        assert not is_local(bound_endpoint(sock))
    with pytest.raises(OSError, match="Cannot assign requested address"):
        open_listener(endpoint, freebind=False)


@only_linux
def test_an_adopted_socket_may_answer_from_every_address() -> None:
    """A socket unit, or qlb before this option, has bound it without the option that such answers need."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        adopt_listener(sock, freebind=False)
        assert sock.getsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND) == 0
        adopt_listener(sock)
        assert sock.getsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND) == 1


@pytest.mark.parametrize("call", [address_of, open_listener])
def test_an_interface_that_is_not_there_is_named(call: Callable[[Endpoint], object]) -> None:
    """Not as an unknown name, which an operator would look for in DNS."""
    with pytest.raises(OSError, match="there is no network interface none0") as caught:
        call(Endpoint("fe80::1%none0", 4433))
    assert caught.value.errno == errno.ENODEV


def test_a_scope_may_be_a_number() -> None:
    """An interface that has gone since has no other."""
    assert address_of(Endpoint("fe80::1%12345", 4433)) == ("fe80::1", 4433, 0, 12345)


class Old(socket.socket):
    """A socket of a system that knows none of the options that forwarding can do without."""

    NEEDED: Final = {
        (socket.SOL_SOCKET, socket.SO_REUSEPORT),
        (socket.SOL_SOCKET, socket.SO_RCVBUF),
        (socket.SOL_SOCKET, socket.SO_SNDBUF),
        (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY),
    }

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:  # type: ignore[override]
        """Refuse what is not needed."""
        if (level, option) not in self.NEEDED:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        super().setsockopt(level, option, value)

    def getsockopt(self, level: int, option: int, length: int = 0) -> Any:  # type: ignore[override]
        """Refuse what is not needed."""
        if (level, option) not in self.NEEDED:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        return super().getsockopt(level, option, length) if length else super().getsockopt(level, option)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_a_listener_opens_without_optional_features(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """As in sandboxes and on old kernels: what is missing costs comfort, not the service."""
    monkeypatch.setattr(socket, "socket", Old)
    with open_listener(Endpoint(host, 0), Buffers(64 << 10, 64 << 10)) as sock:
        assert granted_receive_buffer(sock) == 64 << 10
        adopt_listener(sock, Buffers(64 << 10, 64 << 10))
        take_single_datagrams(sock)
        assert dropped_at(sock) is None
        assert DropCounter(sock).read() is None


@only_linux
def test_an_answer_without_figures_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox may answer with fewer figures than Linux."""

    class Short(socket.socket):
        getsockopt = Mock(return_value=b"")

    monkeypatch.setattr(socket, "socket", Short)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert dropped_at(sock) is None


def test_where_the_system_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """None, which is not the same as 0."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert dropped_at(sock) is None
        assert DropCounter(sock).read() is None


def test_small_buffers_are_granted_exactly() -> None:
    """Wanted and granted sizes have the same unit."""
    with open_listener(Endpoint("127.0.0.1", 0), Buffers(64 << 10, 48 << 10)) as sock:
        assert granted_receive_buffer(sock) == 64 << 10
        assert granted_send_buffer(sock) == 48 << 10


@only_linux
@pytest.mark.parametrize("reason", [errno.EPERM, errno.ENOPROTOOPT])
def test_without_the_privilege_the_limit_is_granted(monkeypatch: pytest.MonkeyPatch, reason: int) -> None:
    """The socket opens with the system's limit, without CAP_NET_ADMIN and on kernels without the options."""
    receive_limit, send_limit = (
        int(Path(f"/proc/sys/net/core/{name}").read_text()) for name in ("rmem_max", "wmem_max")
    )

    class Unprivileged(socket.socket):
        def setsockopt(self, level: int, option: int, value: int | bytes) -> None:  # type: ignore[override]
            if level == socket.SOL_SOCKET and option in (32, 33):
                raise OSError(reason, "SO_RCVBUFFORCE and SO_SNDBUFFORCE need CAP_NET_ADMIN")
            super().setsockopt(level, option, value)

    monkeypatch.setattr(socket, "socket", Unprivileged)
    with open_listener(Endpoint("127.0.0.1", 0), Buffers(2 * receive_limit, 2 * send_limit)) as sock:
        assert granted_receive_buffer(sock) == receive_limit
        assert granted_send_buffer(sock) == send_limit


def test_where_too_much_is_refused_half_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the BSDs do: the largest half, quarter, … that is granted."""
    asked: list[int] = []

    class Grudging(socket.socket):
        def setsockopt(self, level: int, option: int, value: int | bytes) -> None:  # type: ignore[override]
            if option == socket.SO_RCVBUF:
                assert isinstance(value, int)
                asked.append(value)
                if value > 20_000:
                    raise OSError(errno.ENOBUFS, "too much")
            super().setsockopt(level, option, value)

    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(socket, "socket", Grudging)
    with open_listener(Endpoint("127.0.0.1", 0), Buffers(64 << 10)):
        assert asked == [65536, 32768, 16384]


@pytest.mark.parametrize(
    ("platform", "says"),
    [
        ("linux", "raise the sysctl net.core.rmem_max to 4194304, or give qlb CAP_NET_ADMIN"),
        ("darwin", "raise the sysctl kern.ipc.maxsockbuf to 4194304"),
    ],
)
def test_a_shortfall_names_the_figures_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch, platform: str, says: str
) -> None:
    """Wanted, granted, and the sysctl of this system; nothing where all was granted."""
    monkeypatch.setattr(sys, "platform", platform)
    told = receive_buffer_shortfall(4 << 20, 212_992)
    assert told is not None
    assert "4,194,304 octets, but the system grants 212,992" in told
    assert told.endswith(says)
    assert receive_buffer_shortfall(4 << 20, 4 << 20) is None
    told = send_buffer_shortfall(4 << 20, 212_992)
    assert told is not None
    assert "4,194,304 octets, but the system grants 212,992" in told
    assert told.endswith(says.replace("rmem_max", "wmem_max"))
    assert send_buffer_shortfall(4 << 20, 4 << 20) is None
