"""Every plane makes the same decisions as the memory plane, for the same traffic and configuration."""

import asyncio
import random
import socket
from collections.abc import Callable, Iterator

import pytest

from lab.dataplane.network import (
    FOUR_PASS,
    PLAINTEXT,
    Network,
    backend,
    cid_of,
    long_header,
    orders,
    receive,
    short_header,
)
from lab.memory_plane import MemoryPlane
from qlb.addresses import Endpoint
from qlb.dataplane import planes
from qlb.dataplane.base import Orders, Plane
from qlb.dataplane.sockets import bound_endpoint, open_listener
from qlb.routing.backends import BackendState
from qlb.routing.counters import (
    BACKEND,
    BACKEND_SLOTS,
    FORWARDED,
    FORWARDED_BYTES,
    NEW_FLOWS,
    OUTCOME,
    PACKETS_RECEIVED,
    SIZE_BYTES,
    UNCONFIGURED,
    UNCONFIGURED_LAST_SEEN_MS,
    UNKNOWN,
    UNKNOWN_LAST_SEEN_MS,
    Counters,
)
from qlb.routing.outcomes import OUTCOMES

SENTINEL = short_header(cid_of(FOUR_PASS, 0), b"sentinel")


def _traffic() -> Iterator[bytes]:
    """Generate every kind of packet. The order matters, because the flow tables learn from earlier packets."""
    dice = random.Random(20260529)
    for params in (FOUR_PASS, PLAINTEXT):
        for index in range(4):  # one more than there are backends
            yield short_header(cid_of(params, index))
            yield long_header(cid_of(params, index) if params is PLAINTEXT else cid_of(params, index) + b"tail")
    yield from (b"", b"\x40", b"\x80", long_header(b"\0" * 20, version=0), long_header(b""), long_header(b"\x22" * 255))
    yield from (long_header(dice.randbytes(8), dice.randbytes(8), version=0x6B3343CF) for _ in range(20))
    yield from (bytes([first]) + dice.randbytes(30) for first in range(256))
    whole = long_header(cid_of(FOUR_PASS, 1))
    yield from (whole[:length] for length in range(len(whole)))
    yield from (dice.randbytes(dice.randrange(60)) for _ in range(200))


def _pools(backends: list) -> dict[str, list]:
    endpoints = [b.endpoint for b in backends]
    return {
        "all active": backends,
        "one draining": [backends[0], backend(1, endpoints[1], state=BackendState.DRAINING), backends[2]],
        "one unhealthy": [backends[0], backend(1, endpoints[1], healthy=False), backends[2]],
        "one without weight": [backends[0], backend(1, endpoints[1], weight=0), backends[2]],
        "none accepts new": [backend(n, endpoint, state=BackendState.DRAINING) for n, endpoint in enumerate(endpoints)],
    }


@pytest.fixture
def make_plane(plane_name: str) -> Callable[..., Plane]:
    """Return the factory of a plane that this machine can run."""
    return planes.factory(plane_name)


@pytest.mark.parametrize(
    "pool", ["all active", "one draining", "one unhealthy", "one without weight", "none accepts new"]
)
async def test_decisions_are_the_memory_planes(make_plane: Callable[..., Plane], network: Network, pool: str) -> None:
    """The same datagrams in the same order get the same outcomes and reach the same backends."""
    sockets, backends = network.pool()
    wanted = orders(_pools(backends)[pool])
    client = network.socket()
    counters, service = await _replay(make_plane, wanted, client, sockets[0])
    oracle = MemoryPlane(wanted)
    four_tuple = (*client.getsockname(), service.host, service.port)
    for datagram in (*_traffic(), SENTINEL):
        oracle.handle(datagram, four_tuple, 1.0)
    assert _outcomes(counters) == _outcomes(oracle.counters)
    for index in range(len(backends)):
        for slot in (*range(FORWARDED, FORWARDED + 3), FORWARDED_BYTES, NEW_FLOWS):
            at = BACKEND + BACKEND_SLOTS * index + slot
            assert counters.slots[at] == oracle.counters.slots[at], slot
    new_flows = sum(counters.slots[BACKEND + BACKEND_SLOTS * index + NEW_FLOWS] for index in range(len(backends)))
    assert new_flows > 20 or pool == "none accepts new"
    for carried in (slice(UNCONFIGURED, UNCONFIGURED_LAST_SEEN_MS), slice(UNKNOWN, UNKNOWN_LAST_SEEN_MS)):
        assert list(counters.slots[carried]) == list(oracle.counters.slots[carried])
        assert sum(counters.slots[carried]) > 0 or pool == "none accepts new"
    assert counters.slots[PACKETS_RECEIVED] == sum(_outcomes(counters).values())


async def _replay(
    make_plane: Callable[..., Plane], wanted: Orders, client: socket.socket, first_backend: socket.socket
) -> tuple[Counters, Endpoint]:
    """Send the traffic from one client. Return the counters after the plane has handled all of it, and the service."""
    memory = memoryview(bytearray(SIZE_BYTES))
    listener = open_listener(Endpoint("127.0.0.1", 0))
    service = bound_endpoint(listener)
    plane = make_plane([listener.detach()], wanted, memory)
    plane.start()
    try:
        loop = asyncio.get_running_loop()
        for datagram in (*_traffic(), SENTINEL):
            await loop.sock_sendto(client, datagram, service)
            await asyncio.sleep(0)  # lets the plane read: the socket's buffer stays short
        while (await receive(first_backend))[0] != SENTINEL:
            pass
    finally:
        plane.stop()
    return Counters(memory), service


def _outcomes(counters: Counters) -> dict[str, int]:
    return {o.name: count for o, count in zip(OUTCOMES, counters.slots[OUTCOME:], strict=False) if count}
