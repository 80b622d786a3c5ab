"""A demo HTTP/3 client that can change its address during a connection, in two ways.

NAT rebinding: the packets come from another port. The client does not know this and continues to use the same
connection ID. Migration: the client changes its address on purpose, and uses a new connection ID.

Each answer names its backend (the header ``x-backend``). The client accepts every certificate unless it is given one.
Every failure becomes a BackendError within a bounded time.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from typing import Final

from aioquic.asyncio.protocol import QuicConnectionProtocol, QuicStreamHandler
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    PingAcknowledged,
    QuicEvent,
    StreamReset,
)

from qlb.addresses import Endpoint
from qlb.demo.exchange import Answer, Exchange, Waits
from qlb.errors import BackendError

DEFAULT_TIMEOUT_S: Final = 10.0
_ID_WAITS: Final = 11
_FIRST_ID_WAIT_S: Final = 0.005
"""Each wait is twice as long as the last one: 10 s in all for a spare connection ID to arrive."""
_KEEP_ALIVE_PING: Final = 0
_ANY_ADDRESS: Final = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}


class DemoClient(QuicConnectionProtocol):
    """One connection, created by ``connect``."""

    def __init__(
        self,
        quic: QuicConnection,
        stream_handler: QuicStreamHandler | None = None,
        *,
        authority: str,
        timeout_s: float,
    ) -> None:
        """Send requests to ``authority`` (host and port). timeout_s: the limit of every wait."""
        super().__init__(quic, stream_handler)
        self._authority = authority
        self._timeout_s = timeout_s
        self._http = H3Connection(quic)
        self._exchanges: dict[int, Exchange] = {}
        self._waits = Waits(timeout_s, self._keep_alive)
        self._is_established = False
        self._pings_sent = 0
        self._pings_answered: set[int] = set()

    @property
    def local_port(self) -> int:
        """Return the UDP port that the client sends from."""
        assert self._transport is not None
        port: int = self._transport.get_extra_info("sockname")[1]
        return port

    @property
    def server_connection_id(self) -> bytes:
        """Return the destination connection ID of the client's packets, by which the balancer routes."""
        return self._quic._peer_cid.cid

    def request(self, path: str, *, method: str = "GET", body: bytes = b"") -> Exchange:
        """Send a request and return at once."""
        exchange = Exchange(f"{method} {path}", Waits(self._timeout_s, self._keep_alive))
        if self._waits.failure is not None:
            exchange.fail(self._waits.failure)
            return exchange
        stream_id = self._quic.get_next_available_stream_id()
        self._exchanges[stream_id] = exchange
        headers = {":method": method, ":scheme": "https", ":authority": self._authority, ":path": path}
        self._http.send_headers(
            stream_id, [(name.encode(), value.encode()) for name, value in headers.items()], end_stream=not body
        )
        if body:
            self._http.send_data(stream_id, body, end_stream=True)
        self.transmit()
        return exchange

    async def get(self, path: str = "/") -> Answer:
        """Send a GET and wait for the whole answer. Raises BackendError."""
        return await self.request(path).answer()

    async def ping(self) -> None:
        """Wait for one round trip. Raises BackendError."""
        self._pings_sent += 1
        number = self._pings_sent
        self._quic.send_ping(number)
        self.transmit()
        await self._waits.until(lambda: number in self._pings_answered, "no answer to a ping")
        self._pings_answered.remove(number)

    async def rebind(self, *, new_connection_id: bool) -> None:
        """Continue from another local port; return when the server has answered to it.

        new_connection_id: migrate with a new ID, instead of a silent change as behind a NAT that rebinds.
        Raises BackendError if no answer comes, or if the server has issued no spare ID.
        """
        if new_connection_id:
            await self._spare_id_arrived()
        assert self._transport is not None
        old = self._transport
        family = old.get_extra_info("socket").family
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, local_addr=(_ANY_ADDRESS[family], 0))
        old.close()
        if new_connection_id:
            self.change_connection_id()
        await self.ping()

    async def _spare_id_arrived(self) -> None:
        """Wait for a spare ID, whose packet may be late or lost. Raises BackendError if none arrives."""
        for attempt in range(_ID_WAITS):
            if self._quic._peer_cid_available:
                return
            await self.ping()
            await asyncio.sleep(_FIRST_ID_WAIT_S * 2**attempt)
        if not self._quic._peer_cid_available:
            raise BackendError("the server has issued no spare connection ID to migrate with")

    async def established(self) -> None:
        """Wait for the end of the handshake. Raises BackendError."""
        await self._waits.until(lambda: self._is_established, "no connection")

    def shut(self) -> None:
        """Close the connection and the socket without waiting for an answer."""
        self.close()
        if self._transport is not None:
            self._transport.close()

    def quic_event_received(self, event: QuicEvent) -> None:
        """Pass stream data to HTTP/3, and wake the waits that an event may end."""
        for http_event in self._http.handle_event(event):
            if isinstance(http_event, HeadersReceived | DataReceived):
                self._receive(http_event)
        if isinstance(event, HandshakeCompleted):
            self._is_established = True
        elif isinstance(event, PingAcknowledged) and event.uid != _KEEP_ALIVE_PING:
            self._pings_answered.add(event.uid)
        elif isinstance(event, StreamReset):
            if event.stream_id in self._exchanges:
                self._exchanges.pop(event.stream_id).fail(f"the server reset the stream with code {event.error_code}")
        elif isinstance(event, ConnectionTerminated):
            self._fail(f"the connection ended with code {event.error_code} {event.reason_phrase}".rstrip())
        self._waits.wake()

    def _keep_alive(self) -> None:
        """Send a ping, so that a server that still sends to the client's old address learns the new one.

        aioquic's server returns to the old address if the only PATH_RESPONSE from the new one is lost.
        """
        self._quic.send_ping(_KEEP_ALIVE_PING)
        self.transmit()

    def _receive(self, event: HeadersReceived | DataReceived) -> None:
        exchange = self._exchanges.get(event.stream_id)
        if exchange is not None:
            exchange.receive(event)
            if exchange.ended:
                del self._exchanges[event.stream_id]

    def _fail(self, reason: str) -> None:
        self._waits.fail(reason)
        for exchange in self._exchanges.values():
            exchange.fail(reason)
        self._exchanges.clear()


@contextlib.asynccontextmanager
async def connect(
    host: str, port: int, *, trust: bytes | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
) -> AsyncIterator[DemoClient]:
    """Yield a connected client, closed at the end of the block.

    host: an IP literal, or a name, whose first address is used. trust: certificates in PEM; the server's certificate
    must be one of them or signed by one. None accepts every certificate. timeout_s: the limit of every wait.
    Raises BackendError.
    """
    loop = asyncio.get_running_loop()
    try:
        family, _, _, _, address = (await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM))[0]
    except OSError as error:
        raise BackendError(f"no address for {host}: {error.strerror}") from error
    connection = QuicConnection(configuration=_configuration(host, trust))
    _, client = await loop.create_datagram_endpoint(
        lambda: DemoClient(connection, authority=str(Endpoint(host, port)), timeout_s=timeout_s),
        local_addr=(_ANY_ADDRESS[family], 0),
    )
    try:
        client.connect(address)
        await client.established()
        yield client
    finally:
        client.shut()


async def get(
    host: str, port: int, path: str = "/", *, trust: bytes | None = None, timeout_s: float = DEFAULT_TIMEOUT_S
) -> Answer:
    """Request one path over a new connection. The arguments are those of ``connect``. Raises BackendError."""
    async with connect(host, port, trust=trust, timeout_s=timeout_s) as client:
        return await client.get(path)


def _configuration(host: str, trust: bytes | None) -> QuicConfiguration:
    return QuicConfiguration(
        alpn_protocols=H3_ALPN,
        server_name=host,
        cadata=trust,
        verify_mode=ssl.CERT_NONE if trust is None else ssl.CERT_REQUIRED,
    )
