"""The counters for capacity: octets in both directions, new flows, and samples of the added latency. Both planes."""

import asyncio
import socket
import struct
import time

from lab.dataplane.network import FOUR_PASS, Network, cid_of, long_header, orders, receive, short_header
from lab.dataplane.running import Run, Running
from qlb.routing import counters as layout
from qlb.routing.counters import Latency
from qlb.routing.outcomes import DROP_TRUNCATED
from qlb.routing.sums import total_latency

TO_B0 = short_header(cid_of(FOUR_PASS, 0))
TRUNCATED = b"\xc0"
SO_TIMESTAMPNS = 35


def of_backend(qlb: Running, index: int, slot: int) -> int:
    """Return a counter of a backend."""
    return qlb.slot(layout.BACKEND + layout.BACKEND_SLOTS * index + slot)


def samples(qlb: Running, direction: int) -> int:
    """Return the number of samples of the latency in one direction."""
    return sum(total_latency([qlb.counters], direction).buckets)


async def test_octets_are_counted_both_ways(running: Run, network: Network) -> None:
    """Each sent datagram adds its octets to its backend's row, in pieces or alone; a dropped one adds none."""
    sockets, backends = network.pool()
    client = network.socket()
    sizes = [1200] * 30 + [64, 1200, 1, 0, 65_507 - len(TO_B0)] + [900] * 10
    async with running(orders(backends)) as qlb:
        for size in sizes:
            await qlb.send(client, TO_B0 + bytes(size))
        await qlb.send(client, TRUNCATED)
        for _ in sizes:
            _, reply_to = await receive(sockets[0])
        for size in sizes:
            await asyncio.get_running_loop().sock_sendto(sockets[0], bytes(size), reply_to)
            assert len((await receive(client))[0]) == size
        await qlb.until(lambda: of_backend(qlb, 0, layout.RETURNED) == len(sizes))
        await qlb.until(lambda: qlb.outcome(DROP_TRUNCATED) == 1)
        assert of_backend(qlb, 0, layout.FORWARDED_BYTES) == sum(sizes) + len(sizes) * len(TO_B0)
        assert of_backend(qlb, 0, layout.RETURNED_BYTES) == sum(sizes)
        assert qlb.slot(layout.BYTES_RECEIVED) == of_backend(qlb, 0, layout.FORWARDED_BYTES) + len(TRUNCATED)
        assert of_backend(qlb, 1, layout.FORWARDED_BYTES) == of_backend(qlb, 0, layout.NEW_FLOWS) == 0


async def test_a_refused_answer_adds_no_octets(running: Run, network: Network) -> None:
    """An answer that cannot be sent to its client counts as dropped, and its octets count nowhere."""
    sockets, backends = network.pool()
    client = network.socket()
    async with running(orders(backends), "0.0.0.0") as qlb:
        await qlb.send(client, TO_B0, "127.0.0.1")
        _, reply_to = await receive(sockets[0])
        qlb.listener.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes([1] * 40))  # leaves no room for 65,507
        await asyncio.get_running_loop().sock_sendto(sockets[0], bytes(65_507), reply_to)
        await qlb.until(lambda: qlb.slot(layout.RETURN_DROPPED) == 1)
        assert of_backend(qlb, 0, layout.RETURNED) == of_backend(qlb, 0, layout.RETURNED_BYTES) == 0


async def test_new_flows(running: Run, network: Network) -> None:
    """A long header with unknown IDs begins a flow, also from a known address; known IDs and short headers do not."""
    _, backends = network.pool()
    client = network.socket()
    first, second = long_header(b"\xe1" * 8, b"mine"), long_header(b"\xe2" * 8, b"next")
    known = long_header(cid_of(FOUR_PASS, 0) + b"tail", b"mine")
    datagrams = (first, first, second, known, b"\x40\xe0" * 20, TO_B0)
    async with running(orders(backends)) as qlb:
        for datagram in datagrams:
            await qlb.send(client, datagram)
        await qlb.until(lambda: sum(qlb.outcome(outcome) for outcome in range(27)) == len(datagrams))
        assert sum(of_backend(qlb, index, layout.NEW_FLOWS) for index in range(3)) == 2


async def test_the_first_batch_of_each_direction_is_a_sample(running: Run, network: Network) -> None:
    """One datagram and its answer are one sample in each direction. Of the next 64 batches, one is a sample."""
    sockets, backends = network.pool()
    client = network.socket()
    async with running(orders(backends)) as qlb:
        for number in range(1 + layout.LATENCY_EVERY):
            assert samples(qlb, layout.TO_BACKEND) == samples(qlb, layout.TO_CLIENT) == bool(number)
            await qlb.send(client, TO_B0)
            _, reply_to = await receive(sockets[0])
            await asyncio.get_running_loop().sock_sendto(sockets[0], b"answer", reply_to)
            assert (await receive(client))[0] == b"answer"
            await qlb.until(lambda number=number: of_backend(qlb, 0, layout.RETURNED) == number + 1)  # type: ignore[misc]
            await qlb.until(lambda: samples(qlb, layout.TO_BACKEND) == samples(qlb, layout.TO_CLIENT) > 0)
        await qlb.until(lambda: samples(qlb, layout.TO_BACKEND) == samples(qlb, layout.TO_CLIENT) == 2)


async def test_a_batch_that_is_dropped_is_no_sample(running: Run, network: Network) -> None:
    """A batch of which nothing is sent adds no sample, and a later batch does not end its measurement."""
    sockets, backends = network.pool()
    client = network.socket()
    async with running(orders(backends)) as qlb:
        await qlb.send(client, TRUNCATED)
        await qlb.until(lambda: qlb.outcome(DROP_TRUNCATED) == 1)
        await qlb.send(client, TO_B0)
        await receive(sockets[0])
        await qlb.until(lambda: of_backend(qlb, 0, layout.FORWARDED) == 1)
    assert total_latency([qlb.counters], layout.TO_BACKEND) == Latency((0,) * layout.LATENCY_BUCKETS, 0)


async def test_the_latency_includes_the_wait_in_the_receive_queue(running: Run, network: Network) -> None:
    """A datagram that waits while the plane is paused has a latency of at least that time."""
    sockets, backends = network.pool()
    client = network.socket()
    _wait_for_stamps(network.socket())
    async with running(orders(backends)) as qlb:
        qlb.plane.pause()
        await qlb.send(client, TO_B0)
        sent_ns = time.time_ns()
        _spin(20_000_000)
        waited_ns = time.time_ns() - sent_ns
        qlb.plane.resume()
        await receive(sockets[0])
        await qlb.until(lambda: samples(qlb, layout.TO_BACKEND) == 1)
        assert total_latency([qlb.counters], layout.TO_BACKEND).sum_ns >= waited_ns


def _spin(duration_ns: int) -> None:
    until_ns = time.monotonic_ns() + duration_ns
    while time.monotonic_ns() < until_ns:
        pass


def _wait_for_stamps(sock: socket.socket) -> None:
    """Return when the kernel stamps arriving datagrams. It begins some time after the first socket has asked."""
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    while True:
        sock.sendto(b"", sock.getsockname())
        _spin(1_000_000)
        received_ns = time.time_ns()
        _, ((_, _, data),), _, _ = sock.recvmsg(1, 64)
        seconds, nanoseconds = struct.unpack("@ll", data)
        if seconds * 1_000_000_000 + nanoseconds < received_ns:
            return
