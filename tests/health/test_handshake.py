"""The probe ``handshake`` with real servers (right IDs, wrong IDs, none) and with false servers."""

import asyncio
import gc
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvloop
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve as serve_plainly
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from qlb.adapters.aioquic import RoutableServer, routable_configuration, serve
from qlb.addresses import Endpoint
from qlb.cid import CidCodec, CidGenerator, CidParams
from qlb.demo.http3 import Certificate, make_certificate
from qlb.health.handshake import probe_handshake
from qlb.health.probe import Pool, ProbeResult, Target

PATIENCE_S = 90.0
SHORT_S = 0.05
PROCESSES_TIMEOUT_S = 8.0
"""A packet that gets no answer costs an eighth of it."""
KEY = bytes(range(16))
PARAMS = CidParams(1, 4, 12, KEY)
OWN, OTHER = b"\xc0\xff\xee\x01", b"\xc0\xff\xee\x02"
POOL = Pool({1: CidCodec(PARAMS)}, {(1, OWN): "a", (1, OTHER): "b"})
PROBES = 10


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    """One certificate for all servers."""
    return make_certificate()


@asynccontextmanager
async def server(
    certificate: Certificate,
    generator: CidGenerator | None,
    *,
    host: str = "127.0.0.1",
    retry: bool = False,
    alpn: str = "h3",
) -> AsyncIterator[Endpoint]:
    """Run an aioquic server. generator: None = the server issues aioquic's own IDs."""
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=[alpn],
        certificate=certificate.certificate,
        private_key=certificate.private_key,
    )
    if generator is None:
        running = await serve_plainly(host, 0, configuration=configuration, retry=retry)
    else:
        running = await serve(host, 0, configuration=configuration, generator=generator, retry=retry)
    try:
        yield Endpoint(*running._transport.get_extra_info("sockname")[:2])  # type: ignore[union-attr]
    finally:
        running.close()


def descriptors() -> int:
    """Return the number of open files of this process."""
    return len(list(Path("/proc/self/fd").iterdir()))


def target(endpoint: Endpoint, *, quic_lb: bool = True) -> Target:
    """Return the target of a server that should have the server ID OWN."""
    return Target("a", endpoint, {1: (OWN,)} if quic_lb else {}, POOL, ("h3",))


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_server_with_its_own_ids(loop: Callable[[], Any], host: str, certificate: Certificate) -> None:
    """The probe checks all IDs of the server: those of the handshake and those for later paths."""

    async def main() -> ProbeResult:
        async with server(certificate, CidGenerator(PARAMS, OWN), host=host) as endpoint:
            return await probe_handshake(target(endpoint), PATIENCE_S)

    with asyncio.Runner(loop_factory=loop) as runner:
        result = runner.run(main())
    assert result == ProbeResult(
        ok=True,
        detail="it completes a handshake; all of its 8 connection IDs are its own (config 1)",
        reached=True,
        own_ids=True,
        moves=True,
    )


async def test_a_server_that_validates_addresses(certificate: Certificate) -> None:
    """The probe answers a Retry and checks its ID too."""
    async with server(certificate, CidGenerator(PARAMS, OWN), retry=True) as endpoint:
        result = await probe_handshake(target(endpoint), PATIENCE_S)
    assert result.ok
    assert "9 connection IDs" in result.detail


@pytest.mark.parametrize(
    ("generator", "text"),
    [
        (
            CidGenerator(PARAMS, OTHER),
            "decodes under config 1 to server ID c0ffee02, b's; expected c0ffee01 (config 1)",
        ),
        (
            CidGenerator(CidParams(1, 4, 12, KEY[::-1]), OWN),
            "no backend's (has the server another key?); expected c0ffee01",
        ),
        (CidGenerator(CidParams(3, 4, 12, KEY), OWN), "carries config ID 3, which is not configured here"),
        (CidGenerator(CidParams(1, 4, 8, KEY), OWN), "is too short for config 1: 13 octets"),
    ],
    ids=["another's ID", "another key", "another config", "other lengths"],
)
async def test_a_server_with_wrong_ids(certificate: Certificate, generator: CidGenerator, text: str) -> None:
    """The first probe finds a wrong ID. The finding gives the expected server ID and the actual one."""
    async with server(certificate, generator) as endpoint:
        result = await probe_handshake(target(endpoint), PATIENCE_S)
    assert (result.ok, result.reached, result.doubtful) == (False, True, False)
    assert text in result.finding == result.detail


async def test_a_server_without_quic_lb(certificate: Certificate) -> None:
    """For a backend without server IDs only the handshake counts. If it should have one, the probe has a finding."""
    async with server(certificate, None) as endpoint:
        plain = await probe_handshake(target(endpoint, quic_lb=False), PATIENCE_S)
        assert plain == ProbeResult(ok=True, detail="it completes a handshake", reached=True)
        assert (await probe_handshake(target(endpoint), PATIENCE_S)).finding


async def test_no_protocol_in_common(certificate: Certificate) -> None:
    """A server that ends the handshake with a TLS alert is alive. The detail names the setting to change."""
    async with server(certificate, CidGenerator(PARAMS, OWN), alpn="hq-interop") as endpoint:
        result = await probe_handshake(target(endpoint), PATIENCE_S)
    assert result.ok
    assert "TLS alert 120: set health.alpn" in result.detail
    assert "are its own" in result.detail
    async with server(certificate, CidGenerator(PARAMS, OTHER), alpn="hq-interop") as endpoint:
        assert "b's" in (await probe_handshake(target(endpoint), PATIENCE_S)).finding


@asynccontextmanager
async def processes(
    certificate: Certificate,
    count: int,
    protocol: type[RoutableServer] = RoutableServer,
    create_protocol: Callable[..., QuicConnectionProtocol] = QuicConnectionProtocol,
) -> AsyncIterator[Endpoint]:
    """Run servers that share one port and one server ID, as the processes of one program do."""
    loop, port, generator = asyncio.get_running_loop(), 0, CidGenerator(PARAMS, OWN)
    configuration = routable_configuration(
        QuicConfiguration(
            is_client=False,
            alpn_protocols=["h3"],
            certificate=certificate.certificate,
            private_key=certificate.private_key,
        ),
        generator,
    )
    transports = []
    for _ in range(count):
        transport, _ = await loop.create_datagram_endpoint(
            lambda: protocol(configuration=configuration, generator=generator, create_protocol=create_protocol),
            local_addr=("127.0.0.1", port),
            reuse_port=True,
        )
        port = transport.get_extra_info("sockname")[1]
        transports.append(transport)
    try:
        yield Endpoint("127.0.0.1", port)
    finally:
        for transport in transports:
            transport.close()


async def test_several_processes_on_one_port(certificate: Certificate) -> None:
    """Packets from other ports that another process receives get no answer. That is no bad result by itself."""
    async with processes(certificate, 8) as endpoint:
        found = [await probe_handshake(target(endpoint), PROCESSES_TIMEOUT_S) for _ in range(4)]
    assert {(one.ok, one.own_ids, one.finding) for one in found} == {(True, True, "")}
    assert [one.moves for one in found].count(False) >= 2


async def test_one_process_answers_from_all_ports(certificate: Certificate) -> None:
    """The same server alone answers from every port, in each probe."""
    async with processes(certificate, 1) as endpoint:
        found = [await probe_handshake(target(endpoint), PROCESSES_TIMEOUT_S) for _ in range(4)]
    assert [one.moves for one in found] == [True] * 4


class OnePort(RoutableServer):
    """A server that drops packets from other ports than a connection's first one."""

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        """Drop short headers from an address that has sent no long header."""
        self._known = {*getattr(self, "_known", ()), *((addr,) if data[0] >= 0x80 else ())}  # type: ignore[operator]
        if addr in self._known:
            super().datagram_received(data, addr)


async def test_a_server_without_address_changes(certificate: Certificate) -> None:
    """A server that ignores other ports is found, unless it has sent disable_active_migration."""

    def pinned(connection: QuicConnection, **arguments: Any) -> QuicConnectionProtocol:
        serialize = connection._serialize_transport_parameters
        connection._serialize_transport_parameters = lambda: serialize() + b"\x0c\x00"  # type: ignore[method-assign]
        return QuicConnectionProtocol(connection, **arguments)

    async with processes(certificate, 1, OnePort) as endpoint:
        assert (await probe_handshake(target(endpoint), PROCESSES_TIMEOUT_S)).moves is False
    async with processes(certificate, 1, OnePort, pinned) as endpoint:
        result = await probe_handshake(target(endpoint), PROCESSES_TIMEOUT_S)
    assert (result.ok, result.own_ids, result.moves) == (True, True, None)


class Mute(RoutableServer):
    """A server that answers nothing after it has seen a packet from another port."""

    def datagram_received(self, data: bytes | str, addr: Any) -> None:
        """Drop everything from the first short header of an unknown address on."""
        self._known = {*getattr(self, "_known", ()), *((addr,) if data[0] >= 0x80 else ())}  # type: ignore[operator]
        self._mute = getattr(self, "_mute", False) or addr not in self._known
        if not self._mute:
            super().datagram_received(data, addr)


async def test_a_server_that_falls_silent_is_no_evidence(certificate: Certificate) -> None:
    """If the first port gets no answer any more, the silence of the others proves nothing."""
    async with processes(certificate, 1, Mute) as endpoint:
        assert (await probe_handshake(target(endpoint), PROCESSES_TIMEOUT_S)).moves is None


async def test_no_process_listens() -> None:
    """The result of a refused probe names the refusal and shows that the host was reached."""
    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    )
    endpoint = Endpoint(*transport.get_extra_info("sockname")[:2])
    transport.close()
    await asyncio.sleep(0)
    result = await probe_handshake(target(endpoint), PATIENCE_S)
    assert (result.ok, result.reached, result.doubtful) == (False, True, False)
    assert "ECONNREFUSED" in result.detail


class Babbler(asyncio.DatagramProtocol):
    """A UDP server that sends the answers of the test to every datagram."""

    def __init__(self, answers: Callable[[bytes], list[bytes]]) -> None:
        """answers: a client's datagram → the datagrams to send back."""
        self._answers = answers

    def connection_made(self, transport: Any) -> None:
        """Store the transport."""
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Answer a datagram."""
        for answer in self._answers(data):
            self._transport.sendto(answer, addr)


def _version_negotiation(data: bytes) -> list[bytes]:
    dcid_len = data[5]
    dcid, rest = data[6 : 6 + dcid_len], data[6 + dcid_len :]
    scid = rest[1 : 1 + rest[0]]
    return [b"\x80" + bytes(4) + bytes((len(scid),)) + scid + bytes((len(dcid),)) + dcid + b"\x1a\x2a\x3a\x4a"]


@pytest.mark.parametrize(
    "answers",
    [
        lambda _: [],
        lambda data: [data],
        lambda _: [os.urandom(size) for size in (1, 20, 1200)],
        lambda _: [b"\xc0\0\0\0\x01\xff" + bytes(300), b"\xf0" + b"\0\0\0\x01" + bytes(3)],
        _version_negotiation,
    ],
    ids=["silence", "echo", "noise", "absurd lengths", "no version in common"],
)
async def test_false_servers(answers: Callable[[bytes], list[bytes]]) -> None:
    """A probe of a false server ends in time with a bad result and a detail."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Babbler(answers), local_addr=("127.0.0.1", 0))
    endpoint = Endpoint(*transport.get_extra_info("sockname")[:2])
    try:
        result = await probe_handshake(target(endpoint), SHORT_S)
    finally:
        transport.close()
    assert not result.ok
    assert result.detail


async def test_nothing_is_left_open(certificate: Certificate, caplog: pytest.LogCaptureFixture) -> None:
    """Many probes leave no open descriptor or task and write nothing to the log."""
    caplog.set_level(logging.DEBUG)
    logging.getLogger("quic").setLevel(logging.ERROR)  # this one belongs to the server
    async with server(certificate, CidGenerator(PARAMS, OWN)) as endpoint:
        await probe_handshake(target(endpoint), PATIENCE_S)
        gc.collect()  # removes leftovers of earlier tests
        await asyncio.sleep(0)  # a transport closes its socket in the loop's next turn
        before = descriptors(), len(asyncio.all_tasks())
        for _ in range(PROBES):
            assert (await probe_handshake(target(endpoint), PATIENCE_S)).ok
        gc.collect()
        await asyncio.sleep(0)
        assert (descriptors(), len(asyncio.all_tasks())) == before
    assert [record for record in caplog.records if record.name.startswith(("quic", "aioquic"))] == []


async def test_a_probe_that_is_cancelled_closes_its_socket() -> None:
    """A probe closes its socket when it is cancelled at any moment."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    endpoint = Endpoint(*transport.get_extra_info("sockname")[:2])
    before = descriptors()
    for turns in range(5):
        task = asyncio.create_task(probe_handshake(target(endpoint), PATIENCE_S))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await asyncio.sleep(0)
    assert descriptors() == before
    transport.close()
