"""Listeners as the supervisor opens them: options, granted buffers and dropped datagrams."""

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

only_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these options and reports drops")


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """Open a listener that is not read, with the smallest possible queue."""
    with open_listener(Endpoint(request.param, 0)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        yield sock


def flood(listener: socket.socket, datagrams: int) -> None:
    """Send datagrams to a listener. On loopback they have arrived or are lost when this returns."""
    with socket.socket(listener.family, socket.SOCK_DGRAM) as client:
        for _ in range(datagrams):
            client.sendto(b"x" * 100, bound_endpoint(listener))


def drain(listener: socket.socket) -> int:
    """Read all datagrams that have arrived. Return their number."""
    count = 0
    while True:
        try:
            listener.recv(65535)
        except BlockingIOError:
            return count
        count += 1


@only_linux
def test_drops_are_what_was_sent_and_cannot_be_read(listener: socket.socket) -> None:
    """The count is exactly sent minus readable, also a second time, and remains after the socket closes."""
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


def test_the_count_continues_when_the_systems_counter_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's 32-bit counter wraps after an hour of a flood; the count continues."""
    seen = iter([0, 2**32 - 5, 3, 3, 10])
    monkeypatch.setattr(sockets, "dropped_at", lambda _: next(seen))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        drops = DropCounter(sock)
        assert [drops.read() for _ in range(4)] == [2**32 - 5, 2**32 + 3, 2**32 + 3, 2**32 + 10]


@only_linux
def test_an_adopted_socket_counts_from_zero(listener: socket.socket) -> None:
    """Drops of a previous process are not counted again, because that process has counted them."""
    flood(listener, FLOOD)
    drops = DropCounter(listener)
    assert dropped_at(listener)
    assert drops.read() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the options' numbers are Linux's")
def test_an_adopted_socket_has_the_options_of_an_own_one() -> None:
    """A socket that another program has bound reports ECN and destination, and workers can share its port."""
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
    """A listener can be bound to an address that is not local yet, unless freebind is off."""
    endpoint = Endpoint(host, 0)
    with open_listener(endpoint) as sock:
        assert bound_endpoint(sock).host == host
        assert not is_local(bound_endpoint(sock))
    with pytest.raises(OSError, match="Cannot assign requested address"):
        open_listener(endpoint, freebind=False)


@only_linux
def test_an_adopted_socket_may_answer_from_every_address() -> None:
    """Adopting a socket sets the option for such answers, which a socket unit or an older qlb did not set."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.bind(("::1", 0))
        adopt_listener(sock, freebind=False)
        assert sock.getsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND) == 0
        adopt_listener(sock)
        assert sock.getsockopt(socket.IPPROTO_IPV6, IPV6_FREEBIND) == 1


@pytest.mark.parametrize("call", [address_of, open_listener])
def test_an_interface_that_is_not_there_is_named(call: Callable[[Endpoint], object]) -> None:
    """The error names the interface, not an unknown host name, for which an operator would search in DNS."""
    with pytest.raises(OSError, match="there is no network interface none0") as caught:
        call(Endpoint("fe80::1%none0", 4433))
    assert caught.value.errno == errno.ENODEV


def test_a_scope_may_be_a_number() -> None:
    """A scope may be the number of an interface, as for an interface that no longer exists."""
    assert address_of(Endpoint("fe80::1%12345", 4433)) == ("fe80::1", 4433, 0, 12345)


class Old(socket.socket):
    """A socket of a system that has none of the optional socket options."""

    NEEDED: Final = {
        (socket.SOL_SOCKET, socket.SO_REUSEPORT),
        (socket.SOL_SOCKET, socket.SO_RCVBUF),
        (socket.SOL_SOCKET, socket.SO_SNDBUF),
        (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY),
    }

    def setsockopt(self, level: int, option: int, value: int | bytes) -> None:  # type: ignore[override]
        """Reject the optional options."""
        if (level, option) not in self.NEEDED:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        super().setsockopt(level, option, value)

    def getsockopt(self, level: int, option: int, length: int = 0) -> Any:  # type: ignore[override]
        """Reject the optional options."""
        if (level, option) not in self.NEEDED:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        return super().getsockopt(level, option, length) if length else super().getsockopt(level, option)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "0.0.0.0", "::"])
def test_a_listener_opens_without_optional_features(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """In sandboxes and on old kernels, a listener works without the optional features."""
    monkeypatch.setattr(socket, "socket", Old)
    with open_listener(Endpoint(host, 0), Buffers(64 << 10, 64 << 10)) as sock:
        assert granted_receive_buffer(sock) == 64 << 10
        adopt_listener(sock, Buffers(64 << 10, 64 << 10))
        take_single_datagrams(sock)
        assert dropped_at(sock) is None
        assert DropCounter(sock).read() is None


@only_linux
def test_too_few_memory_figures_are_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The drops are unknown if the system returns fewer figures than Linux, as a sandbox may."""

    class Short(socket.socket):
        getsockopt = Mock(return_value=b"")

    monkeypatch.setattr(socket, "socket", Short)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert dropped_at(sock) is None


def test_drops_are_unknown_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of drops is None and not 0 if the system does not report it."""
    monkeypatch.setattr(sys, "platform", "darwin")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert dropped_at(sock) is None
        assert DropCounter(sock).read() is None


def test_small_buffers_are_granted_exactly() -> None:
    """The granted sizes of small buffers are exactly the requested ones."""
    with open_listener(Endpoint("127.0.0.1", 0), Buffers(64 << 10, 48 << 10)) as sock:
        assert granted_receive_buffer(sock) == 64 << 10
        assert granted_send_buffer(sock) == 48 << 10


@only_linux
@pytest.mark.parametrize("reason", [errno.EPERM, errno.ENOPROTOOPT])
def test_without_the_privilege_the_limit_is_granted(monkeypatch: pytest.MonkeyPatch, reason: int) -> None:
    """The socket gets the system's limit without CAP_NET_ADMIN and on kernels without the options."""
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


def test_a_refused_size_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system refuses a size, as the BSDs do, half of it is requested, then a quarter and so on."""
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
def test_a_shortfall_names_the_figures_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, platform: str, says: str
) -> None:
    """The message gives both sizes and this system's sysctl; there is no message if all was granted."""
    monkeypatch.setattr(sys, "platform", platform)
    message = receive_buffer_shortfall(4 << 20, 212_992)
    assert message is not None
    assert "4,194,304 octets, but the system grants 212,992" in message
    assert message.endswith(says)
    assert receive_buffer_shortfall(4 << 20, 4 << 20) is None
    message = send_buffer_shortfall(4 << 20, 212_992)
    assert message is not None
    assert "4,194,304 octets, but the system grants 212,992" in message
    assert message.endswith(says.replace("rmem_max", "wmem_max"))
    assert send_buffer_shortfall(4 << 20, 4 << 20) is None
