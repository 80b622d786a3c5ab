"""Packets that a firewall rejects, that no client can have sent, or whose hop limit is used up. Both planes."""

import asyncio
import socket
import struct
from typing import Final

import pytest

from lab.dataplane.far_network import FAR, NEAR, command, far_network, talk
from lab.dataplane.network import FOUR_PASS, Network, backend, cid_of, orders, receive, short_header
from lab.dataplane.running import Run
from lab.namespace import in_a_network_of_its_own
from qlb.addresses import Endpoint
from qlb.dataplane import ancillary
from qlb.dataplane.sockets import open_listener
from qlb.routing import counters as layout
from qlb.routing.outcomes import DROP_BAD_SOURCE, DROP_HOP_LIMIT, DROP_SEND_FAILED
from qlb.routing.sums import total_backend_send_errors

pytestmark = pytest.mark.network

TO_B0: Final = short_header(cid_of(FOUR_PASS, 0))
LOOPBACK: Final = {4: "127.0.0.1", 6: "::1"}
WILDCARD: Final = {4: "0.0.0.0", 6: "::"}
both_families = pytest.mark.parametrize("family", [4, 6])
_UDP: Final = struct.Struct("!HHHH")


@both_families
def test_a_firewall_that_rejects_packets_is_counted_as_not_permitted(running: Run, family: int) -> None:
    """An OUTPUT rule that drops causes not_permitted errors and no new socket; without the rule, the call continues."""

    async def work() -> None:
        network = Network()
        with network.stack:
            sockets, backends = network.pool(host=LOOPBACK[family])
            client = network.socket()
            async with running(orders(backends)) as qlb:
                await qlb.send(client, TO_B0)
                _, reply_to = await receive(sockets[0])
                port = str(sockets[0].getsockname()[1])
                command(
                    "nft",
                    f"add table inet t; add chain inet t o {{ type filter hook output priority 0; }}; "
                    f"add rule inet t o udp dport {port} drop",
                )
                for _ in range(5):
                    await qlb.send(client, TO_B0)
                await qlb.until(lambda: qlb.outcome(DROP_SEND_FAILED) == 5)
                assert total_backend_send_errors([qlb.counters], 0)["not_permitted"] >= 5
                assert qlb.slot(layout.SESSIONS_REOPENED) == 0
                command("nft", "delete table inet t")
                await qlb.send(client, TO_B0)
                assert (await receive(sockets[0]))[1] == reply_to

    in_a_network_of_its_own(work)


@both_families
async def test_the_service_itself_is_not_a_client(running: Run, network: Network, family: int) -> None:
    """A packet from the service's own address and port is dropped before the decision, and a sample is stored."""
    _, backends = network.pool()
    async with running(orders(backends), LOOPBACK[family]) as qlb:
        qlb.listener.sendto(TO_B0, qlb.service)
        await qlb.until(lambda: qlb.outcome(DROP_BAD_SOURCE) == 1)
        assert qlb.counters.sample(DROP_BAD_SOURCE).octets == TO_B0
        assert qlb.slot(layout.PACKETS_RECEIVED) == 1
        assert qlb.slot(layout.SESSIONS) == 0


@pytest.mark.parametrize(
    ("wildcard", "source", "target"),
    [("0.0.0.0", "127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.9", "127.0.0.1"), ("::", "::1", "::1")],
)
async def test_behind_a_wildcard_no_address_of_this_machine_is_a_client_with_its_port(
    running: Run, network: Network, wildcard: str, source: str, target: str
) -> None:
    """Behind a wildcard, a source with this machine's address and the service's port is bad; another port is fine."""
    sockets, backends = network.pool()
    async with running(orders(backends), wildcard) as qlb:
        if source == target:
            qlb.listener.sendto(TO_B0, (target, qlb.service.port))
        else:
            with open_listener(Endpoint(source, qlb.service.port)) as impostor:
                impostor.sendto(TO_B0, (target, qlb.service.port))
        await qlb.until(lambda: qlb.outcome(DROP_BAD_SOURCE) == 1)
        client = network.socket(source)
        await qlb.send(client, TO_B0, target)
        assert (await receive(sockets[0]))[0] == TO_B0
        assert qlb.outcome(DROP_BAD_SOURCE) == 1


@both_families
def test_an_address_that_the_machine_gets_later_is_recognised(running: Run, family: int) -> None:
    """Behind a wildcard, the machine's addresses are read again; other machines may use the service's port."""

    async def work() -> None:
        network = Network()
        later = {4: "10.9.0.7", 6: "fd09::7"}[family]
        with network.stack, far_network(network) as far:
            sockets, backends = network.pool()
            async with running(orders(backends), WILDCARD[family], 4433) as qlb:
                stranger = far.socket(FAR[family], 4433)
                await qlb.send(stranger, TO_B0, NEAR[family])
                assert (await receive(sockets[0]))[0] == TO_B0
                command("ip", "address", "add", f"{later}/{32 if family == 4 else 128}", "dev", "lo")
                with open_listener(Endpoint(later, 4433)) as impostor:

                    def is_recognised() -> bool:
                        impostor.sendto(TO_B0, (NEAR[family], 4433))
                        return qlb.outcome(DROP_BAD_SOURCE) > 0

                    await talk(qlb, network.socket(LOOPBACK[family]), TO_B0, is_recognised)

    in_a_network_of_its_own(work)


def test_port_zero_and_unspecified_hosts_are_not_clients(running: Run) -> None:
    """A packet from port 0, which only a raw socket can send, is dropped as bad_source."""

    async def work() -> None:
        network = Network()
        with network.stack:
            _, backends = network.pool()
            async with running(orders(backends)) as qlb:
                _send_raw(("127.0.0.2", 0), qlb.service, TO_B0)
                await qlb.until(lambda: qlb.outcome(DROP_BAD_SOURCE) == 1)
            async with running(orders(backends), "::1") as qlb:
                _send_raw(("::1", 0), qlb.service, TO_B0)
                await qlb.until(lambda: qlb.outcome(DROP_BAD_SOURCE) == 1)
                assert qlb.slot(layout.SESSIONS) == 0

    in_a_network_of_its_own(work)


@both_families
async def test_a_packet_that_a_worker_has_sent_opens_no_session_when_it_comes_back(
    running: Run, network: Network, family: int
) -> None:
    """If the backend is the service itself, the packet comes back once and is recognised by its source."""
    client = network.socket(LOOPBACK[family])
    with network.socket(LOOPBACK[family]) as free:
        port = free.getsockname()[1]
    itself = Endpoint(LOOPBACK[family], port)
    async with running(orders([backend(0, itself)]), *itself) as qlb:
        await qlb.send(client, TO_B0)
        await qlb.until(lambda: qlb.outcome(DROP_BAD_SOURCE) == 1)
        assert qlb.outcome(FOUR_PASS.config_id) == 1
        assert qlb.slot(layout.PACKETS_RECEIVED) == 2
        assert qlb.slot(layout.SESSIONS) == 1


@both_families
async def test_the_hop_limit_is_one_less_than_the_highest_of_the_session(
    running: Run, network: Network, family: int
) -> None:
    """A later packet raises the hop limit of its session and never lowers it. A packet with hop limit 1 opens none."""
    sockets, backends = network.pool(host=LOOPBACK[family])
    client, ended = network.socket(LOOPBACK[family]), network.socket(LOOPBACK[family])
    ancillary.receive_hop_limit(sockets[0])
    async with running(orders(backends), LOOPBACK[family]) as qlb:
        for sent, arrived in ((3, 2), (10, 9), (50, 49), (10, 49), (1, 49), (255, 254)):
            ancillary.set_hop_limit(client, sent)
            await qlb.send(client, TO_B0)
            assert await _received_hop_limit(sockets[0]) == arrived
        ancillary.set_hop_limit(ended, 1)
        await qlb.send(ended, TO_B0)
        await qlb.until(lambda: qlb.outcome(DROP_HOP_LIMIT) == 1)
        assert qlb.slot(layout.SESSIONS) == 1
        ancillary.set_hop_limit(ended, 2)
        await qlb.send(ended, TO_B0)
        assert await _received_hop_limit(sockets[0]) == 1


@both_families
async def test_a_loop_of_two_balancers_ends(running: Run, network: Network, family: int) -> None:
    """If two balancers have each other as backend, a packet with hop limit 8 is received eight times in total."""
    client = network.socket(LOOPBACK[family])
    ancillary.set_hop_limit(client, 8)
    places = []
    for _ in range(2):
        with network.socket(LOOPBACK[family]) as free:
            places.append(Endpoint(LOOPBACK[family], free.getsockname()[1]))
    there = [orders([backend(0, place)]) for place in places]
    async with running(there[1], *places[0]) as one, running(there[0], *places[1]) as other:
        await one.send(client, TO_B0)

        def dropped() -> int:
            return sum(qlb.outcome(DROP_HOP_LIMIT) for qlb in (one, other))

        await one.until(lambda: dropped() == 1)
        assert sum(qlb.slot(layout.PACKETS_RECEIVED) for qlb in (one, other)) == 8


def test_a_link_local_client_of_a_wildcard_is_answered(running: Run) -> None:
    """The answer leaves by the interface on which the packet arrived, from the link-local address it was sent to."""

    async def work() -> None:
        network = Network()
        with network.stack, far_network(network) as far:
            command("ip", "address", "add", "fe80::1:1/64", "dev", "up0", "nodad")
            far.command("ip", "address", "add", "fe80::1:2/64", "dev", "eth0", "nodad")
            sockets, backends = network.pool()
            client = far.socket("::")
            scope = int(far.command("ip", "-o", "link", "show", "eth0").partition(":")[0])
            async with running(orders(backends), "::", 4433) as qlb:
                client.sendto(TO_B0, ("fe80::1:1", 4433, 0, scope))
                _, reply_to = await receive(sockets[0])
                sockets[0].sendto(b"answer", reply_to)
                datagram, sender = await receive(client)
                assert (datagram, sender[0], sender[1]) == (b"answer", "fe80::1:1", 4433)
                assert qlb.slot(layout.RETURN_DROPPED) == 0

    in_a_network_of_its_own(work)


async def _received_hop_limit(sock: socket.socket) -> int:
    """Wait for a datagram. Return its TTL or hop limit."""
    async with asyncio.timeout(60):
        while True:
            try:
                return ancillary.read_hop_limit(sock.recvmsg(65_535, ancillary.BUFFER_BYTES)[1])
            except BlockingIOError:
                await asyncio.sleep(0)


def _send_raw(source: tuple[str, int], service: tuple[str, int], payload: bytes) -> None:
    """Send a datagram with any source port, including those that a UDP socket cannot have."""
    datagram = _UDP.pack(source[1], service[1], _UDP.size + len(payload), 0) + payload
    family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
        if family == socket.AF_INET6:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, 6)
        raw.bind((source[0], 0))
        raw.sendto(datagram, (service[0], 0))
