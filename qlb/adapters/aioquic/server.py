"""aioquic's ``serve``, ``QuicServer`` and ``create_protocol`` with routable connection IDs."""

import asyncio
import copy
import logging
from collections.abc import Callable
from typing import Final

from aioquic.asyncio.protocol import QuicConnectionProtocol, QuicStreamHandler
from aioquic.asyncio.server import QuicServer
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE, QuicConfiguration
from aioquic.quic.connection import NetworkAddress, QuicConnection
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

from qlb.adapters.aioquic.connection import (
    PreferredAddress,
    check_aioquic,
    install,
    refusal_id,
    require_length,
    set_first_id,
)
from qlb.cid import CidSource, RetryCidSource
from qlb.errors import NonceExhausted

_LOG: Final = logging.getLogger("qlb.adapters.aioquic")

CreateProtocol = Callable[..., QuicConnectionProtocol]
"""The function that aioquic calls for each new connection: (connection, *, stream_handler) -> protocol."""


async def serve(
    host: str,
    port: int,
    *,
    configuration: QuicConfiguration,
    generator: CidSource,
    create_protocol: CreateProtocol = QuicConnectionProtocol,
    session_ticket_fetcher: SessionTicketFetcher | None = None,
    session_ticket_handler: SessionTicketHandler | None = None,
    retry: bool = False,
    stream_handler: QuicStreamHandler | None = None,
    preferred_address: PreferredAddress | None = None,
) -> "RoutableServer":
    """Start a server as ``aioquic.asyncio.serve`` does, with routable connection IDs only.

    port: 0 to 65535; 0 selects a free port. generator: the source of the IDs.
    configuration: used unchanged if its connection_id_length (octets) equals the generator's cid_length. If it is
    aioquic's default, a copy with the generator's length is used.
    retry: validate addresses with Retry packets (RFC 9000, section 8.1.2). A token is valid for the address that this
    server sees: behind a balancer in proxy mode, the balancer's. Any client can cause a Retry, so the IDs of these
    packets have nonces of their own, a sixteenth of the generator's. When those are used up, Retry packets have
    unroutable IDs, and still work if the client's address does not change.
    preferred_address: the addresses that clients should use after the handshake.
    Raises CidError if configuration has another ID length or preferred_address cannot be reached; QlbError if this
    release of aioquic does not fit; OSError if the address cannot be bound.
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
            preferred_address=preferred_address,
        ),
        local_addr=(host, port),
    )
    return server


def routable_configuration(configuration: QuicConfiguration, generator: CidSource) -> QuicConfiguration:
    """Return a configuration with the generator's ID length (octets): the same object if it has that length already.

    aioquic's default length counts as not set, and is replaced in a copy. Any other length was set on purpose.
    Raises CidError if a length was set that is not the generator's.
    """
    length = generator.params.cid_length
    if configuration.connection_id_length == length:
        return configuration
    if configuration.connection_id_length != QuicConfiguration.connection_id_length:
        require_length(configuration, generator)
    fitting = copy.copy(configuration)
    fitting.connection_id_length = length
    return fitting


def routable(
    create_protocol: CreateProtocol, generator: CidSource, *, preferred_address: PreferredAddress | None = None
) -> CreateProtocol:
    """Wrap a create_protocol for aioquic's own ``serve``: all IDs except those in Retry packets become routable.

    The configuration's connection_id_length must be the generator's: see ``routable_configuration``. When the nonces
    are used up, new connections are refused, and create_protocol is not called for them.
    Raises QlbError if this release of aioquic does not fit; CidError if preferred_address cannot be reached.
    """
    check_aioquic()
    return _Routable(create_protocol, generator, preferred_address)


class RoutableServer(QuicServer):
    """aioquic's server with routable IDs, in its Retry packets too."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        generator: CidSource,
        create_protocol: CreateProtocol = QuicConnectionProtocol,
        session_ticket_fetcher: SessionTicketFetcher | None = None,
        session_ticket_handler: SessionTicketHandler | None = None,
        retry: bool = False,
        stream_handler: QuicStreamHandler | None = None,
        preferred_address: PreferredAddress | None = None,
    ) -> None:
        """Create the server with the arguments of ``serve``; with retry, reserve nonces for Retry packets.

        Raises CidError if the configuration's ID length (octets) is not the generator's.
        """
        require_length(configuration, generator)
        super().__init__(
            configuration=configuration,
            create_protocol=_Routable(create_protocol, generator, preferred_address),
            session_ticket_fetcher=session_ticket_fetcher,
            session_ticket_handler=session_ticket_handler,
            retry=retry,
            stream_handler=stream_handler,
        )
        self._generator = generator
        self._retry_ids = generator if retry and isinstance(generator, RetryCidSource) else None
        if self._retry_ids is not None:
            self._retry_ids.reserve_for_retry()

    @property
    def address(self) -> tuple[str, int]:
        """The address that the server is bound to: (host, port)."""
        assert self._transport is not None
        host, port = self._transport.get_extra_info("sockname")[:2]
        return host, port

    def datagram_received(self, data: bytes | str, addr: NetworkAddress) -> None:
        """Answer a first Initial with a Retry of our own if one is due; pass any other datagram to aioquic."""
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
        """Return an ID for a Retry packet. Its nonce is never one of a connection's."""
        return refusal_id(self._generator) if self._retry_ids is None else self._retry_ids.generate_retry()


class _Routable:
    """A create_protocol that installs the generator first, and refuses connections when the nonces are used up."""

    def __init__(
        self, create_protocol: CreateProtocol, generator: CidSource, preferred_address: PreferredAddress | None
    ) -> None:
        if preferred_address is not None:
            preferred_address.check()
        self._create_protocol = create_protocol
        self._generator = generator
        self._preferred_address = preferred_address
        self._warned = False

    def __call__(
        self, connection: QuicConnection, stream_handler: QuicStreamHandler | None = None
    ) -> QuicConnectionProtocol:
        try:
            install(connection, self._generator, preferred_address=self._preferred_address)
        except NonceExhausted as error:
            self._warn(error)
            return self._refuse(connection)
        return self._create_protocol(connection, stream_handler=stream_handler)

    def _refuse(self, connection: QuicConnection) -> QuicConnectionProtocol:
        """Let aioquic close the connection in answer to the first datagram, without the user's protocol."""
        set_first_id(connection, refusal_id(self._generator))
        connection.close(
            error_code=QuicErrorCode.CONNECTION_REFUSED,
            frame_type=QuicFrameType.PADDING,  # without a type, aioquic sends an application close without our code
            reason_phrase="no connection IDs left",
        )
        return QuicConnectionProtocol(connection)

    def _warn(self, error: NonceExhausted) -> None:
        """Log the first refused connection only: a flood of connections must not become a flood of log lines."""
        if not self._warned:
            self._warned = True
            _LOG.warning("refusing new connections from now on: %s", error)
