"""The backend side for aioquic: its server issues QUIC-LB connection IDs, and aioquic stays as it is.

aioquic makes its connection IDs in three places: the connection's constructor, the refill that becomes
NEW_CONNECTION_ID frames, and the server's Retry. ``create_protocol`` runs before the server registers the
connection's first ID, so the first two are replaced there, on the one object, and nothing is patched or
forked. Retry is made before a connection exists: only ``serve`` can put a routable ID into it.

RELIES_ON names every private attribute of aioquic that this file touches; ``check_aioquic`` refuses, before
the first packet, a release that lacks one. aioquic reads every short header with one fixed ID length, so all
the configurations that a server issues from in its life must have the same cid_length.

Where nonces run out, live connections keep the IDs that they have and get no more, and new connections are
refused with CONNECTION_REFUSED: never an exception in the datagram callback.

Spec: draft-ietf-quic-load-balancers, sections "Server Actions" and "Configuration Failover"; RFC 9000,
sections 5.1 (issuing IDs), 8.1.2 (Retry) and 5.2.2 (refusing).
"""

import asyncio
import copy
import inspect
import logging
from collections.abc import Callable
from typing import Final, Protocol

from aioquic import __version__ as aioquic_version
from aioquic.asyncio.protocol import QuicConnectionProtocol, QuicStreamHandler
from aioquic.asyncio.server import QuicServer
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.connection import NetworkAddress, QuicConnection
from aioquic.quic.events import ConnectionIdIssued
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler
from aioquic.tls import SessionTicketFetcher, SessionTicketHandler

from qlb.cid import reserved_cid
from qlb.cid.params import RESERVED_CONFIG_ID, CidParams
from qlb.errors import CidError, NonceExhausted, QlbError

_LOG: Final = logging.getLogger(__name__)

CreateProtocol = Callable[..., QuicConnectionProtocol]
"""What aioquic calls for each new connection: (connection, *, stream_handler) -> protocol."""

RELIES_ON: Final = (
    "QuicConnection._events",
    "QuicConnection._host_cid_seq",
    "QuicConnection._host_cids",
    "QuicConnection._local_initial_source_connection_id",
    "QuicConnection._replenish_connection_ids",
    "QuicConnection._serialize_transport_parameters",
    "QuicConnection.host_cid",
    "QuicRetryTokenHandler.create_token.address",
    "QuicRetryTokenHandler.create_token.now",
    "QuicRetryTokenHandler.create_token.original_destination_connection_id",
    "QuicRetryTokenHandler.create_token.retry_source_connection_id",
    "QuicServer._configuration",
    "QuicServer._loop",
    "QuicServer._protocols",
    "QuicServer._retry",
    "QuicServer._transport",
)
"""Attributes and parameters of aioquic that its documentation does not promise; a test names the one that went."""

_DISABLE_ACTIVE_MIGRATION: Final = b"\x0c\x00"
"""The transport parameter as it is sent: ID 0x0c, no value. Spec: RFC 9000, section 18.2."""


class IdSource(Protocol):
    """Whatever issues a server's IDs: a CidGenerator, or something that swaps one for the next on rotation.

    The length of the IDs, ``params.cid_length``, must stay the same for the life of the server.
    """

    @property
    def params(self) -> CidParams:
        """The configuration that the next ID is made under."""

    def generate(self) -> bytes:
        """Return a new ID, first octet included. Raises NonceExhausted."""


async def serve(
    host: str,
    port: int,
    *,
    configuration: QuicConfiguration,
    generator: IdSource,
    create_protocol: CreateProtocol = QuicConnectionProtocol,
    session_ticket_fetcher: SessionTicketFetcher | None = None,
    session_ticket_handler: SessionTicketHandler | None = None,
    retry: bool = False,
    stream_handler: QuicStreamHandler | None = None,
) -> "RoutableServer":
    """Start a server as ``aioquic.asyncio.serve`` does, whose every connection ID is routable.

    generator: where the IDs come from. configuration: used as it is if its connection_id_length is the
    generator's already; a copy of it if that is aioquic's default.
    retry: validate addresses first. A token holds for the address that this server sees, which behind a
    balancer in proxy mode is the balancer's; each Retry takes a nonce, and anyone can ask for one.
    Raises CidError where configuration asks for another length; QlbError where aioquic is unknown; OSError.
    """
    check_aioquic()
    fitting = routable_configuration(configuration, generator)
    loop = asyncio.get_running_loop()
    _, server = await loop.create_datagram_endpoint(
        lambda: RoutableServer(
            configuration=fitting,
            generator=generator,
            create_protocol=create_protocol,
            session_ticket_fetcher=session_ticket_fetcher,
            session_ticket_handler=session_ticket_handler,
            retry=retry,
            stream_handler=stream_handler,
        ),
        local_addr=(host, port),
    )
    return server


def routable_configuration(configuration: QuicConfiguration, generator: IdSource) -> QuicConfiguration:
    """Return a configuration whose connection_id_length is the generator's: the same object where it is so already.

    aioquic's default length counts as "not said" and is replaced in a copy. Any other length was somebody's wish.
    Raises CidError where that wish is not the generator's length.
    """
    length = generator.params.cid_length
    if configuration.connection_id_length == length:
        return configuration
    if configuration.connection_id_length != QuicConfiguration.connection_id_length:
        _require_length(configuration, generator)
    fitting = copy.copy(configuration)
    fitting.connection_id_length = length
    return fitting


def routable(create_protocol: CreateProtocol, generator: IdSource) -> CreateProtocol:
    """Wrap a create_protocol for aioquic's own ``serve``: all IDs but those in Retry packets are routable.

    The configuration's connection_id_length must be the generator's: see ``routable_configuration``. Once the
    nonces are used up, new connections are refused; create_protocol is not called for them.
    Raises QlbError where aioquic is unknown.
    """
    check_aioquic()
    return _Routable(create_protocol, generator)


def install(connection: QuicConnection, generator: IdSource) -> None:
    """Make one server connection, fresh from its constructor, issue the generator's IDs.

    Where its first ID is one of the reserved config, the balancer can only route it by its 4-tuple: the client
    is told not to migrate and gets no second ID. Plaintext configurations do send NEW_CONNECTION_ID, which the
    draft advises against: without a second ID a client that follows RFC 9000 cannot change its address at all.
    Raises NonceExhausted, with the connection as it was; CidError where the lengths differ.
    """
    _require_length(connection.configuration, generator)
    first = generator.generate()
    if len(first) != generator.params.cid_length:
        raise NonceExhausted(f"no reserved ID has {generator.params.cid_length} octets: cid_length must be 8 or more")
    _set_first_id(connection, first)
    if _is_reserved(first):
        _pin_to_path(connection)
    else:
        _refill_from(connection, generator)


def check_aioquic() -> None:
    """Refuse a release of aioquic that this adapter does not fit, naming the attribute that it misses.

    Raises QlbError.
    """
    missing = missing_attributes()
    if missing:
        raise QlbError(
            f"aioquic {aioquic_version} has no {', '.join(missing)}; qlb.adapters.aioquic needs it: install aioquic 1.7"
        )


def missing_attributes() -> tuple[str, ...]:
    """Return each of RELIES_ON that this release of aioquic lacks."""
    there = {
        "QuicConnection": dir(QuicConnection(configuration=QuicConfiguration(is_client=True))),
        "QuicRetryTokenHandler.create_token": inspect.signature(QuicRetryTokenHandler.create_token).parameters,
        # A server needs a running loop; the names that its constructor's code uses need none.
        "QuicServer": QuicServer.__init__.__code__.co_names,
    }
    split = (name.rpartition(".") for name in RELIES_ON)
    return tuple(f"{owner}.{name}" for owner, _, name in split if name not in there[owner])


class RoutableServer(QuicServer):
    """aioquic's server, with routable IDs in its Retry packets too."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        generator: IdSource,
        create_protocol: CreateProtocol = QuicConnectionProtocol,
        session_ticket_fetcher: SessionTicketFetcher | None = None,
        session_ticket_handler: SessionTicketHandler | None = None,
        retry: bool = False,
        stream_handler: QuicStreamHandler | None = None,
    ) -> None:
        """Take what ``serve`` takes. Raises CidError where the configuration's ID length is not the generator's."""
        _require_length(configuration, generator)
        super().__init__(
            configuration=configuration,
            create_protocol=_Routable(create_protocol, generator),
            session_ticket_fetcher=session_ticket_fetcher,
            session_ticket_handler=session_ticket_handler,
            retry=retry,
            stream_handler=stream_handler,
        )
        self._generator = generator

    @property
    def address(self) -> tuple[str, int]:
        """The address that the server is bound to: (host, port)."""
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")[:2]
        return host, port

    def datagram_received(self, data: bytes | str, addr: NetworkAddress) -> None:
        """Answer a first Initial with our own Retry where one is due; all else is aioquic's."""
        header = self._retry_due(data) if self._retry is not None else None
        if header is None:
            super().datagram_received(data, addr)
        else:
            self._send_retry(self._retry, header, addr)

    def _retry_due(self, data: bytes | str) -> QuicHeader | None:
        if len(data) < SMALLEST_MAX_DATAGRAM_SIZE or isinstance(data, str):
            return None
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=self._generator.params.cid_length)
        except ValueError:
            return None
        due = (
            header.packet_type == QuicPacketType.INITIAL
            and not header.token
            and header.version in self._configuration.supported_versions
            and header.destination_cid not in self._protocols
        )
        return header if due else None

    def _send_retry(self, tokens: QuicRetryTokenHandler, header: QuicHeader, addr: NetworkAddress) -> None:
        assert self._transport is not None
        assert header.version is not None
        source_cid = self._retry_id()
        token = tokens.create_token(
            address=addr,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=source_cid,
            now=self._loop.time(),
        )
        packet = encode_quic_retry(
            version=header.version,
            source_cid=source_cid,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )
        self._transport.sendto(packet, addr)

    def _retry_id(self) -> bytes:
        """Return an ID for a Retry. Without nonces it is unroutable, and the connection that follows is refused."""
        try:
            return self._generator.generate()
        except NonceExhausted:
            return _refusal_id(self._generator)


class _Routable:
    """A create_protocol that installs the generator first, and refuses connections once it is used up."""

    def __init__(self, create_protocol: CreateProtocol, generator: IdSource) -> None:
        self._create_protocol = create_protocol
        self._generator = generator
        self._warned = False

    def __call__(
        self, connection: QuicConnection, stream_handler: QuicStreamHandler | None = None
    ) -> QuicConnectionProtocol:
        try:
            install(connection, self._generator)
        except NonceExhausted as error:
            self._warn(error)
            return self._refuse(connection)
        return self._create_protocol(connection, stream_handler=stream_handler)

    def _refuse(self, connection: QuicConnection) -> QuicConnectionProtocol:
        """Let aioquic answer the first datagram with a close; the user's protocol never hears of it."""
        _set_first_id(connection, _refusal_id(self._generator))
        connection.close(
            error_code=QuicErrorCode.CONNECTION_REFUSED,
            frame_type=QuicFrameType.PADDING,  # without a type, aioquic sends an application close, without our code
            reason_phrase="no connection IDs left",
        )
        return QuicConnectionProtocol(connection)

    def _warn(self, error: NonceExhausted) -> None:
        """Say once that connections are being refused: a flood of them must not become a flood of lines."""
        if not self._warned:
            self._warned = True
            _LOG.warning("refusing new connections from now on: %s", error)


def _set_first_id(connection: QuicConnection, cid: bytes) -> None:
    connection._host_cids[0].cid = cid
    connection.host_cid = cid
    connection._local_initial_source_connection_id = cid


def _refill_from(connection: QuicConnection, generator: IdSource) -> None:
    """Put the generator's IDs into what aioquic is about to offer; how many and when stays aioquic's choice."""
    replenish = connection._replenish_connection_ids

    def refill() -> None:
        kept = len(connection._host_cids)
        replenish()
        while kept < len(connection._host_cids):
            cid = _spare_id(generator)
            if cid is None:
                connection._host_cid_seq -= len(connection._host_cids) - kept
                del connection._host_cids[kept:]
                return
            connection._host_cids[kept].cid = cid
            # aioquic announces an ID to its server when the next datagram arrives. If that is the first one
            # to bear the new ID, the server does not know it yet and drops it: so announce it now.
            connection._events.append(ConnectionIdIssued(connection_id=cid))
            kept += 1

    connection._replenish_connection_ids = refill  # type: ignore[method-assign]


def _pin_to_path(connection: QuicConnection) -> None:
    """Send no NEW_CONNECTION_ID, and ask the client to stay at its address."""
    serialize = connection._serialize_transport_parameters

    def stay() -> bytes:
        return serialize() + _DISABLE_ACTIVE_MIGRATION

    connection._replenish_connection_ids = lambda: None  # type: ignore[method-assign]
    connection._serialize_transport_parameters = stay  # type: ignore[method-assign]


def _spare_id(generator: IdSource) -> bytes | None:
    """Return an ID for NEW_CONNECTION_ID; None where only unroutable ones are left, which must not be offered."""
    try:
        cid = generator.generate()
    except NonceExhausted:
        return None
    return None if _is_reserved(cid) else cid


def _refusal_id(generator: IdSource) -> bytes:
    """Return an ID that routes nowhere, for a packet that ends the exchange."""
    return reserved_cid(max(generator.params.cid_length, 8))


def _is_reserved(cid: bytes) -> bool:
    return cid[0] >> 5 == RESERVED_CONFIG_ID


def _require_length(configuration: QuicConfiguration, generator: IdSource) -> None:
    length = generator.params.cid_length
    if configuration.connection_id_length != length:
        raise CidError(
            f"configuration.connection_id_length is {configuration.connection_id_length}, "
            f"but the generator's connection IDs have {length} octets: set it to {length}"
        )
