"""A client behind a slow link costs no other client a packet, although the send queue is shared. Both planes."""

import asyncio
import socket
from contextlib import ExitStack
from dataclasses import replace
from typing import Final

import pytest

from lab.dataplane.far_network import FAR, NEAR, command, far_network
from lab.dataplane.network import FOUR_PASS, SETTINGS, Network, cid_of, orders, receive, short_header
from lab.dataplane.running import Run, Running
from lab.namespace import in_a_network_of_its_own
from qlb.dataplane.sockets import Buffers
from qlb.routing import counters as layout

pytestmark = pytest.mark.network

TO_B0: Final = short_header(cid_of(FOUR_PASS, 0))
TO_B1: Final = short_header(cid_of(FOUR_PASS, 1))
BUFFERS: Final = Buffers(send_bytes=1 << 20)
ANSWER_BYTES: Final = 1200
BURST: Final = 12
WILDCARD: Final = {4: "0.0.0.0", 6: "::"}
LOOPBACK: Final = {4: "127.0.0.1", 6: "::1"}
both_families = pytest.mark.parametrize("family", [4, 6])


def _shape(verb: str, rate: str) -> None:
    """Slow down the device towards the far network. Waiting packets stay in the sockets' send queues."""
    command("tc", "qdisc", verb, "dev", "up0", "root", "tbf", "rate", rate, "burst", "64kb", "limit", "8mb")


async def _pour(sock: socket.socket, reply_to: tuple[str, int]) -> None:
    """Send bursts of answers, as a download does, until cancelled."""
    while True:
        for _ in range(BURST):
            sock.sendto(bytes(ANSWER_BYTES), reply_to)
        await asyncio.sleep(0.005)


async def _round_trips(qlb: Running, client: socket.socket, host: str, server: socket.socket, count: int) -> None:
    """Send questions one after another. Each must arrive and be answered."""
    for number in range(count):
        await qlb.send(client, question := TO_B1 + b"%d" % number, host)
        datagram, reply_to = await receive(server)
        assert datagram == question
        server.sendto(b"%d" % number, reply_to)
        assert (await receive(client))[0] == b"%d" % number


@both_families
@pytest.mark.parametrize("downloads", [1, 3])
def test_a_slow_client_costs_no_other_a_packet(running: Run, family: int, downloads: int) -> None:
    """While downloads wait for a slow device, every packet of a call over another device is answered; no send fails."""

    async def work() -> None:
        network = Network()
        with ExitStack() as stack, network.stack, far_network(network) as far:
            _shape("add", "2mbit")
            sockets, backends = network.pool()
            caller = network.socket(LOOPBACK[family])
            slow = [far.socket(FAR[family]) for _ in range(downloads)]
            async with running(orders(backends), WILDCARD[family], buffers=BUFFERS) as qlb:
                for client in slow:
                    await qlb.send(client, TO_B0, NEAR[family])
                    _, reply_to = await receive(sockets[0])
                    pouring = asyncio.create_task(_pour(sockets[0], reply_to))
                    stack.callback(pouring.cancel)
                await qlb.until(lambda: qlb.slot(layout.RETURN_PAUSES) >= downloads)
                await _round_trips(qlb, caller, LOOPBACK[family], sockets[1], 100)
                returned = qlb.slot(layout.BACKEND + layout.RETURNED)
                await qlb.until(lambda: qlb.slot(layout.BACKEND + layout.RETURNED) > returned)  # the download continues
                await _round_trips(qlb, caller, LOOPBACK[family], sockets[1], 100)
                for client in slow:
                    assert len((await receive(client))[0]) == ANSWER_BYTES
                assert qlb.send_error("would_block") == 0
                assert qlb.slot(layout.RETURN_DROPPED) == 0

    in_a_network_of_its_own(work)


def test_paused_sessions_resume_when_the_queue_is_empty_again(running: Run) -> None:
    """After the device has sent everything, the packets in the session's own queue arrive in order."""

    async def work() -> None:
        network = Network()
        with network.stack, far_network(network) as far:
            _shape("add", "2mbit")
            sockets, backends = network.pool()
            client = far.socket(FAR[4])
            async with running(orders(backends), WILDCARD[4], buffers=BUFFERS) as qlb:
                await qlb.send(client, TO_B0, NEAR[4])
                _, reply_to = await receive(sockets[0])
                sent = 0

                def is_paused_or_done() -> bool:
                    return qlb.slot(layout.RETURN_PAUSES) > 0 or qlb.slot(layout.BACKEND + layout.RETURNED) == sent

                while not qlb.slot(layout.RETURN_PAUSES):
                    sockets[0].sendto(sent.to_bytes(ANSWER_BYTES), reply_to)
                    sent += 1
                    await qlb.until(is_paused_or_done)
                for _ in range(10):
                    sockets[0].sendto(sent.to_bytes(ANSWER_BYTES), reply_to)
                    sent += 1
                _shape("change", "20mbit")  # much faster, and no faster than the far end reads
                for number in range(sent):
                    assert int.from_bytes((await receive(client))[0]) == number
                assert qlb.slot(layout.BACKEND + layout.RETURNED) == sent

    in_a_network_of_its_own(work)


def test_a_paused_session_may_close(running: Run) -> None:
    """A paused session can be evicted or closed with the plane; other sessions continue."""

    async def work() -> None:
        network = Network()
        with network.stack, far_network(network) as far:
            _shape("add", "64kbit")
            sockets, backends = network.pool()
            clients = [far.socket(FAR[4]) for _ in range(2)]
            caller = network.socket()
            async with running(
                orders(backends, replace(SETTINGS, max_sessions=2)), WILDCARD[4], buffers=BUFFERS
            ) as qlb:
                for number, client in enumerate(clients, 1):
                    await qlb.send(client, TO_B0, NEAR[4])
                    _, reply_to = await receive(sockets[0])
                    while qlb.slot(layout.RETURN_PAUSES) < number:
                        sockets[0].sendto(bytes(ANSWER_BYTES), reply_to)
                        await asyncio.sleep(0)
                await _round_trips(qlb, caller, "127.0.0.1", sockets[1], 20)
                assert qlb.slot(layout.SESSIONS) == 2
                assert qlb.slot(layout.SESSIONS_EVICTED) == 1

    in_a_network_of_its_own(work)
