"""Proxy mode on real sockets, on every plane that has it: there and back, addresses, ECN, bounds, errors."""

import asyncio
import resource
import socket
import sys
from dataclasses import replace

import pytest

from lab.dataplane.network import (
    FOUR_PASS,
    SETTINGS,
    Network,
    backend,
    cid_of,
    orders,
    receive,
    short_header,
)
from lab.dataplane.running import Run, runs
from qlb.addresses import Endpoint
from qlb.dataplane import ancillary
from qlb.dataplane import planes as probe
from qlb.routing import counters as layout
from qlb.routing.backends import Backend
from qlb.routing.counters import Counters
from qlb.routing.outcomes import DROP_NO_SESSION, DROP_SEND_FAILED, DROP_TRUNCATED

TO_B0 = short_header(cid_of(FOUR_PASS, 0))
TO_B1 = short_header(cid_of(FOUR_PASS, 1))
UDP_GRO = 104


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_there_and_back(running: Run, network: Network, host: str) -> None:
    """The datagram reaches its backend unchanged; the answer comes from the service address and is counted."""
    sockets, backends = network.pool(host=host)
    client = network.socket(host)
    async with running(orders(backends), host) as qlb:
        await qlb.send(client, TO_B1)
        datagram, way_back = await receive(sockets[1])
        assert datagram == TO_B1
        await asyncio.get_running_loop().sock_sendto(sockets[1], b"answer", way_back)
        answer, sender = await receive(client)
        assert (answer, sender[:2]) == (b"answer", qlb.service)
        assert qlb.counters.slots[layout.BACKEND + layout.BACKEND_SLOTS + layout.RETURNED] == 1
        assert qlb.counters.slots[layout.SESSIONS] == 1
    assert Counters(qlb.counters.slots).slots[layout.SESSIONS] == 0


async def test_families_may_differ(running: Run, network: Network) -> None:
    """A client over IPv4 reaches a backend over IPv6, and the answer comes back."""
    sockets, backends = network.pool(host="::1")
    client = network.socket()
    async with running(orders(backends)) as qlb:
        await qlb.send(client, TO_B0)
        _, way_back = await receive(sockets[0])
        await asyncio.get_running_loop().sock_sendto(sockets[0], b"answer", way_back)
        assert (await receive(client))[0] == b"answer"


@pytest.mark.parametrize(("wildcard", "spoken_to"), [("0.0.0.0", "127.0.0.9"), ("::", "::1")])
async def test_wildcard_answers_from_the_address_spoken_to(
    running: Run, network: Network, wildcard: str, spoken_to: str
) -> None:
    """A listener on every address answers from the one that the client sent to, or the client drops it."""
    sockets, backends = network.pool()
    client = network.socket("::1" if ":" in wildcard else "127.0.0.1")
    async with running(orders(backends), wildcard) as qlb:
        await qlb.send(client, TO_B0, spoken_to)
        _, way_back = await receive(sockets[0])
        await asyncio.get_running_loop().sock_sendto(sockets[0], b"answer", way_back)
        assert (await receive(client))[1][:2] == (spoken_to, qlb.service.port)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("dscp", [None, 0, 46])
async def test_the_traffic_class_is_copied_both_ways(
    running: Run, network: Network, host: str, dscp: int | None
) -> None:
    """Each of the four ECN codepoints arrives as it was sent, and so does the DSCP unless the settings name one."""
    sockets, backends = network.pool(host=host)
    client = network.socket(host)
    for sock in (*sockets, client):
        ancillary.receive_traffic_class(sock)
    async with running(orders(backends, replace(SETTINGS, dscp=dscp)), host) as qlb:
        for octet in (0, 1, 2, 3, 0xB8, 0xBB, 0x20, 0xFF, 0):
            expected = octet if dscp is None else dscp << 2 | octet & ancillary.ECN_MASK
            ancillary.set_traffic_class(client, octet)
            await qlb.send(client, TO_B0)
            datagram, control, way_back = await _receive_message(sockets[0])
            assert (datagram, _traffic_class(control)) == (TO_B0, expected)
            ancillary.set_traffic_class(sockets[0], octet)
            await asyncio.get_running_loop().sock_sendto(sockets[0], b"answer", way_back)
            datagram, control, _ = await _receive_message(client)
            assert (datagram, _traffic_class(control)) == (b"answer", expected)


async def test_largest_datagram(running: Run, network: Network) -> None:
    """65,507 octets go through whole."""
    sockets, backends = network.pool()
    client = network.socket()
    largest = TO_B0.ljust(65_507, b"x")
    async with running(orders(backends)) as qlb:
        await qlb.send(client, largest)
        datagram, way_back = await receive(sockets[0])
        assert datagram == largest
        await asyncio.get_running_loop().sock_sendto(sockets[0], largest, way_back)
        assert (await receive(client))[0] == largest


async def test_one_client_two_backends(running: Run, network: Network) -> None:
    """One 4-tuple with connections on two backends has two ways back."""
    sockets, backends = network.pool()
    client = network.socket()
    async with running(orders(backends)) as qlb:
        for sock, datagram in ((sockets[0], TO_B0), (sockets[1], TO_B1)):
            await qlb.send(client, datagram)
            _, way_back = await receive(sock)
            await asyncio.get_running_loop().sock_sendto(sock, datagram, way_back)
            assert (await receive(client))[0] == datagram
        assert qlb.counters.slots[layout.SESSIONS] == 2


async def test_sessions_are_bounded_and_spare_the_used(running: Run, network: Network) -> None:
    """A flood of addresses seen once evicts itself; a call that goes on keeps its way back."""
    sockets, backends = network.pool()
    caller = network.socket()
    async with running(orders(backends)) as qlb:
        await qlb.send(caller, TO_B0)
        _, way_back = await receive(sockets[0])
        for _ in range(4 * SETTINGS.max_sessions):
            await qlb.send(network.socket(), TO_B0)
            await receive(sockets[0])
            await qlb.send(caller, TO_B0)
            assert (await receive(sockets[0]))[1] == way_back
        assert qlb.counters.slots[layout.SESSIONS] == SETTINGS.max_sessions
        assert qlb.counters.slots[layout.SESSIONS_EVICTED] == 3 * SETTINGS.max_sessions + 1


async def test_idle_sessions_close(running: Run, network: Network) -> None:
    """A session that is idle for its timeout is closed; the next packet opens another."""
    sockets, backends = network.pool()
    client = network.socket()
    short = replace(SETTINGS, session_timeout_s=0.05, routable_session_timeout_s=0.05)
    async with running(orders(backends, short)) as qlb:
        await qlb.send(client, TO_B0)
        await receive(sockets[0])
        async with asyncio.timeout(90):
            while qlb.counters.slots[layout.SESSIONS]:
                await asyncio.sleep(0.01)
        await qlb.send(client, TO_B0)
        assert (await receive(sockets[0]))[0] == TO_B0


async def test_a_refusal_does_not_cost_the_next_packet(running: Run, network: Network) -> None:
    """A backend that was down for one packet gets the one after it."""
    sockets, backends = network.pool()
    client = network.socket()
    address = sockets[0].getsockname()
    sockets[0].close()
    async with running(orders(backends)) as qlb:
        await qlb.send(client, TO_B0)
        await qlb.send(client, TO_B1)
        await receive(sockets[1])  # the packets came in order: the first has been refused by now
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as returned:
            returned.setblocking(False)
            returned.bind(address)
            await qlb.send(client, TO_B0)
            assert (await receive(returned))[0] == TO_B0


async def test_a_datagram_that_is_too_large_is_counted(running: Run, network: Network) -> None:
    """65,507 octets over IPv4 do not fit into the loopback's MTU over IPv6: dropped, and why is told."""
    _, backends = network.pool(host="::1")
    client = network.socket()
    async with running(orders(backends)) as qlb:
        await qlb.send(client, TO_B0.ljust(65_507, b"x"))
        async with asyncio.timeout(90):
            while not qlb.outcome(DROP_SEND_FAILED):
                await asyncio.sleep(0)
        assert qlb.send_error("too_large") == 1


async def test_a_reply_that_is_refused_is_counted(running: Run, network: Network) -> None:
    """An answer that does not fit on its way to the client is dropped, and why is told."""
    sockets, backends = network.pool()
    client = network.socket("::1")
    async with running(orders(backends), "::1") as qlb:
        await qlb.send(client, TO_B0)
        _, way_back = await receive(sockets[0])
        await asyncio.get_running_loop().sock_sendto(sockets[0], bytes(65_507), way_back)
        async with asyncio.timeout(90):
            while not qlb.counters.slots[layout.RETURN_DROPPED]:
                await asyncio.sleep(0)
        assert qlb.send_error("too_large") == 1


async def test_one_refused_answer_costs_no_other(running: Run, network: Network) -> None:
    """Of answers that leave together, those before and after one that the system does not take arrive."""
    sockets, backends = network.pool()
    clients = [network.socket("::1") for _ in sockets]
    ways_back = []
    async with running(orders(backends), "::1") as qlb:
        for index, client in enumerate(clients):
            await qlb.send(client, short_header(cid_of(FOUR_PASS, index)))
            ways_back.append((await receive(sockets[index]))[1])
        for number in range(20):
            for index in range(3):
                answer = bytes(65_507) if index == 1 else b"%d" % number  # too long for the loopback's MTU over IPv6
                sockets[index].sendto(answer, ways_back[index])
            for index in (0, 2):
                assert (await receive(clients[index]))[0] == b"%d" % number
        await qlb.until(lambda: qlb.slot(layout.RETURN_DROPPED) == 20)


async def test_what_the_system_does_not_take_is_counted(running: Run, network: Network) -> None:
    """A backend address that cannot be sent to costs the packet and nothing else."""
    _, backends = network.pool()
    client = network.socket()
    broadcast = Backend("b0", Endpoint("255.255.255.255", 9), backends[0].server_ids)
    async with running(orders([broadcast, *backends[1:]])) as qlb:
        await qlb.send(client, TO_B0)
        async with asyncio.timeout(90):
            while not qlb.outcome(DROP_NO_SESSION) + qlb.outcome(DROP_SEND_FAILED):
                await asyncio.sleep(0)


async def test_the_last_odd_packet_is_kept(running: Run, network: Network) -> None:
    """What was dropped can be looked at, and explained; what was forwarded is not kept."""
    sockets, backends = network.pool()
    client = network.socket()
    async with running(orders(backends)) as qlb:
        await qlb.send(client, b"\xc0cut")
        await qlb.send(client, TO_B0)
        await receive(sockets[0])
        assert qlb.counters.sample(DROP_TRUNCATED)[:2] == (b"\xc0cut", 4)
        assert qlb.counters.sample(FOUR_PASS.config_id).seen_ms == 0


async def test_moved_backend_gets_a_new_way(running: Run, network: Network) -> None:
    """After a reload that gives a backend another address, its packets go there from the next one on."""
    sockets, backends = network.pool()
    client, elsewhere = network.socket(), network.socket()
    async with running(orders(backends)) as qlb:
        await qlb.send(client, TO_B0)
        await receive(sockets[0])
        qlb.plane.apply(orders([backend(0, Endpoint(*elsewhere.getsockname())), *backends[1:]]))
        await qlb.send(client, TO_B0)
        assert (await receive(elsewhere))[0] == TO_B0


async def test_reload_keeps_ways_back(running: Run, network: Network) -> None:
    """A reload that changes nothing about a backend leaves its sessions alone."""
    sockets, backends = network.pool()
    client = network.socket()
    async with running(orders(backends)) as qlb:
        await qlb.send(client, TO_B0)
        _, way_back = await receive(sockets[0])
        qlb.plane.apply(orders([*backends[:2]]))
        await qlb.send(client, TO_B0)
        assert (await receive(sockets[0]))[1] == way_back


async def test_descriptor_limit_bounds_sessions(
    running: Run, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions never exceed what the process may open, at the start and after a reload that asks for more."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (70, 70))
    sockets, backends = network.pool()
    wanted = orders(backends, replace(SETTINGS, max_sessions=20))
    async with running(wanted) as qlb:
        for number in range(2 * 9):
            await qlb.send(network.socket(), TO_B0)
            await receive(sockets[0])
            if number == 9:
                qlb.plane.apply(wanted)
        assert qlb.counters.slots[layout.SESSIONS] == 6


async def _receive_message(sock: socket.socket) -> tuple[bytes, list, tuple[str, int]]:
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(sock, readable.set)
    try:
        async with asyncio.timeout(90):
            await readable.wait()
    finally:
        loop.remove_reader(sock)
    datagram, control, _, sender = sock.recvmsg(65535, ancillary.BUFFER_BYTES)
    return datagram, control, sender


def _traffic_class(control: list) -> int:
    ((_, _, octets),) = control
    return octets[0]


async def test_held_it_leaves_packets_but_not_replies(running: Run, network: Network) -> None:
    """What clients send stays in the socket, in order, until it is read again; replies go back all the while."""
    sockets, backends = network.pool()
    client = network.socket()
    async with running(orders(backends)) as qlb:
        await qlb.send(client, TO_B0)
        _, way_back = await receive(sockets[0])
        qlb.plane.hold(True)
        qlb.plane.hold(True)
        await qlb.send(client, TO_B0 + b"1")
        await qlb.send(client, TO_B0 + b"2")
        await asyncio.get_running_loop().sock_sendto(sockets[0], b"answer", way_back)
        assert (await receive(client))[0] == b"answer"
        assert qlb.slot(layout.PACKETS_RECEIVED) == 1
        qlb.plane.apply(orders(backends))
        qlb.plane.hold(False)
        assert [(await receive(sockets[0]))[0] for _ in range(2)] == [TO_B0 + b"1", TO_B0 + b"2"]


async def test_held_from_the_start(running: Run, network: Network) -> None:
    """A plane that begins held takes nothing away from the one that reads the same socket, until it is told to."""
    sockets, backends = network.pool()
    client = network.socket()
    wanted = orders(backends)

    async with running(wanted) as first, running(wanted, beside=first) as second:

        async def received_after_five() -> list[int]:
            for _ in range(5):
                await first.send(client, TO_B0)
                await receive(sockets[0])
            return [qlb.slot(layout.PACKETS_RECEIVED) for qlb in (first, second)]

        assert await received_after_five() == [5, 0]
        first.plane.hold(True)
        second.plane.hold(False)
        assert await received_after_five() == [5, 5]
        second.plane.hold(True)
        first.plane.hold(False)
        assert await received_after_five() == [10, 5]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux puts datagrams together")
async def test_a_held_plane_does_not_change_how_another_one_reads(network: Network) -> None:
    """The batch plane has datagrams put together only while it reads: the asyncio plane cannot take it."""
    if lack := probe.what_lacks("batch"):
        pytest.skip(lack)
    _, backends = network.pool()
    wanted = orders(backends)
    async with runs("asyncio")(wanted) as plain, runs("batch")(wanted, beside=plain) as batch:

        def put_together() -> int:
            return plain.listener.getsockopt(socket.IPPROTO_UDP, UDP_GRO)

        assert put_together() == 0
        plain.plane.hold(True)
        batch.plane.hold(False)
        assert put_together() == 1
        batch.plane.hold(True)
        plain.plane.hold(False)
        assert put_together() == 0


async def test_a_plane_stamps_its_heartbeat_without_traffic(running: Run, network: Network) -> None:
    """The stamp moves on although no packet arrives, so that a hung worker can be told from an idle one."""
    _, backends = network.pool()
    async with running(orders(backends)) as qlb:
        await qlb.until(lambda: qlb.slot(layout.HEARTBEAT_MS) > 0)
        first = qlb.slot(layout.HEARTBEAT_MS)
        await qlb.until(lambda: qlb.slot(layout.HEARTBEAT_MS) > first)
