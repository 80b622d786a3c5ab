"""The hosts without qlb: the balancer's kernel routes the service, and the assumptions of the tests are true."""

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import pytest

from lab.clients import in_progress
from lab.hosts import BACKENDS, CLIENT_ADDRESSES, SERVICES, Hosts, datagrams_from, hosts
from lab.nat import Nat
from lab.quic_servers import quic_servers
from lab.stories import Gates

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

PORT = 4433


@contextmanager
def routed(family: int) -> Iterator[Hosts]:
    """Let the balancer's kernel route the service to the first backend. This thread is the client in the block."""
    with hosts() as made:
        made.balancer.ip(f"route add {SERVICES[family]} via {BACKENDS[family][0]}\n")
        with made.client.inside():
            yield made


@pytest.mark.parametrize("family", [4, 6])
async def test_transfers_over_three_hosts(family: int) -> None:
    """The backend sees every address of the client, and each answer arrives by the backend's own link."""
    with routed(family) as made, Nat() as nat:
        async with AsyncExitStack() as stack:
            with made.backends[0].inside():
                serving = quic_servers(("one",), None, Gates(), host=SERVICES[family], port=PORT)
                servers = await stack.enter_async_context(serving)
            received = stack.enter_context(datagrams_from(SERVICES[family], ("lb", "back1", "back2")))
            port = nat.port((SERVICES[family], PORT), host=CLIENT_ADDRESSES[family][0])
            async with in_progress([port.address]) as calls:
                for host in CLIENT_ADDRESSES[family]:
                    port.rebind(host=host)
                    await port.until_flowing()
            assert (calls.lost, calls.backends, servers[0].accepted) == ([], ["one"], 1)
            assert {host for host, _ in port.outsides} == set(CLIENT_ADDRESSES[family])
        assert (received["lb"], received["back2"]) == (0, 0)
        assert received["back1"] > 0


async def test_a_full_datagram_arrives_once_and_complete() -> None:
    """Datagrams of the link's full size are neither split nor merged: no offload is active between two hosts."""
    loop = asyncio.get_running_loop()
    with routed(4) as made, made.backends[0].inside():
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receiver.setblocking(False)
        receiver.bind((SERVICES[4], PORT))
        with made.client.inside():
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with receiver, sender:
            sent = [bytes([number]) * 1472 for number in range(4)]
            for datagram in sent:
                sender.sendto(datagram, (SERVICES[4], PORT))
            assert [await loop.sock_recv(receiver, 65_535) for _ in sent] == sent


def test_nothing_is_left_behind() -> None:
    """After an exception, the thread is in its old namespace again, and no descriptor remains open."""
    before, descriptors = Path("/proc/thread-self/ns/net").readlink(), set(Path("/proc/self/fd").iterdir())

    def fail() -> None:
        with hosts() as made, made.client.inside(), made.backends[1].inside():
            assert Path("/proc/thread-self/ns/net").readlink() != before
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert Path("/proc/thread-self/ns/net").readlink() == before
    assert set(Path("/proc/self/fd").iterdir()) == descriptors
