"""Tests of the aioquic adapter: every connection ID that an unmodified aioquic server issues is routable."""

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve as aioquic_serve
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicNetworkPath
from aioquic.quic.events import ConnectionTerminated, QuicEvent
from aioquic.quic.packet import QuicErrorCode, QuicPacketType, pull_quic_header, pull_quic_transport_parameters

from qlb.adapters import aioquic as adapter
from qlb.cid import CidCodec, CidGenerator, CidParams, CidSource, RotatingCidGenerator, reserved_cid
from qlb.demo.http3 import make_certificate
from qlb.errors import CidError, NonceExhausted, QlbError

KEY = bytes(range(16))
SERVER_ID = bytes.fromhex("c0ffee01")
FOUR_PASS = CidParams(config_id=2, server_id_length=4, nonce_length=7, key=KEY)
SHAPES = {
    "plaintext": CidParams(config_id=0, server_id_length=4, nonce_length=6),
    "single-pass": CidParams(config_id=1, server_id_length=4, nonce_length=12, key=KEY),
    "four-pass, odd": FOUR_PASS,
    "four-pass, even, longest": CidParams(config_id=3, server_id_length=4, nonce_length=14, key=KEY),
    "four-pass, short": CidParams(config_id=5, server_id_length=4, nonce_length=4, key=KEY),
    "padded, self-encoding": CidParams(4, 4, 8, KEY, length_self_encoded=True, cid_length=20),
}
TIMEOUT_S = 90.0


class ShortSource:
    """A source with few nonces, which then raises NonceExhausted or issues reserved IDs."""

    def __init__(self, count: int, *, params: CidParams = FOUR_PASS, reserved: bool = False) -> None:
        """Start with ``count`` nonces."""
        self.params = params
        self.left = count
        self._generator = CidGenerator(params, bytes(SERVER_ID[: params.server_id_length]))
        self._reserved = reserved

    def generate(self) -> bytes:
        """Return an ID and count down; without nonces, return a reserved ID or raise NonceExhausted."""
        if self.left:
            self.left -= 1
            return self._generator.generate()
        if self._reserved:
            return reserved_cid(max(self.params.cid_length, 8))
        raise NonceExhausted("all 3 nonces are used")


class WatchingClient(QuicConnectionProtocol):
    """A client that stores the event that ended its connection."""

    ended: ConnectionTerminated | None = None

    def quic_event_received(self, event: QuicEvent) -> None:
        """Record the ConnectionTerminated event."""
        if isinstance(event, ConnectionTerminated):
            self.ended = event


def retry_id(datagram: bytes) -> bytes:
    """Return the Source Connection ID of a Retry packet."""
    header = pull_quic_header(Buffer(data=datagram), host_cid_length=FOUR_PASS.cid_length)
    assert header.packet_type == QuicPacketType.RETRY
    assert header.source_cid is not None
    return header.source_cid


def retrying_server(source: CidSource, configuration: QuicConfiguration, *, initials: int) -> "FakeTransport":
    """Send first Initials from different addresses to a server with Retry; return its transport."""
    fitting = adapter.routable_configuration(configuration, source)
    server = adapter.RoutableServer(configuration=fitting, generator=source, retry=True)
    transport = FakeTransport()
    server.connection_made(transport)
    client = QuicConnection(configuration=client_configuration())
    client.connect(("192.0.2.1", 4433), now=0.0)
    initial = client.datagrams_to_send(now=0.0)[0][0]
    for port in range(1000, 1000 + initials):
        server.datagram_received(initial, ("198.51.100.1", port))
    assert server._protocols == {}
    return transport


class FakeTransport(asyncio.DatagramTransport):
    """A transport that stores the sent datagrams."""

    def __init__(self) -> None:
        """Start with no datagrams."""
        super().__init__()
        self.sent: list[tuple[bytes, Any]] = []

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Record the datagram and its address."""
        self.sent.append((bytes(data), addr))


@pytest.fixture(scope="module")
def server_configuration() -> QuicConfiguration:
    """Return a server configuration in the usual form, without connection_id_length."""
    made = make_certificate()
    return QuicConfiguration(
        is_client=False, alpn_protocols=["test"], certificate=made.certificate, private_key=made.private_key
    )


@pytest.fixture(autouse=True)
async def loop_errors() -> AsyncIterator[None]:
    """Fail every test in which a callback of the event loop raises."""
    errors: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(str(context)))
    yield
    assert errors == []


def client_configuration() -> QuicConfiguration:
    """Return a client configuration without verification; a short round-trip estimate shortens the closing phase."""
    return QuicConfiguration(alpn_protocols=["test"], verify_mode=ssl.CERT_NONE, initial_rtt=0.005)


@asynccontextmanager
async def connected(
    configuration: QuicConfiguration, source: CidSource, *, host: str = "127.0.0.1", retry: bool = False
) -> AsyncIterator[tuple[QuicConnectionProtocol, adapter.RoutableServer]]:
    """Yield an unmodified client after one round trip, and the server that it reached."""
    server = await adapter.serve(host, 0, configuration=configuration, generator=source, retry=retry)
    try:
        async with (
            asyncio.timeout(TIMEOUT_S),
            connect(host, server.address[1], configuration=client_configuration()) as client,
        ):
            await client.ping()
            yield client, server
    finally:
        server.close()


async def refused(port: int) -> WatchingClient:
    """Connect to a server that refuses connections; return the client after the end."""
    clients: list[WatchingClient] = []

    def create(connection: QuicConnection, **arguments: Any) -> WatchingClient:
        clients.append(WatchingClient(connection, **arguments))
        return clients[0]

    async with asyncio.timeout(TIMEOUT_S):
        with pytest.raises(ConnectionError):
            async with connect("127.0.0.1", port, configuration=client_configuration(), create_protocol=create):
                pytest.fail("connected")
    return clients[0]


def current_id(client: QuicConnectionProtocol) -> bytes:
    """Return the ID that the client currently sends to."""
    return client._quic._peer_cid.cid


def spare_ids(client: QuicConnectionProtocol) -> list[bytes]:
    """Return the IDs that the client received in NEW_CONNECTION_ID frames and has not used yet."""
    return [spare.cid for spare in client._quic._peer_cid_available]


def server_connection(configuration: QuicConfiguration) -> QuicConnection:
    """Return a connection as aioquic's server creates it for a first Initial."""
    return QuicConnection(configuration=configuration, original_destination_connection_id=bytes(8))


@pytest.mark.parametrize("name", adapter.RELIES_ON)
def test_canary_aioquic_still_has(name: str) -> None:
    """Each private attribute of aioquic that the adapter relies on exists."""
    assert name not in adapter.missing_attributes(), f"this aioquic has no {name}: qlb.adapters.aioquic must be adapted"


def test_an_aioquic_without_one_of_them_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A release without one of them is rejected by name; it would silently ignore the adapter's IDs."""
    monkeypatch.setattr(
        "qlb.adapters.aioquic.connection.RELIES_ON", ("QuicConnection._host_cids", "QuicConnection._gone")
    )
    with pytest.raises(QlbError, match=r"has no QuicConnection\._gone;"):
        adapter.routable(QuicConnectionProtocol, ShortSource(1))


@pytest.mark.parametrize("params", SHAPES.values(), ids=SHAPES.keys())
async def test_every_id_of_a_connection_is_routable(params: CidParams, server_configuration: QuicConfiguration) -> None:
    """The first SCID and all seven NEW_CONNECTION_IDs decode to the server ID and differ."""
    async with connected(server_configuration, CidGenerator(params, SERVER_ID)) as (client, _):
        ids = [current_id(client), *spare_ids(client)]
    assert len(set(ids)) == 8
    assert {len(cid) for cid in ids} == {params.cid_length}
    assert list(map(CidCodec(params).decode, ids)) == [SERVER_ID] * 8


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_both_address_families(host: str, server_configuration: QuicConfiguration) -> None:
    """The adapter's server answers over IPv4 and over IPv6."""
    if not can_bind(host):
        pytest.skip(f"this machine cannot bind {host}")
    async with connected(server_configuration, CidGenerator(FOUR_PASS, SERVER_ID), host=host) as (client, server):
        assert CidCodec(FOUR_PASS).decode(current_id(client)) == SERVER_ID
        assert server.address[0] == host


async def test_changing_the_id_again_and_again(server_configuration: QuicConfiguration) -> None:
    """A client that uses up its IDs receives new routable ones, which the server knows."""
    seen = []
    async with connected(server_configuration, CidGenerator(FOUR_PASS, SERVER_ID)) as (client, _):
        for _ in range(12):
            seen.append(current_id(client))
            client.change_connection_id()
            await client.ping()
    assert len(set(seen)) == 12
    assert list(map(CidCodec(FOUR_PASS).decode, seen)) == [SERVER_ID] * 12


async def test_the_server_knows_an_id_before_the_client_does(server_configuration: QuicConfiguration) -> None:
    """The first packet with a new ID is accepted, because the ID is registered before it is sent."""
    source = CidGenerator(FOUR_PASS, SERVER_ID)
    server = await adapter.serve("127.0.0.1", 0, configuration=server_configuration, generator=source)
    unknown: list[bytes] = []

    class EagerClient(QuicConnectionProtocol):
        def datagram_received(self, data: Any, addr: Any) -> None:
            super().datagram_received(data, addr)
            unknown.extend(cid for cid in spare_ids(self) if cid not in server._protocols)

    arguments: dict[str, Any] = {"configuration": client_configuration(), "create_protocol": EagerClient}
    try:
        async with asyncio.timeout(TIMEOUT_S), connect("127.0.0.1", server.address[1], **arguments) as client:
            await client.ping()
            assert len(spare_ids(client)) == 7
    finally:
        server.close()
    assert unknown == []


async def test_retry_is_routable(server_configuration: QuicConfiguration) -> None:
    """The SCID of a Retry and the ID of the following connection are routable."""
    codec = CidCodec(FOUR_PASS)
    async with connected(server_configuration, CidGenerator(FOUR_PASS, SERVER_ID), retry=True) as (client, _):
        retry_scid = client._quic._retry_source_connection_id
        assert retry_scid is not None
        assert codec.decode(retry_scid) == codec.decode(current_id(client)) == SERVER_ID
        assert len(retry_scid) == FOUR_PASS.cid_length
        assert retry_scid != current_id(client)


@pytest.mark.parametrize(("second_port", "accepted"), [(1000, True), (1001, False)])
async def test_a_retry_token_is_valid_for_one_address(
    second_port: int, accepted: bool, server_configuration: QuicConfiguration
) -> None:
    """A Retry token is invalid for another client address."""
    source = CidGenerator(FOUR_PASS, SERVER_ID)
    configuration = adapter.routable_configuration(server_configuration, source)
    server = adapter.RoutableServer(configuration=configuration, generator=source, retry=True)
    transport = FakeTransport()
    server.connection_made(transport)
    client = QuicConnection(configuration=client_configuration())
    client.connect(("192.0.2.1", 4433), now=0.0)
    server.datagram_received(client.datagrams_to_send(now=0.0)[0][0], ("198.51.100.1", 1000))
    client.receive_datagram(transport.sent[-1][0], ("192.0.2.1", 4433), now=0.0)
    server.datagram_received(client.datagrams_to_send(now=0.0)[0][0], ("198.51.100.1", second_port))
    assert bool(server._protocols) is accepted
    for protocol in set(server._protocols.values()):
        assert protocol._timer is not None
        protocol._timer.cancel()


async def test_a_flood_of_initials_takes_no_nonces_with_retry(server_configuration: QuicConfiguration) -> None:
    """Each Retry has a routable ID of its own, and connections lose no nonces."""
    source = RotatingCidGenerator(CidGenerator(FOUR_PASS, SERVER_ID))
    transport = retrying_server(source, server_configuration, initials=300)
    ids = [retry_id(datagram) for datagram, _ in transport.sent]
    assert len(set(ids)) == 300
    assert list(map(CidCodec(FOUR_PASS).decode, ids)) == [SERVER_ID] * 300
    assert source.used == 0


async def test_retries_of_a_source_without_ids_for_them(server_configuration: QuicConfiguration) -> None:
    """Without IDs for Retry packets, their IDs are unroutable, and no other ID of the source is used."""
    source = ShortSource(3)
    transport = retrying_server(source, server_configuration, initials=5)
    assert {retry_id(datagram)[0] >> 5 for datagram, _ in transport.sent} == {0b111}
    assert len(transport.sent) == 5
    assert source.left == 3


async def test_a_server_without_retry_sets_nothing_aside(server_configuration: QuicConfiguration) -> None:
    """Without Retry, every nonce is available for connections."""
    source = CidGenerator(FOUR_PASS, SERVER_ID)
    configuration = adapter.routable_configuration(server_configuration, source)
    adapter.RoutableServer(configuration=configuration, generator=source)
    assert source.left == 256**FOUR_PASS.nonce_length


@pytest.mark.parametrize("datagram", [b"", b"\xc0", b"\x40" * 1200, b"\xc0\x00\x00\x00\x01\xff" + bytes(1200)])
async def test_retry_ignores_what_is_no_initial(datagram: bytes, server_configuration: QuicConfiguration) -> None:
    """Garbage causes no Retry, no connection and no exception."""
    source = CidGenerator(FOUR_PASS, SERVER_ID)
    configuration = adapter.routable_configuration(server_configuration, source)
    server = adapter.RoutableServer(configuration=configuration, generator=source, retry=True)
    transport = FakeTransport()
    server.connection_made(transport)
    server.datagram_received(datagram, ("198.51.100.1", 1000))
    assert (transport.sent, server._protocols) == ([], {})


def test_the_default_length_is_set_on_a_copy(server_configuration: QuicConfiguration) -> None:
    """A configuration without an ID length is copied, and the user's object does not change."""
    fitting = adapter.routable_configuration(server_configuration, ShortSource(0))
    assert fitting.connection_id_length == FOUR_PASS.cid_length
    assert server_configuration.connection_id_length == 8
    assert fitting.certificate is server_configuration.certificate


def test_a_fitting_configuration_is_used_as_it_is() -> None:
    """A fitting configuration is used itself, so certificates that are loaded later take effect."""
    configuration = QuicConfiguration(is_client=False, connection_id_length=FOUR_PASS.cid_length)
    assert adapter.routable_configuration(configuration, ShortSource(0)) is configuration


async def test_another_length_is_refused(server_configuration: QuicConfiguration) -> None:
    """Another ID length raises CidError before a socket is opened."""
    chosen = QuicConfiguration(is_client=False, connection_id_length=11)
    with pytest.raises(CidError, match=r"connection_id_length is 11, .* have 12 octets"):
        await adapter.serve("127.0.0.1", 0, configuration=chosen, generator=ShortSource(0))
    with pytest.raises(CidError, match="connection_id_length is 8"):
        adapter.RoutableServer(configuration=server_configuration, generator=ShortSource(0))
    with pytest.raises(CidError, match="connection_id_length is 8"):
        adapter.routable(QuicConnectionProtocol, ShortSource(1))(server_connection(server_configuration))


async def test_routable_in_aioquics_own_serve(server_configuration: QuicConfiguration) -> None:
    """A wrapped create_protocol works with aioquic's own serve."""
    source = CidGenerator(FOUR_PASS, SERVER_ID)
    server = await aioquic_serve(
        "127.0.0.1",
        0,
        configuration=adapter.routable_configuration(server_configuration, source),
        create_protocol=adapter.routable(QuicConnectionProtocol, source),
    )
    assert server._transport is not None
    port = server._transport.get_extra_info("sockname")[1]
    configuration = client_configuration()
    try:
        async with asyncio.timeout(TIMEOUT_S), connect("127.0.0.1", port, configuration=configuration) as client:
            await client.ping()
            ids = [current_id(client), *spare_ids(client)]
    finally:
        server.close()
    assert list(map(CidCodec(FOUR_PASS).decode, ids)) == [SERVER_ID] * 8


@pytest.mark.parametrize("retry", [False, True])
async def test_without_nonces_new_connections_are_refused(
    retry: bool, server_configuration: QuicConfiguration, caplog: pytest.LogCaptureFixture
) -> None:
    """Without nonces, clients receive CONNECTION_REFUSED, the log one line, and the user's protocol no call."""
    created: list[QuicConnection] = []

    def create(connection: QuicConnection, **arguments: Any) -> QuicConnectionProtocol:
        created.append(connection)
        return QuicConnectionProtocol(connection, **arguments)

    server = await adapter.serve(
        "127.0.0.1",
        0,
        configuration=server_configuration,
        generator=ShortSource(0),
        create_protocol=create,
        retry=retry,
    )
    try:
        with caplog.at_level(logging.WARNING, logger=adapter.__name__):
            for _ in range(2):
                client = await refused(server.address[1])
                assert client.ended is not None
                assert client.ended.error_code == QuicErrorCode.CONNECTION_REFUSED
    finally:
        server.close()
    assert created == []
    assert [record.message for record in caplog.records if record.name == adapter.__name__] == [
        "refusing new connections from now on: all 3 nonces are used"
    ]


@pytest.mark.parametrize("reserved", [False, True], ids=["raises", "falls over to the reserved config"])
async def test_without_nonces_live_connections_go_on(reserved: bool, server_configuration: QuicConfiguration) -> None:
    """A live connection continues with its IDs and receives no unroutable ones."""
    async with connected(server_configuration, ShortSource(3, reserved=reserved)) as (client, _):
        ids = [current_id(client), *spare_ids(client)]
        assert list(map(CidCodec(FOUR_PASS).decode, ids)) == [SERVER_ID] * 3
        for _ in range(4):
            client.change_connection_id()
            await client.ping()
        assert current_id(client) == ids[-1]
        assert spare_ids(client) == []


async def test_ids_that_could_not_be_issued_leave_no_gap(server_configuration: QuicConfiguration) -> None:
    """An ID that cannot be issued uses no sequence number, because RFC 9000 forbids gaps."""
    source = ShortSource(2)
    async with connected(server_configuration, source) as (client, _):
        source.left = 5
        client.change_connection_id()
        await client.ping()
        await client.ping()
        assert [spare.sequence_number for spare in client._quic._peer_cid_available] == [2, 3, 4, 5, 6]


async def test_a_first_id_of_the_reserved_config(server_configuration: QuicConfiguration) -> None:
    """A connection with a reserved first ID works, with this one ID of the usual length."""
    async with connected(server_configuration, ShortSource(0, reserved=True)) as (client, _):
        cid = current_id(client)
        assert cid[0] >> 5 == 7
        assert len(cid) == FOUR_PASS.cid_length == (cid[0] & 0x1F) + 1
        assert spare_ids(client) == []


@pytest.mark.parametrize(("nonces", "stays"), [(0, True), (1, False)])
def test_the_reserved_config_asks_clients_to_stay(
    nonces: int, stays: bool, server_configuration: QuicConfiguration
) -> None:
    """disable_active_migration is sent only if the ID is unroutable."""
    source = ShortSource(nonces, reserved=True)
    connection = server_connection(adapter.routable_configuration(server_configuration, source))
    adapter.install(connection, source)
    connection._version = 1
    sent = pull_quic_transport_parameters(Buffer(data=connection._serialize_transport_parameters()))
    assert bool(sent.disable_active_migration) is stays
    assert sent.initial_source_connection_id == connection.host_cid


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        (adapter.PreferredAddress(ipv4=("192.0.2.7", 443)), (("192.0.2.7", 443), None)),
        (adapter.PreferredAddress(ipv6=("2001:db8::7", 443)), (None, ("2001:db8::7", 443))),
        (
            adapter.PreferredAddress(("192.0.2.7", 443), ("2001:db8::7", 8443)),
            (("192.0.2.7", 443), ("2001:db8::7", 8443)),
        ),
    ],
)
def test_a_preferred_address_has_an_id_of_its_own(
    address: adapter.PreferredAddress, seen: tuple[object, object], server_configuration: QuicConfiguration
) -> None:
    """The preferred address has the second ID of the connection, routable and in no NEW_CONNECTION_ID frame."""
    source = CidGenerator(FOUR_PASS, SERVER_ID)
    connection = server_connection(adapter.routable_configuration(server_configuration, source))
    adapter.install(connection, source, preferred_address=address)
    connection._version = 1
    for _ in range(2):  # aioquic may serialize them more than once; the ID must be the same each time
        sent = pull_quic_transport_parameters(Buffer(data=connection._serialize_transport_parameters()))
        preferred = sent.preferred_address
        assert preferred is not None
        assert (preferred.ipv4_address, preferred.ipv6_address) == seen
        assert preferred.connection_id == connection._host_cids[1].cid != connection.host_cid
        assert preferred.stateless_reset_token == connection._host_cids[1].stateless_reset_token
    assert CidCodec(FOUR_PASS).decode(preferred.connection_id) == SERVER_ID
    connection._remote_active_connection_id_limit = 8
    connection._replenish_connection_ids()
    assert [cid.sequence_number for cid in connection._host_cids] == list(range(8))
    assert [cid.was_sent for cid in connection._host_cids[1:]] == [True] + [False] * 6


@pytest.mark.parametrize(("nonces", "reserved"), [(0, True), (1, True), (1, False)])
def test_without_a_routable_id_no_address_is_preferred(
    nonces: int, reserved: bool, server_configuration: QuicConfiguration
) -> None:
    """Without a routable ID no preferred address is sent."""
    source = ShortSource(nonces, reserved=reserved)
    connection = server_connection(adapter.routable_configuration(server_configuration, source))
    adapter.install(connection, source, preferred_address=adapter.PreferredAddress(ipv4=("192.0.2.7", 443)))
    connection._version = 1
    sent = pull_quic_transport_parameters(Buffer(data=connection._serialize_transport_parameters()))
    assert sent.preferred_address is None
    assert len(connection._host_cids) == 1


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        (adapter.PreferredAddress(), "neither ipv4 nor ipv6"),
        (adapter.PreferredAddress(ipv4=("edge.example", 443)), "edge.example"),
        (adapter.PreferredAddress(ipv4=("2001:db8::7", 443)), "2001:db8::7"),
        (adapter.PreferredAddress(ipv6=("192.0.2.7", 443)), "192.0.2.7"),
        (adapter.PreferredAddress(ipv4=("0.0.0.0", 443)), "is not the address of one host"),
        (adapter.PreferredAddress(ipv4=("224.0.0.1", 443)), "is not the address of one host"),
        (adapter.PreferredAddress(ipv4=("192.0.2.7", 0)), "port 0"),
        (adapter.PreferredAddress(ipv6=("2001:db8::7", 65536)), "port 65536"),
    ],
)
def test_an_address_that_no_client_can_reach(address: adapter.PreferredAddress, problem: str) -> None:
    """An unreachable preferred address raises an error before the first packet."""
    with pytest.raises(CidError, match=re.escape(problem)):
        adapter.routable(QuicConnectionProtocol, ShortSource(1), preferred_address=address)


class TwoSockets:
    """A client's transport that sends from a second socket to one placeholder address."""

    NOWHERE = ("127.0.0.1", 9)

    def __init__(self, client: QuicConnectionProtocol, second: socket.socket, server: Any) -> None:
        """Watch the second socket. server: the address to which both sockets send."""
        assert client._transport is not None
        self._client, self._first, self._second, self._server = client, client._transport, second, server
        asyncio.get_running_loop().add_reader(second, self._read)
        self.received = 0

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send to the server: from the second socket if the address is NOWHERE, otherwise from the first."""
        if tuple(addr[:2]) == self.NOWHERE:
            self._second.sendto(data, self._server)
        else:
            self._first.sendto(data, addr)

    def close(self) -> None:
        """Close the first socket."""
        self._first.close()

    def _read(self) -> None:
        self.received += 1
        self._client.datagram_received(self._second.recv(2048), self.NOWHERE)


@pytest.mark.parametrize("length", [0, 8])
async def test_a_client_tries_another_path_and_takes_it(length: int, server_configuration: QuicConfiguration) -> None:
    """A client with or without IDs of its own can probe a new path and migrate to it."""

    def create(connection: QuicConnection, **more: Any) -> QuicConnectionProtocol:
        if not length:  # aioquic's client would announce more of its empty IDs, which is an error
            connection._replenish_connection_ids = lambda: None  # type: ignore[method-assign]
        return QuicConnectionProtocol(connection, **more)

    arguments: dict[str, Any] = {"configuration": client_configuration(), "create_protocol": create}
    arguments["configuration"].connection_id_length = length
    source = CidGenerator(FOUR_PASS, SERVER_ID)
    server = await adapter.serve("127.0.0.1", 0, configuration=server_configuration, generator=source)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as second:
        second.setblocking(False)
        try:
            async with asyncio.timeout(TIMEOUT_S), connect("127.0.0.1", server.address[1], **arguments) as client:
                await client.ping()
                client._transport = sockets = TwoSockets(client, second, server.address)  # type: ignore[assignment]
                path = QuicNetworkPath(sockets.NOWHERE)
                path.peer_cid = client._quic._peer_cid_available.pop(0)
                client._quic._add_network_path(path)
                client.transmit()
                while client._quic.get_peer_address() != sockets.NOWHERE:
                    await client.ping()
                answers = sockets.received
                for _ in range(3):
                    await client.ping()
                assert sockets.received >= answers + 3
                assert CidCodec(FOUR_PASS).decode(current_id(client)) == SERVER_ID
        finally:
            asyncio.get_running_loop().remove_reader(second)
            server.close()


def test_ids_too_short_for_the_reserved_config(server_configuration: QuicConfiguration) -> None:
    """If no reserved ID has the server's ID length, the connection is refused."""
    params = CidParams(config_id=0, server_id_length=1, nonce_length=4, key=KEY)
    source = ShortSource(0, params=params, reserved=True)
    connection = server_connection(adapter.routable_configuration(server_configuration, source))
    with pytest.raises(NonceExhausted, match="8 or more"):
        adapter.install(connection, source)


def can_bind(host: str) -> bool:
    """Return whether this machine has the address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((host, 0))
    except OSError:
        return False
    return True
