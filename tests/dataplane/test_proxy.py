"""Proxy mode on real sockets, on every plane that has it: forwarding, replies, addresses, ECN, bounds, errors."""

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
from qlb.dataplane import ancillary, planes
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
        datagram, reply_to = await receive(sockets[1])
        assert datagram == TO_B1
        await asyncio.get_running_loop().sock_sendto(sockets[1], b"answer", reply_to)
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
        _, reply_to = await receive(sockets[0])
        await asyncio.get_running_loop().sock_sendto(sockets[0], b"answer", reply_to)
        assert (await receive(client))[0] == b"answer"


@pytest.mark.parametrize(("wildcard", "sent_to"), [("0.0.0.0", "127.0.0.9"), ("::", "::1")])
async def test_a_wildcard_listener_answers_from_the_address_that_the_client_sent_to(
    running: Run, network: Network, wildcard: str, sent_to: str
) -> None:
    """A wildcard listener answers from the address that the client sent to; from another, the client would drop it."""
    sockets, backends = network.pool()
    client = network.socket("::1" if ":" in wildcard else "127.0.0.1")
    async with running(orders(backends), wildcard) as qlb:
        await qlb.send(client, TO_B0, sent_to)
        _, reply_to = await receive(sockets[0])
        await asyncio.get_running_loop().sock_sendto(sockets[0], b"answer", reply_to)
        assert (await receive(client))[1][:2] == (sent_to, qlb.service.port)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("dscp", [None, 0, 46])
async def test_the_traffic_class_is_copied_both_ways(
    running: Run, network: Network, host: str, dscp: int | None
) -> None:
    """Each of the four ECN codepoints arrives unchanged, and so does the DSCP unless the settings contain one."""
    sockets, backends = network.pool(host=host)
    client = network.socket(host)
    for sock in (*sockets, client):
        ancillary.receive_traffic_class(sock)
    async with running(orders(backends, replace(SETTINGS, dscp=dscp)), host) as qlb:
        for octet in (0, 1, 2, 3, 0xB8, 0xBB, 0x20, 0xFF, 0):
            expected = octet if dscp is None else dscp << 2 | octet & ancillary.ECN_MASK
            ancillary.set_traffic_class(client, octet)
            await qlb.send(client, TO_B0)
            datagram, control, reply_to = await _receive_message(sockets[0])
            assert (datagram, _traffic_class(control)) == (TO_B0, expected)
            ancillary.set_traffic_class(sockets[0], octet)
            await asyncio.get_running_loop().sock_sendto(sockets[0], b"answer", reply_to)
            datagram, control, _ = await _receive_message(client)
            assert (datagram, _traffic_class(control)) == (b"answer", expected)


async def test_largest_datagram(running: Run, network: Network) -> None:
    """A datagram of 65,507 octets arrives complete, in both directions."""
    sockets, backends = network.pool()
    client = network.socket()
    largest = TO_B0.ljust(65_507, b"x")
    async with running(orders(backends)) as qlb:
        await qlb.send(client, largest)
        datagram, reply_to = await receive(sockets[0])
        assert datagram == largest
        await asyncio.get_running_loop().sock_sendto(sockets[0], largest, reply_to)
        assert (await receive(client))[0] == largest


async def test_one_client_two_backends(running: Run, network: Network) -> None:
    """One 4-tuple with connections to two backends has two sessions."""
    sockets, backends = network.pool()
    client = network.socket()
    async with running(orders(backends)) as qlb:
        for sock, datagram in ((sockets[0], TO_B0), (sockets[1], TO_B1)):
            await qlb.send(client, datagram)
            _, reply_to = await receive(sock)
            await asyncio.get_running_loop().sock_sendto(sock, datagram, reply_to)
            assert (await receive(client))[0] == datagram
        assert qlb.counters.slots[layout.SESSIONS] == 2


async def test_sessions_are_bounded_and_spare_the_used(running: Run, network: Network) -> None:
    """A flood of addresses that send once evicts its own sessions; the session of a call stays open."""
    sockets, backends = network.pool()
    caller = network.socket()
    async with running(orders(backends)) as qlb:
        await qlb.send(caller, TO_B0)
        _, reply_to = await receive(sockets[0])
        for _ in range(4 * SETTINGS.max_sessions):
            await qlb.send(network.socket(), TO_B0)
            await receive(sockets[0])
            await qlb.send(caller, TO_B0)
            assert (await receive(sockets[0]))[1] == reply_to
        assert qlb.counters.slots[layout.SESSIONS] == SETTINGS.max_sessions
        assert qlb.counters.slots[layout.SESSIONS_EVICTED] == 3 * SETTINGS.max_sessions + 1


async def test_idle_sessions_close(running: Run, network: Network) -> None:
    """A session that is idle for its timeout is closed; the next packet opens a new one."""
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
    """A backend that was down for one packet gets the next one."""
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
    """65,507 octets over IPv4 exceed the loopback's MTU over IPv6: the datagram is dropped and counted as too_large."""
    _, backends = network.pool(host="::1")
    client = network.socket()
    async with running(orders(backends)) as qlb:
        await qlb.send(client, TO_B0.ljust(65_507, b"x"))
        async with asyncio.timeout(90):
            while not qlb.outcome(DROP_SEND_FAILED):
                await asyncio.sleep(0)
        assert qlb.send_error("too_large") == 1


async def test_a_reply_that_is_refused_is_counted(running: Run, network: Network) -> None:
    """An answer that exceeds the MTU towards the client is dropped and counted as too_large."""
    sockets, backends = network.pool()
    client = network.socket("::1")
    async with running(orders(backends), "::1") as qlb:
        await qlb.send(client, TO_B0)
        _, reply_to = await receive(sockets[0])
        await asyncio.get_running_loop().sock_sendto(sockets[0], bytes(65_507), reply_to)
        async with asyncio.timeout(90):
            while not qlb.counters.slots[layout.RETURN_DROPPED]:
                await asyncio.sleep(0)
        assert qlb.send_error("too_large") == 1


async def test_one_refused_answer_costs_no_other(running: Run, network: Network) -> None:
    """If the system refuses one of several answers in a batch, those before and after it arrive."""
    sockets, backends = network.pool()
    clients = [network.socket("::1") for _ in sockets]
    reply_addresses = []
    async with running(orders(backends), "::1") as qlb:
        for index, client in enumerate(clients):
            await qlb.send(client, short_header(cid_of(FOUR_PASS, index)))
            reply_addresses.append((await receive(sockets[index]))[1])
        for number in range(20):
            for index in range(3):
                answer = bytes(65_507) if index == 1 else b"%d" % number  # too long for the loopback's MTU over IPv6
                sockets[index].sendto(answer, reply_addresses[index])
            for index in (0, 2):
                assert (await receive(clients[index]))[0] == b"%d" % number
        await qlb.until(lambda: qlb.slot(layout.RETURN_DROPPED) == 20)


async def test_a_packet_that_the_system_does_not_send_is_counted(running: Run, network: Network) -> None:
    """A packet to a backend address to which the system cannot send is dropped and counted."""
    _, backends = network.pool()
    client = network.socket()
    broadcast = Backend("b0", Endpoint("255.255.255.255", 9), backends[0].server_ids)
    async with running(orders([broadcast, *backends[1:]])) as qlb:
        await qlb.send(client, TO_B0)
        async with asyncio.timeout(90):
            while not qlb.outcome(DROP_NO_SESSION) + qlb.outcome(DROP_SEND_FAILED):
                await asyncio.sleep(0)


async def test_the_last_dropped_packet_is_stored(running: Run, network: Network) -> None:
    """A sample of a dropped packet is stored; forwarded packets leave no sample."""
    sockets, backends = network.pool()
    client = network.socket()
    async with running(orders(backends)) as qlb:
        await qlb.send(client, b"\xc0cut")
        await qlb.send(client, TO_B0)
        await receive(sockets[0])
        assert qlb.counters.sample(DROP_TRUNCATED)[:2] == (b"\xc0cut", 4)
        assert qlb.counters.sample(FOUR_PASS.config_id).seen_ms == 0


async def test_a_moved_backend_gets_a_new_session(running: Run, network: Network) -> None:
    """After a reload that changes a backend's address, the next packet goes to the new address."""
    sockets, backends = network.pool()
    client, elsewhere = network.socket(), network.socket()
    async with running(orders(backends)) as qlb:
        await qlb.send(client, TO_B0)
        await receive(sockets[0])
        qlb.plane.apply(orders([backend(0, Endpoint(*elsewhere.getsockname())), *backends[1:]]))
        await qlb.send(client, TO_B0)
        assert (await receive(elsewhere))[0] == TO_B0


async def test_a_reload_leaves_unchanged_sessions_open(running: Run, network: Network) -> None:
    """A reload that does not change a backend leaves its sessions open."""
    sockets, backends = network.pool()
    client = network.socket()
    async with running(orders(backends)) as qlb:
        await qlb.send(client, TO_B0)
        _, reply_to = await receive(sockets[0])
        qlb.plane.apply(orders([*backends[:2]]))
        await qlb.send(client, TO_B0)
        assert (await receive(sockets[0]))[1] == reply_to


async def test_descriptor_limit_bounds_sessions(
    running: Run, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor limit bounds the sessions, at the start and after a reload."""
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


async def test_paused_it_forwards_replies_only(running: Run, network: Network) -> None:
    """A paused plane leaves clients' packets in the socket, in order, until it resumes; replies continue."""
    sockets, backends = network.pool()
    client = network.socket()
    async with running(orders(backends)) as qlb:
        await qlb.send(client, TO_B0)
        _, reply_to = await receive(sockets[0])
        qlb.plane.pause()
        qlb.plane.pause()
        await qlb.send(client, TO_B0 + b"1")
        await qlb.send(client, TO_B0 + b"2")
        await asyncio.get_running_loop().sock_sendto(sockets[0], b"answer", reply_to)
        assert (await receive(client))[0] == b"answer"
        assert qlb.slot(layout.PACKETS_RECEIVED) == 1
        qlb.plane.apply(orders(backends))
        qlb.plane.resume()
        assert [(await receive(sockets[0]))[0] for _ in range(2)] == [TO_B0 + b"1", TO_B0 + b"2"]


async def test_paused_from_the_start(running: Run, network: Network) -> None:
    """A plane that starts paused receives no packet of a shared socket until it resumes."""
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
        first.plane.pause()
        second.plane.resume()
        assert await received_after_five() == [5, 5]
        second.plane.pause()
        first.plane.resume()
        assert await received_after_five() == [10, 5]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux combines datagrams (UDP_GRO)")
async def test_a_paused_plane_does_not_change_how_another_one_reads(network: Network) -> None:
    """The batch plane enables UDP_GRO only while it reads: the asyncio plane cannot handle combined datagrams."""
    if lack := planes.what_lacks("batch"):
        pytest.skip(lack)
    _, backends = network.pool()
    wanted = orders(backends)
    async with runs("asyncio")(wanted) as plain, runs("batch")(wanted, beside=plain) as batch:

        def combines() -> int:
            return plain.listener.getsockopt(socket.IPPROTO_UDP, UDP_GRO)

        assert combines() == 0
        plain.plane.pause()
        batch.plane.resume()
        assert combines() == 1
        batch.plane.pause()
        plain.plane.resume()
        assert combines() == 0


@pytest.mark.slow
async def test_a_plane_stamps_its_heartbeat_without_traffic(running: Run, network: Network) -> None:
    """The heartbeat advances without packets, so that a hung worker can be distinguished from an idle one."""
    _, backends = network.pool()
    async with running(orders(backends)) as qlb:
        await qlb.until(lambda: qlb.slot(layout.HEARTBEAT_MS) > 0)
        first = qlb.slot(layout.HEARTBEAT_MS)
        await qlb.until(lambda: qlb.slot(layout.HEARTBEAT_MS) > first)
