"""The probe ``quic`` over real sockets on loopback, with a real server and with false ones."""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import uvloop
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import encode_quic_version_negotiation

from qlb.addresses import Endpoint
from qlb.demo.http3 import make_certificate
from qlb.health import version_negotiation
from qlb.health.probe import ProbeResult, Target
from qlb.health.version_negotiation import explain_error, failure
from qlb.wire import invariants
from qlb.wire.versions import PROBE_BYTES, PROBE_VERSION, V1, V2

PATIENCE_S = 90.0
SHORT_S = 0.05
"""A timeout of probes that get no answer."""
GENEROUS_S = 2.0
"""A timeout that ends, but only after a busy machine has delivered the datagrams."""
Loop = Callable[[], asyncio.AbstractEventLoop]
Answer = Callable[[bytes, bytes], list[bytes]]
"""(dcid, scid) of a probe → the datagrams that a false server sends back."""

LOOPS = pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
HOSTS = pytest.mark.parametrize("host", ["127.0.0.1", "::1"])


async def probe_version_negotiation(endpoint: Endpoint, timeout_s: float) -> ProbeResult:
    """Probe the server at an address."""
    return await version_negotiation.probe_version_negotiation(Target("a", endpoint), timeout_s)


def run(loop: Loop, main: Any) -> Any:
    """Run a coroutine on a fresh event loop of one kind."""
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(main)


class FalseServer(asyncio.DatagramProtocol):
    """A UDP server that stores the probes and sends the answers of the test."""

    def __init__(self, answer: Answer) -> None:
        """answer: returns the datagrams to send for a probe."""
        self.answer = answer
        self.probes: list[bytes] = []
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Store the probe and answer it."""
        self.probes.append(data)
        _, _, dcid, scid = invariants.parse(data)
        for datagram in self.answer(dcid, scid):
            self.transport.sendto(datagram, addr)

    @property
    def endpoint(self) -> Endpoint:
        """The address on which it listens."""
        return Endpoint(*self.transport.get_extra_info("sockname")[:2])


@asynccontextmanager
async def false_server(answer: Answer, host: str = "127.0.0.1") -> AsyncIterator[FalseServer]:
    """Run a false server."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: FalseServer(answer), local_addr=(host, 0))
    try:
        yield server
    finally:
        transport.close()


def negotiation(dcid: bytes, scid: bytes, versions: list[int]) -> bytes:
    """Return a Version Negotiation packet with these IDs in its header."""
    return encode_quic_version_negotiation(source_cid=scid, destination_cid=dcid, supported_versions=versions)


def true_answer(dcid: bytes, scid: bytes) -> bytes:
    """Return the answer of a QUIC server to a probe with these IDs."""
    return negotiation(scid, dcid, [V1, V2])


@LOOPS
@HOSTS
def test_a_real_server_is_healthy(loop: Loop, host: str) -> None:
    """An unmodified aioquic server answers the probe and opens no connection."""

    async def main() -> tuple[ProbeResult, int]:
        certificate, key = make_certificate()
        configuration = QuicConfiguration(is_client=False, certificate=certificate, private_key=key)
        server = await serve(host, 0, configuration=configuration)
        try:
            transport = cast(Any, server)._transport
            endpoint = Endpoint(*transport.get_extra_info("sockname")[:2])
            return await probe_version_negotiation(endpoint, PATIENCE_S), len(cast(Any, server)._protocols)
        finally:
            server.close()

    result, connections = run(loop, main())
    assert result == ProbeResult(ok=True, detail="it answers; it speaks v1, v2", reached=True)
    assert connections == 0


@LOOPS
@HOSTS
def test_no_process_listens(loop: Loop, host: str) -> None:
    """A refused probe fails at once, long before the timeout, and the detail names the reason."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as closed:
        closed.bind((host, 0))
        endpoint = Endpoint(host, closed.getsockname()[1])

    async def main() -> ProbeResult:
        async with asyncio.timeout(PATIENCE_S):
            return await probe_version_negotiation(endpoint, 1000.0)

    result = run(loop, main())
    assert not result.ok
    assert result.detail == f"connection refused (ECONNREFUSED): nothing listens on UDP {endpoint}"


@LOOPS
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(lambda dcid, scid: negotiation(dcid, scid, [V1]), id="IDs not exchanged"),
        pytest.param(lambda dcid, _: negotiation(b"another", dcid, [V1]), id="wrong destination"),
        pytest.param(lambda _, scid: negotiation(scid, b"another", [V1]), id="wrong source"),
        pytest.param(lambda dcid, scid: negotiation(scid, dcid, [V1, PROBE_VERSION]), id="lists our version"),
        pytest.param(lambda dcid, scid: negotiation(scid, dcid, []), id="no versions"),
        pytest.param(lambda dcid, scid: true_answer(dcid, scid)[:-1], id="truncated"),
        pytest.param(lambda _dcid, _scid: b"", id="empty"),
        pytest.param(lambda _dcid, _scid: b"HTTP/1.1 400 Bad Request\r\n\r\n", id="another protocol"),
        pytest.param(lambda _dcid, _scid: os.urandom(1200), id="random"),
    ],
)
def test_a_false_answer_is_ignored(loop: Loop, answer: Callable[[bytes, bytes], bytes]) -> None:
    """A datagram that does not answer this packet is ignored; the true answer after it counts."""

    async def ask(with_true_answer: bool) -> ProbeResult:
        def both(dcid: bytes, scid: bytes) -> list[bytes]:
            return [answer(dcid, scid), *([true_answer(dcid, scid)] if with_true_answer else [])]

        async with false_server(both) as server:
            return await probe_version_negotiation(server.endpoint, PATIENCE_S if with_true_answer else SHORT_S)

    assert run(loop, ask(with_true_answer=True)).ok
    alone = run(loop, ask(with_true_answer=False))
    assert not alone.ok
    assert "no answer from UDP 127.0.0.1:" in alone.detail


@LOOPS
def test_silence_ends_with_the_timeout(loop: Loop) -> None:
    """A probe of a silent server fails after the timeout, and the detail gives the length of the wait."""

    async def main() -> tuple[ProbeResult, Endpoint]:
        async with false_server(lambda _dcid, _scid: []) as server, asyncio.timeout(PATIENCE_S):
            return await probe_version_negotiation(server.endpoint, SHORT_S), server.endpoint

    result, endpoint = run(loop, main())
    detail = f"no answer from UDP {endpoint} within 0.05 s"
    assert result == ProbeResult(ok=False, detail=detail, doubtful=True, silent=True)


@pytest.mark.slow
async def test_ignored_datagrams_are_counted() -> None:
    """The detail gives the number of ignored datagrams: a server of another protocol may listen there."""
    async with false_server(lambda _dcid, _scid: [b"x", b"y"]) as server:
        result = await probe_version_negotiation(server.endpoint, GENEROUS_S)
    assert result.detail.endswith("within 2 s; 2 other datagrams came")


@LOOPS
def test_each_probe_is_fresh(loop: Loop) -> None:
    """No two probes share IDs, each has the size that servers require, and a second answer is ignored."""

    async def main() -> tuple[list[ProbeResult], list[bytes]]:
        async with false_server(lambda dcid, scid: [true_answer(dcid, scid)] * 2) as server:
            return [await probe_version_negotiation(server.endpoint, PATIENCE_S) for _ in range(3)], server.probes

    results, probes = run(loop, main())
    assert all(result.ok for result in results)
    ids = [invariants.parse(probe)[2:] for probe in probes]
    assert len({cid for pair in ids for cid in pair}) == 6
    assert {len(cid) for pair in ids for cid in pair} == {8}
    assert {len(probe) for probe in probes} == {PROBE_BYTES}


async def test_a_long_list_of_versions_is_shortened() -> None:
    """A hostile server cannot fill the status page with versions."""
    many = [0x0A0A0A0A, *range(1000, 1300)]
    async with false_server(lambda dcid, scid: [negotiation(scid, dcid, many)]) as server:
        result = await probe_version_negotiation(server.endpoint, PATIENCE_S)
    assert result.ok
    assert result.detail.endswith("0x000003ea, …")
    assert len(result.detail) < 100


@LOOPS
def test_no_socket_stays_open(loop: Loop) -> None:
    """An answer, a refusal, silence and a cancellation leave no open file."""

    async def probe_in_every_way() -> None:
        async with false_server(lambda dcid, scid: [true_answer(dcid, scid)]) as server:
            await probe_version_negotiation(server.endpoint, PATIENCE_S)
            refused = server.endpoint
        await asyncio.sleep(0)
        await probe_version_negotiation(refused, PATIENCE_S)
        asked = asyncio.Event()

        def note(_dcid: bytes, _scid: bytes) -> list[bytes]:
            asked.set()
            return []

        async with false_server(note) as server:
            await probe_version_negotiation(server.endpoint, SHORT_S)
            asked.clear()
            task = asyncio.create_task(probe_version_negotiation(server.endpoint, PATIENCE_S))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for ticks in range(4):
                task = asyncio.create_task(probe_version_negotiation(server.endpoint, PATIENCE_S))
                for _ in range(ticks):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        for _ in range(4):
            await asyncio.sleep(0)

    async def main() -> tuple[int, int]:
        await probe_in_every_way()
        before = len(list(Path("/dev/fd").iterdir()))
        await probe_in_every_way()
        return before, len(list(Path("/dev/fd").iterdir()))

    before, after = run(loop, main())
    assert after == before


@LOOPS
def test_an_address_that_cannot_be_sent_to(loop: Loop) -> None:
    """If the operating system refuses to send, the probe fails at once with the system's error text."""
    endpoint = Endpoint("255.255.255.255", 9)  # broadcast, for which a socket needs an option
    result = run(loop, probe_version_negotiation(endpoint, PATIENCE_S))
    assert not result.ok
    assert result.detail.startswith("UDP 255.255.255.255:9 cannot be reached: ")
    assert explain_error(endpoint, OSError(113, "No route to host")).endswith("[Errno 113] No route to host")


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENFILE, errno.ENOBUFS])
async def test_an_error_of_this_node_is_no_result(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of this node is no result for the backend. The probe names the error."""

    def fail(_: Endpoint) -> socket.socket:
        raise OSError(number, "not for a probe")

    monkeypatch.setattr(version_negotiation, "connected", fail)
    result = await probe_version_negotiation(Endpoint("192.0.2.1", 443), PATIENCE_S)
    assert (result.ok, result.void, result.error) == (False, True, errno.errorcode[number])
    assert "this node's own error" in result.detail


def test_a_blocked_packet_names_the_firewall() -> None:
    """EPERM counts only in a row with others. The detail names the firewall, not a missing permission."""
    result = failure(Endpoint("192.0.2.1", 443), PermissionError(errno.EPERM, "Operation not permitted"))
    assert (result.ok, result.void, result.doubtful, result.error) == (False, False, True, "EPERM")
    assert "a local firewall rule, or a full connection tracking table" in result.detail


def test_an_interface_that_is_not_there_is_named() -> None:
    """A probe of a link-local backend whose interface does not exist raises ENODEV and names the interface."""
    with pytest.raises(OSError, match="there is no network interface none0") as caught:
        version_negotiation.connected(Endpoint("fe80::1%none0", 443))
    assert caught.value.errno == errno.ENODEV
