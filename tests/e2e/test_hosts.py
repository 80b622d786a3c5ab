"""The hosts without qlb: the kernel routes the service in the balancer's place, and all that tests build on holds."""

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
    """Let the balancer's kernel route the service to the first backend; this thread is the client meanwhile."""
    with hosts() as made:
        made.balancer.ip(f"route add {SERVICES[family]} via {BACKENDS[family][0]}\n")
        with made.client.inside():
            yield made


@pytest.mark.parametrize("family", [4, 6])
async def test_transfers_over_three_hosts(family: int) -> None:
    """A client has every address that it changes to, and each answer comes by the backend's own link."""
    with routed(family) as made, Nat() as nat:
        async with AsyncExitStack() as stack:
            with made.backends[0].inside():
                serving = quic_servers(("one",), None, Gates(), host=SERVICES[family], port=PORT)
                servers = await stack.enter_async_context(serving)
            heard = stack.enter_context(datagrams_from(SERVICES[family], ("lb", "back1", "back2")))
            port = nat.port((SERVICES[family], PORT), host=CLIENT_ADDRESSES[family][0])
            async with in_progress([port.address]) as calls:
                for host in CLIENT_ADDRESSES[family]:
                    port.rebind(host=host)
                    await port.until_flowing()
            assert (calls.lost, calls.backends, servers[0].accepted) == ([], ["one"], 1)
            assert {host for host, _ in port.outsides} == set(CLIENT_ADDRESSES[family])
        assert (heard["lb"], heard["back2"]) == (0, 0)
        assert heard["back1"] > 0


async def test_a_full_datagram_arrives_once_and_whole() -> None:
    """What fills the link is neither cut nor joined: no offload stands between two hosts."""
    loop = asyncio.get_running_loop()
    with routed(4) as made, made.backends[0].inside():
        ear = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ear.setblocking(False)
        ear.bind((SERVICES[4], PORT))
        with made.client.inside():
            mouth = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with ear, mouth:
            sent = [bytes([number]) * 1472 for number in range(4)]
            for datagram in sent:
                mouth.sendto(datagram, (SERVICES[4], PORT))
            assert [await loop.sock_recv(ear, 65_535) for _ in sent] == sent


def test_nothing_is_left_behind() -> None:
    """The thread is back where it was, whatever happens, and no descriptor is open."""
    before, descriptors = Path("/proc/thread-self/ns/net").readlink(), set(Path("/proc/self/fd").iterdir())

    def fail() -> None:
        with hosts() as made, made.client.inside(), made.backends[1].inside():
            assert Path("/proc/thread-self/ns/net").readlink() != before
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert Path("/proc/thread-self/ns/net").readlink() == before
    assert set(Path("/proc/self/fd").iterdir()) == descriptors
