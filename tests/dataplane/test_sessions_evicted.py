"""Closing and evicting sessions: protection, timeouts, overload, ports, backends without a route. Both planes."""

import functools
import socket
import time
from dataclasses import replace
from typing import Final

import pytest

from lab.dataplane.far_network import Echo, set_sysctl, talk
from lab.dataplane.network import FOUR_PASS, SETTINGS, Network, backend, cid_of, orders, receive, short_header
from lab.dataplane.running import Run, Running
from lab.namespace import in_a_network_of_its_own
from qlb.addresses import Endpoint
from qlb.routing import counters as layout
from qlb.routing import sums
from qlb.routing.backends import Backend
from qlb.routing.outcomes import (
    BY_FALLBACK,
    DROP_OVERLOAD,
    DROP_SEND_FAILED,
    NO_CONFIG,
    OUTCOMES,
    unroutable,
)

pytestmark = pytest.mark.network

TO_B0: Final = short_header(cid_of(FOUR_PASS, 0))
TO_B1: Final = short_header(cid_of(FOUR_PASS, 1))
UNROUTABLE: Final = short_header(b"\x00" * 20)
FALLBACK: Final = unroutable(BY_FALLBACK, NO_CONFIG)
BATCH: Final = 64
"""Datagrams of one receive. After a full batch, more may wait."""
BACKLOG: Final = 3000
"""Datagrams that fit in a listener's queue."""


async def test_a_call_is_protected_from_a_flood_of_sessions(running: Run, network: Network) -> None:
    """A session that its client has used over more than a second outlives sessions that were used twice at once."""
    sockets, backends = network.pool()
    caller = network.socket()
    async with running(orders(backends)) as qlb:
        with Echo(sockets[0]) as echo:
            await talk(qlb, caller, TO_B0, lambda: qlb.slot(layout.SESSIONS_PROTECTED) == 1)
        reply_to = echo.senders[0]
        _empty(caller)
        _empty(sockets[0])
        for _ in range(4 * SETTINGS.max_sessions):
            stranger = network.socket()
            for _ in range(2):
                await qlb.send(stranger, TO_B1)
                await receive(sockets[1])
        sockets[0].sendto(b"push", reply_to)
        assert (await receive(caller))[0] == b"push"
        assert qlb.slot(layout.SESSIONS) == SETTINGS.max_sessions
        assert qlb.slot(layout.SESSIONS_EVICTED) == 3 * SETTINGS.max_sessions + 1
        assert qlb.slot(layout.SESSIONS_PROTECTED) == 1


async def test_answers_protect_no_session(running: Run, network: Network) -> None:
    """A session whose client sends becomes protected; one whose server only answers does not."""
    sockets, backends = network.pool()
    caller, spoofed = network.socket(), network.socket()
    async with running(orders(backends)) as qlb:
        await qlb.send(spoofed, TO_B1)
        _, reply_to = await receive(sockets[1])

        def is_protected() -> bool:
            sockets[1].sendto(b"answer", reply_to)
            return qlb.slot(layout.SESSIONS_PROTECTED) > 0

        await talk(qlb, caller, TO_B0, is_protected)
        assert qlb.slot(layout.SESSIONS_PROTECTED) == 1
        for _ in range(SETTINGS.max_sessions):
            await qlb.send(network.socket(), TO_B1)
            await receive(sockets[1])
            sockets[1].sendto(b"answer", reply_to)
        await qlb.send(spoofed, TO_B1)
        assert (await receive(sockets[1]))[1] != reply_to, "it was evicted"
        assert qlb.slot(layout.SESSIONS_PROTECTED) == 1


async def test_protected_sessions_are_evicted_when_there_are_no_others(running: Run, network: Network) -> None:
    """With more calls than sessions, the limit is not exceeded and every packet is delivered."""
    sockets, backends = network.pool()
    callers = [network.socket() for _ in range(3)]
    async with running(orders(backends, replace(SETTINGS, max_sessions=2))) as qlb:
        with Echo(sockets[0]):
            for number, caller in enumerate(callers[:2]):
                await talk(qlb, caller, TO_B0, lambda: qlb.slot(layout.SESSIONS_PROTECTED) == number + 1)  # noqa: B023
        _empty(sockets[0])
        await qlb.send(callers[2], TO_B1)
        await receive(sockets[1])
        assert qlb.slot(layout.SESSIONS) == 2
        assert qlb.slot(layout.SESSIONS_PROTECTED) == 1


async def test_sessions_that_routable_packets_have_used_stay_open(running: Run, network: Network) -> None:
    """A routable session stays open for its server after session_timeout; other sessions close."""
    sockets, backends = network.pool()
    quiet, stranger = network.socket(), network.socket()
    short = replace(SETTINGS, session_timeout_s=0.05, routable_session_timeout_s=3600)
    async with running(orders(backends, short)) as qlb:
        await qlb.send(quiet, TO_B0)
        _, reply_to = await receive(sockets[0])
        await qlb.send(stranger, UNROUTABLE)
        await qlb.until(lambda: qlb.outcome(FALLBACK) == 1)
        assert qlb.slot(layout.SESSIONS) == 2
        await qlb.until(lambda: qlb.slot(layout.SESSIONS) == 1)
        sockets[0].sendto(b"push", reply_to)
        assert (await receive(quiet))[0] == b"push"
        assert qlb.slot(layout.SESSIONS_EVICTED) == 0


async def test_a_session_past_its_ordinary_time_is_not_counted_as_evicted(running: Run, network: Network) -> None:
    """A routable session that is idle beyond session_timeout can be evicted from a full table without being counted."""
    sockets, backends = network.pool()
    timeout_s = 0.05
    short = replace(SETTINGS, session_timeout_s=timeout_s, routable_session_timeout_s=3600)
    async with running(orders(backends, short)) as qlb:
        for _ in range(SETTINGS.max_sessions):
            await qlb.send(network.socket(), TO_B0)
            await receive(sockets[0])
        full_s = time.monotonic()
        await qlb.until(lambda: time.monotonic() > full_s + 2 * timeout_s)
        await qlb.send(network.socket(), TO_B0)
        await receive(sockets[0])
        assert qlb.slot(layout.SESSIONS) == SETTINGS.max_sessions
        assert qlb.slot(layout.SESSIONS_EVICTED) == 0


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        ("192.0.2.1", "unreachable"),
        ("2001:db8::1", "unreachable"),
        ("127.255.255.255", "not_permitted"),
        ("fe80::1", "invalid"),
    ],
)
def test_a_backend_without_a_route_evicts_no_session(running: Run, host: str, kind: str) -> None:
    """Its packets are dropped, its error is counted, and other sessions stay open even if the table is full."""

    async def work() -> None:
        network = Network()
        with network.stack:
            sockets, backends = network.pool(ports=[0])
            lost = Backend("b1", Endpoint(host, 4433), backend(1, Endpoint(host, 1)).server_ids)
            clients = [network.socket() for _ in range(SETTINGS.max_sessions)]
            reply_addresses = []
            async with running(orders([*backends, lost])) as qlb:
                for client in clients:
                    await qlb.send(client, TO_B0)
                    reply_addresses.append((await receive(sockets[0]))[1])
                for _ in range(20):
                    await qlb.send(clients[0], TO_B1)
                await qlb.until(lambda: qlb.outcome(DROP_SEND_FAILED) == 20)
                assert sums.total_backend_send_errors([qlb.counters], 1)[kind] >= 20
                for client, reply_to in zip(clients, reply_addresses, strict=True):
                    sockets[0].sendto(b"push", reply_to)
                    assert (await receive(client))[0] == b"push"
                assert qlb.slot(layout.SESSIONS_EVICTED) == 0

    in_a_network_of_its_own(work)


@pytest.mark.parametrize(("taken", "workers", "most"), [(0, 1, 9), (5, 1, 5), (0, 3, 3)])
def test_local_ports_are_never_used_up(running: Run, taken: int, workers: int, most: int) -> None:
    """Of ten ports, a single worker uses nine. If other programs use some, sessions are evicted for new ones.

    No packet is lost in either case. In the first case, another program always finds a port.
    """

    async def work() -> None:
        set_sysctl("net.ipv4.ip_local_port_range", "50000 50009")
        network = Network()
        with network.stack:
            sockets, backends = network.pool(ports=[40000])
            for port in range(50000, 50000 + taken):
                network.socket("0.0.0.0", port)
            settings = replace(SETTINGS, max_sessions=100, workers=workers)
            async with running(orders(backends, settings), port=42000) as qlb:
                ports = set()
                for port in range(41000, 41030):
                    await qlb.send(network.socket(port=port), TO_B0)
                    ports.add((await receive(sockets[0]))[1][1])
                    if not taken:
                        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                            probe.connect(sockets[0].getsockname())
                await qlb.until(lambda: qlb.outcome(FOUR_PASS.config_id) == 30)
                assert qlb.slot(layout.SESSIONS) == most
                assert qlb.slot(layout.SESSIONS_EVICTED) == 30 - most

    in_a_network_of_its_own(work)


def _send_while_paused(qlb: Running, datagrams: list[tuple[socket.socket, bytes]]) -> None:
    """Send datagrams while the plane is paused, so that it receives them in one batch."""
    qlb.plane.pause()
    for client, datagram in datagrams:
        client.sendto(datagram, qlb.service)
    qlb.plane.resume()


@pytest.mark.parametrize("wanted", [TO_B0, UNROUTABLE], ids=["routable", "unroutable"])
async def test_under_overload_open_sessions_are_served_first(running: Run, network: Network, wanted: bytes) -> None:
    """Datagrams that need a new session are dropped after opens run out, but no datagram of an open session."""
    sockets, backends = network.pool()
    caller, call = network.socket(), short_header(cid_of(FOUR_PASS, 2))
    async with running(orders(backends, replace(SETTINGS, max_sessions=1000))) as qlb:
        await qlb.send(caller, call)
        await receive(sockets[2])
        sent = calls = 1
        while not qlb.outcome(DROP_OVERLOAD):  # a slow worker gets new opens during the test
            qlb.plane.pause()
            for number in range(BACKLOG):
                if number % 100 == 0:
                    caller.sendto(call, qlb.service)
                    calls += 1
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                    stranger.sendto(wanted, qlb.service)
            sent += BACKLOG + BACKLOG // 100
            qlb.plane.resume()
            await qlb.until(functools.partial(_is_settled, qlb, sent))
        answered = 0
        while answered < calls - 1:
            answered += (await receive(sockets[2]))[0] == call


async def test_a_backlog_of_many_clients_is_no_overload(running: Run, network: Network) -> None:
    """Several full batches of datagrams from new clients, as after a restart, are all delivered."""
    sockets, backends = network.pool()
    async with running(orders(backends, replace(SETTINGS, max_sessions=1000))) as qlb:
        _send_while_paused(qlb, [(network.socket(), TO_B0) for _ in range(4 * BATCH)])
        for _ in range(4 * BATCH):
            await receive(sockets[0])
        assert qlb.outcome(DROP_OVERLOAD) == 0


def _is_settled(qlb: Running, sent: int) -> bool:
    """Check whether this number of datagrams has an outcome."""
    return sum(qlb.slot(layout.OUTCOME + number) for number in range(len(OUTCOMES))) == sent


async def test_datagrams_of_one_new_session_stay_together_under_overload(running: Run, network: Network) -> None:
    """All datagrams of a client whose session opens in a full batch are delivered in order."""
    sockets, backends = network.pool()
    client = network.socket()
    async with running(orders(backends, replace(SETTINGS, max_sessions=1000))) as qlb:
        _send_while_paused(qlb, [(client, TO_B0 + b"%d" % number) for number in range(BATCH)])
        for number in range(BATCH):
            assert (await receive(sockets[0]))[0] == TO_B0 + b"%d" % number
        assert qlb.outcome(DROP_OVERLOAD) == 0
        assert qlb.slot(layout.SESSIONS) == 1


async def test_without_overload_any_number_of_sessions_is_opened(running: Run, network: Network) -> None:
    """A batch that is not full may open a session for each of its datagrams."""
    sockets, backends = network.pool()
    async with running(orders(backends, replace(SETTINGS, max_sessions=1000))) as qlb:
        _send_while_paused(qlb, [(network.socket(), TO_B0) for _ in range(BATCH - 1)])
        for _ in range(BATCH - 1):
            await receive(sockets[0])
        assert qlb.slot(layout.SESSIONS) == BATCH - 1
        assert qlb.outcome(DROP_OVERLOAD) == 0


def _empty(sock: socket.socket) -> None:
    """Discard all datagrams that wait in a socket."""
    while True:
        try:
            sock.recv(65_535)
        except BlockingIOError:
            return


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_ports_that_servers_drop_are_avoided(running: Run, host: str) -> None:
    """No session uses port 11211 while there is another port; a machine without another port uses it."""

    async def work() -> None:
        network = Network()
        with network.stack:
            sockets, backends = network.pool(host, ports=range(40000, 40003))
            for ports, expected in (("11202 11221", {*range(11202, 11222)} - {11211}), ("11211 11211", {11211})):
                set_sysctl("net.ipv4.ip_local_port_range", ports)
                used = set()
                async with running(orders(backends), host, 42000) as qlb:
                    for port in range(41000, 41000 + 2 * len(expected)):
                        client = network.socket(host, port)
                        await qlb.send(client, TO_B0)
                        used.add((await receive(sockets[0]))[1][1])
                        client.close()
                assert used <= expected

    in_a_network_of_its_own(work)
