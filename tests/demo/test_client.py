"""The demo client: requests, both kinds of address changes, and failures in bounded time."""

import asyncio
import socket
from typing import Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from qlb.addresses import Endpoint
from qlb.cid import CidCodec, CidParams
from qlb.demo import exchange
from qlb.demo.backends import DemoBackend, serving
from qlb.demo.client import connect, get
from qlb.demo.http3 import BackendProtocol, Certificate, make_certificate
from qlb.errors import BackendError
from qlb.routing.backends import Backend

TIMEOUT_S = 90.0
PARAMS = CidParams(config_id=1, server_id_length=3, nonce_length=9, key=bytes(range(16)))


@pytest.mark.parametrize("name", ["_peer_cid", "_peer_cid_available"])
def test_canary_aioquic_still_has(name: str) -> None:
    """The installed aioquic has the private attributes from which the client learns its server's connection IDs."""
    connection = QuicConnection(configuration=QuicConfiguration())
    assert hasattr(connection, name), f"this aioquic has no QuicConnection.{name}: qlb.demo.client must be adapted"


async def test_get_in_one_call(backends: list[DemoBackend]) -> None:
    """``get`` opens a connection, returns one answer and closes the connection."""
    answer = await get("127.0.0.1", backends[1].endpoint.port, "/", timeout_s=TIMEOUT_S)
    assert answer == (200, "agent-b", b"agent-b\n", 8)


async def test_over_ipv6(certificate: Certificate) -> None:
    """Client and backend work over ::1, with both kinds of address changes."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine cannot bind ::1")
    backend = Backend("six", Endpoint("::1", 0), {1: (b"six",)})
    async with (
        serving([backend], [PARAMS], certificate) as (running,),
        connect("::1", running.endpoint.port, timeout_s=TIMEOUT_S) as client,
    ):
        for new_connection_id in (False, True):
            await client.get("/")
            await client.rebind(new_connection_id=new_connection_id)
            assert (await client.get("/")).backend == "six"


async def test_a_silent_rebinding_keeps_the_connection_id(backends: list[DemoBackend]) -> None:
    """A silent change, as behind a NAT, changes the port and not the destination connection ID."""
    async with connect("127.0.0.1", backends[0].endpoint.port, timeout_s=TIMEOUT_S) as client:
        await client.get("/")
        port, cid = client.local_port, client.server_connection_id
        await client.rebind(new_connection_id=False)
        assert client.local_port != port
        assert client.server_connection_id == cid
        assert (await client.get("/")).backend == "agent-a"


async def test_a_migration_uses_a_new_connection_id(backends: list[DemoBackend]) -> None:
    """A migration changes the port and the destination connection ID. Both IDs decode to the same server ID."""
    async with connect("127.0.0.1", backends[0].endpoint.port, timeout_s=TIMEOUT_S) as client:
        await client.get("/")
        port, cid = client.local_port, client.server_connection_id
        await client.rebind(new_connection_id=True)
        assert client.local_port != port
        assert client.server_connection_id != cid
        assert [CidCodec(PARAMS).decode(one) for one in (cid, client.server_connection_id)] == [b"ida", b"ida"]
        assert (await client.get("/")).backend == "agent-a"


async def test_a_rebinding_during_a_transfer(backends: list[DemoBackend]) -> None:
    """The rest of the answer arrives at the new address."""
    async with connect("127.0.0.1", backends[0].endpoint.port, timeout_s=TIMEOUT_S) as client:
        transfer = client.request("/bytes/300000")
        await transfer.at_least(1)
        assert not transfer.ended
        await client.rebind(new_connection_id=False)
        assert (await transfer.answer()).length == 300_000


async def test_no_spare_id(backends: list[DemoBackend], monkeypatch: pytest.MonkeyPatch) -> None:
    """A migration without a spare ID is an error, and does not become a silent change."""
    monkeypatch.setattr("qlb.demo.client._FIRST_ID_WAIT_S", 0.0001)
    async with connect("127.0.0.1", backends[0].endpoint.port, timeout_s=TIMEOUT_S) as client:
        await client.get("/")
        client._quic._peer_cid_available.clear()
        with pytest.raises(BackendError, match="no spare connection ID"):
            await client.rebind(new_connection_id=True)


async def test_verification_of_the_right_certificate(backends: list[DemoBackend], certificate: Certificate) -> None:
    """A server with the trusted certificate is accepted under each of the certificate's names."""
    port = backends[0].endpoint.port
    for host in ("127.0.0.1", "localhost"):
        if host == "localhost" and (await _first_address(host)) != "127.0.0.1":
            continue
        assert (await get(host, port, "/", trust=certificate.pem, timeout_s=TIMEOUT_S)).status == 200


async def test_verification_of_another_certificate(backends: list[DemoBackend]) -> None:
    """A server with another certificate is refused."""
    with pytest.raises(BackendError, match="no connection"):
        await get("127.0.0.1", backends[0].endpoint.port, trust=make_certificate().pem, timeout_s=TIMEOUT_S)


async def test_no_server(taken: socket.socket) -> None:
    """A server that does not answer is an error within the timeout."""
    with pytest.raises(BackendError, match=r"no connection within 0\.1 s"):
        await get("127.0.0.1", taken.getsockname()[1], timeout_s=0.1)


async def test_no_such_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name without an address is an error that contains the name."""

    async def resolve(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    with pytest.raises(BackendError, match=r"no address for nowhere\.invalid: Name or service"):
        await get("nowhere.invalid", 443)


async def test_a_server_that_goes_away(certificate: Certificate) -> None:
    """Pending and later requests fail at once with the reason."""
    async with (
        serving([Backend("brief", Endpoint("127.0.0.1", 0))], [], certificate) as (running,),
        connect("127.0.0.1", running.endpoint.port, timeout_s=TIMEOUT_S) as client,
    ):
        transfer = client.request("/bytes/50000000")
        await transfer.at_least(1)
        running.server.close()
        with pytest.raises(BackendError, match=r"GET /bytes/50000000 not .* the connection ended with code 0"):
            await transfer.answer()
        with pytest.raises(BackendError, match="GET / not answered in full: the connection ended"):
            await client.get("/")
        with pytest.raises(BackendError, match="no answer to a ping: the connection ended"):
            await client.rebind(new_connection_id=False)


async def test_a_stream_that_the_server_resets(backends: list[DemoBackend]) -> None:
    """The request fails, and the connection continues."""
    async with connect("127.0.0.1", backends[0].endpoint.port, timeout_s=TIMEOUT_S) as client:
        transfer = client.request("/bytes/50000000")
        await transfer.at_least(1)
        (protocol,) = set(backends[0].server._protocols.values())
        assert isinstance(protocol, BackendProtocol)
        protocol._octets_to_write.clear()
        protocol._quic.reset_stream(0, 7)
        protocol.transmit()
        with pytest.raises(BackendError, match="reset the stream with code 7"):
            await transfer.answer()
        assert (await client.get("/")).status == 200


async def test_an_answer_that_stops(steered_port: int, backends: list[DemoBackend]) -> None:
    """The wait for the rest of an answer is bounded, and the error contains the requested number of octets."""
    async with connect("127.0.0.1", steered_port, timeout_s=TIMEOUT_S) as client:
        transfer = client.request("/bytes/50000000")
        await transfer.at_least(1)
        transfer._waits._timeout_s = 0.3
        (protocol,) = {protocol for backend in backends for protocol in backend.server._protocols.values()}
        assert isinstance(protocol, BackendProtocol)
        protocol._octets_to_write.clear()
        with pytest.raises(BackendError, match=r"not answered with 49999999 octets within 0\.3 s"):
            await transfer.at_least(49_999_999)


async def test_a_client_that_waits_keeps_sending(monkeypatch: pytest.MonkeyPatch) -> None:
    """While no event comes, the client sends pings, from which a server learns its current address."""
    monkeypatch.setattr(exchange, "KEEP_ALIVE_S", 0.001)
    nudges: list[None] = []
    await exchange.Waits(TIMEOUT_S, lambda: nudges.append(None)).until(lambda: len(nudges) == 3, "nothing")


async def _first_address(host: str) -> str:
    infos = await asyncio.get_running_loop().getaddrinfo(host, 1, type=socket.SOCK_DGRAM)
    return str(infos[0][4][0])
