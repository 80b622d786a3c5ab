"""Features of the batch plane alone: splitting and building pieces of several datagrams, and shared ports."""

import asyncio
import os
import resource
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from lab.dataplane.network import FOUR_PASS, SETTINGS, Network, cid_of, orders, receive, short_header
from lab.dataplane.running import Run, runs
from lab.namespace import in_a_network_of_its_own
from qlb.addresses import Endpoint
from qlb.dataplane import ancillary
from qlb.dataplane.base import Orders
from qlb.dataplane.sockets import bound_endpoint, open_listener
from qlb.routing import counters as layout
from qlb.routing import sums
from qlb.routing.counters import SIZE_BYTES, Counters
from qlb.routing.outcomes import DROP_SEND_FAILED

core: Final = pytest.importorskip("qlb.dataplane._core", reason="qlb was installed without its C extension")
if not hasattr(core, "Forwarder"):
    pytest.skip("the batch plane is for Linux", allow_module_level=True)

from qlb.dataplane.batch.plane import BatchPlane, pack_endpoints  # noqa: E402  there only with the extension
from qlb.dataplane.core.table import compile_table  # noqa: E402

UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104


running: Final[Run] = runs("batch")


def numbered(index: int, number: int, size: int = 100) -> bytes:
    """Return a numbered datagram for a backend. Its length does not depend on the number."""
    return short_header(cid_of(FOUR_PASS, index), b"%05d" % number).ljust(size, b".")


def send_burst(sock: socket.socket, datagrams: list[bytes], to: Endpoint, ecn: int = 0) -> None:
    """Send several datagrams with one call. All but the last have the length of the first."""
    control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", len(datagrams[0])))]
    if ecn:
        control.append(ancillary.traffic_class_message(sock.family, ecn))
    sock.sendmsg([b"".join(datagrams)], control, 0, to)


async def receive_message(sock: socket.socket) -> tuple[bytes, dict[tuple[int, int], bytes], tuple[str, int]]:
    """Wait for one receive. Return its octets, its control messages by level and type, and its sender."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(sock, readable.set)
    try:
        async with asyncio.timeout(90):
            await readable.wait()
    finally:
        loop.remove_reader(sock)
    octets, control, _, sender = sock.recvmsg(65535, 512)
    return octets, {(level, kind): data for level, kind, data in control}, sender


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_burst_is_split_by_connection_id(network: Network, host: str) -> None:
    """Each datagram of a piece reaches the backend of its own ID, in order, also the shorter last one."""
    sockets, backends = network.pool(host=host)
    client = network.socket(host)
    burst = [numbered(n % 3, n) for n in range(30)] + [numbered(0, 30, size=50)]
    async with running(orders(backends), host) as qlb:
        send_burst(client, burst, qlb.service)
        for index, sock in enumerate(sockets):
            for expected in burst[index::3]:
                assert (await receive(sock))[0] == expected
        assert qlb.slot(layout.PACKETS_RECEIVED) == 31
        assert qlb.slot(layout.BYTES_RECEIVED) == sum(map(len, burst))
        assert qlb.slot(layout.OUTCOME + FOUR_PASS.config_id) == 31
        assert [qlb.slot(layout.BACKEND + layout.BACKEND_SLOTS * n) for n in range(3)] == [11, 10, 10]


IN_PIECES: Final = replace(SETTINGS, gso_to_backends=True)
"""Backends accept pieces of several datagrams."""


async def test_backends_get_single_datagrams(network: Network) -> None:
    """By default, backends get no pieces: some servers enable UDP_GRO but read one datagram of each (Envoy 1.40)."""
    sockets, backends = network.pool()
    client = network.socket()
    sockets[1].setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    burst = [numbered(n % 2, n) for n in range(20)] + [numbered(1, 20, size=60)]
    async with running(orders(backends)) as qlb:
        send_burst(client, burst, qlb.service)
        for datagram in burst[1::2] + burst[20:]:
            octets, control, _ = await receive_message(sockets[1])
            assert octets == datagram
            assert (socket.IPPROTO_UDP, UDP_GRO) not in control


async def test_datagrams_for_one_backend_leave_as_one_piece(network: Network) -> None:
    """Datagrams for one backend are regrouped: a backend that accepts pieces gets one, with the right lengths."""
    sockets, backends = network.pool()
    client = network.socket()
    sockets[1].setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    burst = [numbered(n % 2, n) for n in range(20)] + [numbered(1, 20, size=60)]
    async with running(orders(backends, IN_PIECES)) as qlb:
        send_burst(client, burst, qlb.service)
        octets, control, _ = await receive_message(sockets[1])
        assert octets == b"".join(burst[1::2] + burst[20:])
        assert struct.unpack("=i", control[socket.IPPROTO_UDP, UDP_GRO]) == (100,)


async def test_single_datagrams_in_one_batch_leave_as_one_piece(network: Network) -> None:
    """Datagrams that were sent singly and wait in the queue become one piece for a backend that accepts pieces."""
    sockets, backends = network.pool()
    client = network.socket()
    sockets[0].setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    listener = open_listener(Endpoint("127.0.0.1", 0))
    service = bound_endpoint(listener)
    sent = [numbered(0, n) for n in range(10)]
    for datagram in sent:
        client.sendto(datagram, service)
    plane = BatchPlane([listener.detach()], orders(backends, IN_PIECES), memoryview(bytearray(SIZE_BYTES)))
    plane.start()
    try:
        octets, control, _ = await receive_message(sockets[0])
    finally:
        plane.stop()
    assert octets == b"".join(sent)
    assert struct.unpack("=i", control[socket.IPPROTO_UDP, UDP_GRO]) == (100,)


async def test_more_datagrams_than_one_call_can_send(network: Network) -> None:
    """Several batches for one backend arrive complete and in order."""
    sockets, backends = network.pool()
    client = network.socket()
    sent = [numbered(0, n, size=50) for n in range(600)]
    async with running(orders(backends)) as qlb:
        for start in range(0, 600, 60):
            send_burst(client, sent[start : start + 60], qlb.service)
        for datagram in sent:
            assert (await receive(sockets[0]))[0] == datagram


@pytest.mark.parametrize("wildcard", ["127.0.0.1", "0.0.0.0", "::1", "::"])
async def test_answers_come_back_in_pieces(network: Network, wildcard: str) -> None:
    """A burst of answers reaches the client as one piece, from the address that the client sent to."""
    host = "::1" if ":" in wildcard else "127.0.0.1"
    sockets, backends = network.pool(host=host)
    client = network.socket(host)
    client.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    answers = [b"%050d" % n for n in range(12)] + [b"end"]
    async with running(orders(backends), wildcard) as qlb:
        client.sendto(numbered(0, 0), (host, qlb.service.port))
        _, reply_to = await receive(sockets[0])
        send_burst(sockets[0], answers, Endpoint(*reply_to[:2]))
        octets, control, sender = await receive_message(client)
        assert octets == b"".join(answers)
        assert struct.unpack("=i", control[socket.IPPROTO_UDP, UDP_GRO]) == (50,)
        assert sender[:2] == (host, qlb.service.port)
        assert qlb.slot(layout.BACKEND + layout.RETURNED) == 13


@pytest.mark.parametrize("ecn", [1, 2, 3])
async def test_pieces_retain_their_ecn_bits(network: Network, ecn: int) -> None:
    """Each datagram of a burst has the ECN bits of the burst, in both directions."""
    sockets, backends = network.pool()
    client = network.socket()
    for sock in (client, *sockets):
        ancillary.receive_traffic_class(sock)
    async with running(orders(backends)) as qlb:
        send_burst(client, [numbered(0, n) for n in range(4)], qlb.service, ecn)
        for _ in range(4):
            _, control, reply_to = await receive_message(sockets[0])
            assert control[socket.IPPROTO_IP, socket.IP_TOS][0] == ecn
        send_burst(sockets[0], [b"answer"] * 4, Endpoint(*reply_to), ecn)
        for _ in range(4):
            _, control, _ = await receive_message(client)
            assert control[socket.IPPROTO_IP, socket.IP_TOS][0] == ecn


async def test_a_refusal_is_counted_and_costs_one_packet(network: Network) -> None:
    """After a backend has refused a packet, the next packet is sent again and not dropped."""
    sockets, backends = network.pool()
    client = network.socket()
    sockets[0].close()
    async with running(orders(backends)) as qlb:
        client.sendto(numbered(0, 0), qlb.service)
        await qlb.until(lambda: qlb.outcome(FOUR_PASS.config_id) == 1)
        client.sendto(numbered(0, 1), qlb.service)
        await qlb.until(lambda: qlb.outcome(FOUR_PASS.config_id) == 2)
        assert qlb.send_error("refused") >= 1
        assert qlb.outcome(DROP_SEND_FAILED) == 0


async def test_ecn_bits_are_not_mixed(network: Network) -> None:
    """Datagrams of one client with different ECN bits leave in order, each with its own bits."""
    sockets, backends = network.pool()
    client = network.socket()
    ancillary.receive_traffic_class(sockets[0])
    marks = [0, 2, 2, 3, 0, 0, 2]
    async with running(orders(backends)) as qlb:
        sent = [numbered(0, number) for number in range(len(marks))]
        for datagram, ecn in zip(sent, marks, strict=True):
            ancillary.set_traffic_class(client, ecn)
            client.sendto(datagram, qlb.service)
        for datagram, ecn in zip(sent, marks, strict=True):
            octets, control, _ = await receive_message(sockets[0])
            assert (octets, control[socket.IPPROTO_IP, socket.IP_TOS][0]) == (datagram, ecn)


@pytest.mark.parametrize("offload", [True, False])
async def test_offloads_change_nothing_but_the_calls(network: Network, offload: bool) -> None:
    """With and without GRO and GSO, the same datagrams arrive and the counters are the same."""
    sockets, backends = network.pool()
    client = network.socket()
    listener = open_listener(Endpoint("127.0.0.1", 0))
    service = bound_endpoint(listener)
    memory = memoryview(bytearray(SIZE_BYTES))
    forwarder = core.Forwarder([listener.detach()], memory, offload=offload)
    forwarder.apply(**arguments(orders(backends)))
    thread = threading.Thread(target=forwarder.run)
    thread.start()
    try:
        assert forwarder.offloads() == (offload, offload)
        burst = [numbered(n % 2, n) for n in range(9)]
        send_burst(client, burst, service)
        for index in range(2):
            for datagram in burst[index::2]:
                received, reply_to = await receive(sockets[index])
                assert received == datagram
        send_burst(sockets[1], [b"answer"] * 5, Endpoint(*reply_to))
        for _ in range(5):
            assert (await receive(client))[0] == b"answer"
    finally:
        forwarder.stop()
        thread.join()
        forwarder.close()
    assert Counters(memory).slots[layout.OUTCOME + FOUR_PASS.config_id] == 9


def arguments(wanted: Orders) -> dict[str, object]:
    """Return the arguments of Forwarder.apply()."""
    return {
        "table": compile_table(wanted.snapshot),
        "endpoints": pack_endpoints(wanted.snapshot),
        "flow_table_size": wanted.settings.flow_table_size,
        "flow_timeout_ns": 10**9,
        "max_sessions": wanted.settings.max_sessions,
        "session_timeout_ns": 10**9,
        "gso_to_backends": wanted.settings.gso_to_backends,
    }


@pytest.fixture
def forwarder(network: Network) -> Iterator["core.Forwarder"]:
    """Make a forwarder without orders."""
    made = core.Forwarder([network.socket().detach()], memoryview(bytearray(SIZE_BYTES)))
    yield made
    made.close()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"table": b"none"}, "not a valid table"),
        ({"endpoints": b"short"}, "72 octets"),
        ({"max_sessions": 0}, "max_sessions"),
        ({"flow_table_size": 1 << 30}, "flow_table_size"),
    ],
)
def test_invalid_orders_are_rejected(
    network: Network, forwarder: "core.Forwarder", wrong: dict[str, object], words: str
) -> None:
    """Invalid orders change nothing, and the message names the fault."""
    _, backends = network.pool()
    with pytest.raises(ValueError, match=words):
        forwarder.apply(**(arguments(orders(backends)) | wrong))
    with pytest.raises(RuntimeError, match="after the first apply"):
        forwarder.run()


def test_wrong_descriptors_and_memory_are_rejected(network: Network) -> None:
    """No descriptor, one that is not a socket, or too little memory: an error, and the caller's socket stays open."""
    sock = network.socket()
    memory = memoryview(bytearray(SIZE_BYTES))
    with pytest.raises(ValueError, match="1 to 250"):
        core.Forwarder([], memory)
    with pytest.raises(ValueError, match="octets"):
        core.Forwarder([sock.fileno()], memoryview(bytearray(8)))
    with pytest.raises(OSError, match="Socket operation"), Path("/dev/null").open() as file:
        core.Forwarder([file.fileno()], memory)
    sock.getsockname()


def test_a_closed_forwarder_rejects_calls(forwarder: "core.Forwarder") -> None:
    """After close(), each call except another close() raises an error."""
    forwarder.close()
    forwarder.close()
    for call in (forwarder.run, forwarder.stop, forwarder.offloads):
        with pytest.raises(ValueError, match="closed"):
            call()


async def test_an_overflow_is_counted_when_the_session_closes(network: Network) -> None:
    """Datagrams that overflow an unread session's queue are counted when the session closes."""
    sockets, backends = network.pool()
    client = network.socket()
    listener = open_listener(Endpoint("127.0.0.1", 0))
    service = bound_endpoint(listener)
    counters = Counters(memoryview(bytearray(SIZE_BYTES)))
    forwarder = core.Forwarder([listener.detach()], memoryview(counters.slots).cast("B"))
    forwarder.apply(**arguments(orders(backends)))
    thread = threading.Thread(target=forwarder.run)
    thread.start()
    client.sendto(numbered(0, 0), service)
    _, reply_to = await receive(sockets[0])
    forwarder.stop()
    thread.join()
    flood = sockets[0].getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 1200 + 100  # more than any queue holds
    for _ in range(flood):
        sockets[0].sendto(bytes(1200), reply_to)
    forwarder.close()
    assert 0 < counters.slots[layout.RETURN_OVERFLOWED] < flood
    assert counters.slots[layout.SESSIONS] == 0


def test_stop_may_come_first(network: Network, forwarder: "core.Forwarder") -> None:
    """After stop(), run() returns at once."""
    _, backends = network.pool()
    forwarder.apply(**arguments(orders(backends)))
    forwarder.stop()
    forwarder.run()


async def test_orders_are_applied_under_traffic(network: Network) -> None:
    """During reloads, one configuration or the other decides each datagram, and none is lost."""
    sockets, backends = network.pool()
    client = network.socket()
    async with running(orders(backends)) as qlb:
        for generation in range(2, 40):
            datagram = numbered(0, generation)
            client.sendto(datagram, qlb.service)
            size = SETTINGS.flow_table_size + generation % 3
            qlb.plane.apply(orders(backends, replace(SETTINGS, flow_table_size=size), generation))
            assert (await receive(sockets[0]))[0] == datagram
        assert qlb.slot(layout.SESSIONS) == 1


def test_ports_are_shared_among_backends() -> None:
    """With 9 local ports, one of them left for other programs, 3 backends have 24 sessions, and all of them work."""

    async def work() -> None:
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("50000 50008")
        network = Network()
        with network.stack:
            sockets, backends = network.pool(ports=range(40000, 40003))
            clients = [network.socket(port=port) for port in range(41000, 41008)]
            async with running(orders(backends, replace(SETTINGS, max_sessions=100)), port=42000) as qlb:
                addresses = {}
                for client in clients:
                    for index, sock in enumerate(sockets):
                        client.sendto(numbered(index, 0), qlb.service)
                        addresses[client, sock] = (await receive(sock))[1]
                assert qlb.slot(layout.SESSIONS) == 24
                assert len({(sock, address) for (_, sock), address in addresses.items()}) == 24
                assert {address[1] for address in addresses.values()} <= set(range(50000, 50009))
                for (client, sock), address in addresses.items():
                    sock.sendto(b"%d" % address[1], address)
                    assert (await receive(client))[0] == b"%d" % address[1]
                one_more = network.socket(port=41100)
                one_more.sendto(last := numbered(0, 1), qlb.service)
                assert (await receive(sockets[0]))[0] == last
                assert qlb.slot(layout.SESSIONS) == 24
                assert qlb.slot(layout.SESSIONS_EVICTED) == 1

    in_a_network_of_its_own(work)


async def test_without_descriptors_the_idlest_session_is_evicted(network: Network) -> None:
    """Each new session evicts another one if the process can open no more files, and no packet is lost."""
    sockets, backends = network.pool()
    clients = [network.socket() for _ in range(12)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    listener = open_listener(Endpoint("127.0.0.1", 0))
    service = bound_endpoint(listener)
    counters = Counters(memoryview(bytearray(SIZE_BYTES)))
    forwarder = core.Forwarder([listener.detach()], memoryview(counters.slots).cast("B"))
    forwarder.apply(**arguments(orders(backends, replace(SETTINGS, max_sessions=100))))
    thread = threading.Thread(target=forwarder.run)
    thread.start()
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    fillers = [os.dup(0) for _ in range(highest + 1 - len(list(Path("/proc/self/fd").iterdir())))]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 5, hard))
        for number, client in enumerate(clients):
            client.sendto(datagram := numbered(0, number), service)
            assert (await receive(sockets[0]))[0] == datagram
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for filler in fillers:
            os.close(filler)
        forwarder.stop()
        thread.join()
        forwarder.close()
    assert 0 < counters.slots[layout.SESSIONS_EVICTED] < len(clients)
    assert counters.slots[layout.OUTCOME + FOUR_PASS.config_id] == len(clients)


def test_pieces_too_long_for_the_path_are_sent_singly() -> None:
    """If some datagrams of a piece exceed the path's MTU, the others are still sent."""

    async def work() -> None:
        network = Network()
        with network.stack:
            sockets, backends = network.pool()
            client = network.socket()
            listener = open_listener(Endpoint("127.0.0.1", 0))
            service = bound_endpoint(listener)
            short = numbered(0, 3, 1000)
            send_burst(client, [numbered(0, n, 1400) for n in range(3)] + [short], service)
            subprocess.run(["ip", "link", "set", "lo", "mtu", "1300"], check=True)
            memory = memoryview(bytearray(SIZE_BYTES))
            plane = BatchPlane([listener.detach()], orders(backends), memory)
            plane.start()
            try:
                assert (await receive(sockets[0]))[0] == short
            finally:
                plane.stop()
            counters = Counters(memory)
            slots = counters.slots
            assert slots[layout.OUTCOME + DROP_SEND_FAILED] == 3
            assert slots[layout.OUTCOME + FOUR_PASS.config_id] == 1
            assert sums.total_backend_send_errors([counters], 0)["too_large"] >= 3
            assert sums.last_too_large_bytes([counters], 0) == 1400

    in_a_network_of_its_own(work)
