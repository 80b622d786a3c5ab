"""Tests that only the asyncio plane can run, because it shares the event loop with the test."""

import asyncio
import errno
import socket
import sys
from typing import Final

import pytest

from lab.dataplane.network import FOUR_PASS, Network, cid_of, long_header, orders, receive, short_header
from lab.dataplane.running import Run, runs
from qlb.dataplane import ancillary
from qlb.dataplane.portable.plane import AsyncioPlane
from qlb.routing import counters as layout
from qlb.routing.counters import SIZE_BYTES
from qlb.routing.outcomes import DROP_NO_SESSION, DROP_SEND_FAILED

TO_B0: Final = short_header(cid_of(FOUR_PASS, 0))
TO_B1: Final = short_header(cid_of(FOUR_PASS, 1))
running: Final[Run] = runs("asyncio")


async def test_a_mapped_client_is_an_ipv4_client(network: Network) -> None:
    """On a socket for both families, an IPv4 client has the same flow as on an IPv4 socket, and is answered."""
    sockets, backends = network.pool(ports=[0])
    client = network.socket()
    both = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    both.setblocking(False)
    both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    ancillary.receive_destination(both)
    both.bind(("::", 0))
    port = both.getsockname()[1]
    plane = AsyncioPlane([both.detach()], orders(backends), memoryview(bytearray(SIZE_BYTES)))
    plane.start()
    try:
        await asyncio.get_running_loop().sock_sendto(client, long_header(b"\0" * 8), ("127.0.0.1", port))
        _, reply_to = await receive(sockets[0])
        four_tuple = (*client.getsockname(), "127.0.0.1", port)
        assert plane._router.flows.by_four_tuple.get(four_tuple, 0.0) == 0
        await asyncio.get_running_loop().sock_sendto(sockets[0], b"answer", reply_to)
        assert await receive(client) == (b"answer", ("127.0.0.1", port))
    finally:
        plane.stop()


async def test_a_refusal_is_counted_even_if_the_second_try_succeeds(network: Network) -> None:
    """Of two packets in one batch to a closed port, the second gets the error of the first and is sent again.

    The error of the second try is read with the replies.
    """
    sockets, backends = network.pool()
    client = network.socket()
    sockets[0].close()
    async with running(orders(backends)) as qlb:
        for datagram in (TO_B0, TO_B0, TO_B1):
            client.sendto(datagram, qlb.service)
        await receive(sockets[1])
        await qlb.until(lambda: qlb.send_error("refused") == 2)
        assert qlb.outcome(DROP_SEND_FAILED) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux reports the drops of a socket")
async def test_an_overflow_is_counted_when_the_session_closes(network: Network) -> None:
    """Datagrams that overflow an unread session's queue are counted: sent = returned + overflowed."""
    sockets, backends = network.pool()
    client = network.socket()
    flood = sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 1200 + 100  # more than any queue holds
    async with running(orders(backends)) as qlb:
        await qlb.send(client, TO_B0)
        _, reply_to = await receive(sockets[0])
        for _ in range(flood):  # the plane does not run during this loop
            sockets[0].sendto(bytes(1200), reply_to)
        slots, at = qlb.counters.slots, layout.BACKEND + layout.RETURNED
        async with asyncio.timeout(90):
            await asyncio.sleep(0)
            before = -1
            while slots[at] != before:
                before = slots[at]
                for _ in range(10):
                    await asyncio.sleep(0)
        assert slots[layout.RETURN_OVERFLOWED] == 0
    assert 0 < slots[layout.RETURN_OVERFLOWED] == flood - slots[at]


async def test_a_socket_that_cannot_be_watched_opens_no_session(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the limit of watched sockets (fs.epoll.max_user_watches), the packet is dropped and no socket stays open."""
    sockets, backends = network.pool()
    client = network.socket()

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "")

    async with running(orders(backends)) as qlb:
        with monkeypatch.context() as patch:
            patch.setattr(qlb.plane._replies._watcher, "add", refuse)  # type: ignore[attr-defined]
            await qlb.send(client, TO_B0)
            await qlb.until(lambda: qlb.outcome(DROP_NO_SESSION) == 1)
        assert qlb.slot(layout.SESSIONS) == 0
        await qlb.send(client, TO_B0)
        assert (await receive(sockets[0]))[0] == TO_B0
