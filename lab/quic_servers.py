"""Backends for end-to-end tests: real aioquic servers whose answers last until the test ends them.

The answer to /story/NAME is one line each tick, numbered and with the backend's name, until the gate NAME is opened.
Then the last line follows. So a transfer is unfinished for as long as the test needs, on machines of any speed. A POST
is answered with a receipt, after the story if there is one.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from aioquic.asyncio.protocol import QuicConnectionProtocol, QuicStreamHandler
from aioquic.asyncio.server import QuicServer
from aioquic.asyncio.server import serve as serve_plainly
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, ProtocolNegotiated, QuicEvent

from lab.nat import Address
from lab.server import Server, server_id_of
from lab.stories import STORY_PATH, Gates, Receipt
from qlb.adapters.aioquic import PreferredAddress, serve
from qlb.cid import CidGenerator, CidParams, RotatingGenerator
from qlb.demo.http3 import Certificate, make_certificate

IDLE_TIMEOUT_S: Final = 240.0


@dataclass
class QuicServerBehind(Server):
    """An aioquic server. accepted: connections with a request, not those of probes. rotation: None without QUIC-LB."""

    gates: Gates
    rotation: RotatingGenerator | None = None
    accepted: int = 0
    protocols: list["StoryProtocol"] = field(default_factory=list)


class StoryProtocol(QuicConnectionProtocol):
    """One connection to a server."""

    def __init__(
        self, quic: QuicConnection, stream_handler: QuicStreamHandler | None = None, *, server: QuicServerBehind
    ) -> None:
        """server: to which the connection belongs."""
        super().__init__(quic, stream_handler)
        self._server = server
        self._http: H3Connection | None = None
        self._answers: set[asyncio.Task[None]] = set()
        self._uploads: dict[int, Receipt] = {}
        self._was_asked = False
        server.protocols.append(self)

    def quic_event_received(self, event: QuicEvent) -> None:
        """Count connections and answer requests."""
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic)
        elif isinstance(event, ConnectionTerminated):
            self.cancel()
        if self._http is not None:
            for http_event in self._http.handle_event(event):
                self._http_event_received(self._http, http_event)

    def cancel(self) -> None:
        """Stop all answers."""
        for answer in self._answers:
            answer.cancel()

    def _http_event_received(self, http: H3Connection, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            self._begin(http, event)
        elif isinstance(event, DataReceived) and event.stream_id in self._uploads:
            self._uploads[event.stream_id].add(event.data)
            if event.stream_ended:
                self._uploads.pop(event.stream_id).complete.set()

    def _begin(self, http: H3Connection, event: HeadersReceived) -> None:
        self._server.accepted += not self._was_asked
        self._was_asked = True
        headers = dict(event.headers)
        receipt = Receipt(self._server.name) if headers[b":method"] == b"POST" else None
        if receipt is not None:
            self._uploads[event.stream_id] = receipt
        answer = asyncio.create_task(self._answer(http, event.stream_id, headers[b":path"].decode(), receipt))
        self._answers.add(answer)
        answer.add_done_callback(self._answers.discard)

    async def _answer(self, http: H3Connection, stream_id: int, path: str, receipt: Receipt | None) -> None:
        http.send_headers(stream_id, [(b":status", b"200"), (b"x-backend", self._server.name.encode())])
        if path.startswith(STORY_PATH):
            async for line in self._server.gates.story(self._server.name, path.removeprefix(STORY_PATH)):
                http.send_data(stream_id, line.encode(), end_stream=False)
                self.transmit()
        if receipt is not None:
            await receipt.complete.wait()
        http.send_data(stream_id, receipt.encode() if receipt is not None else b"", end_stream=True)
        self.transmit()


@asynccontextmanager
async def quic_servers(
    names: Sequence[str],
    params: CidParams | None,
    gates: Gates,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    retry: bool = False,
    preferred_address: PreferredAddress | None = None,
    certificate: Certificate | None = None,
) -> AsyncIterator[list[QuicServerBehind]]:
    """Run one server for each name.

    params: of their connection IDs; None = aioquic's own IDs. port: for a single server; 0 = any free ports. retry:
    validate addresses first. preferred_address: offered to clients; only with params. certificate: of all servers; None
    = a new one.
    """
    certificate = certificate or make_certificate()
    async with AsyncExitStack() as stack:
        found = []
        for name in names:
            server = QuicServerBehind(name, server_id_of(name, params), (host, port), gates)
            if params is not None and server.server_id is not None:
                server.rotation = RotatingGenerator(CidGenerator(params, server.server_id))
            listening = await _serve(server, certificate, retry, preferred_address)
            stack.callback(_close, server, listening)
            server.address = _address(listening)
            found.append(server)
        yield found


async def _serve(
    server: QuicServerBehind, certificate: Certificate, retry: bool, preferred_address: PreferredAddress | None
) -> QuicServer:
    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=H3_ALPN,
        certificate=certificate.certificate,
        private_key=certificate.private_key,
        idle_timeout=IDLE_TIMEOUT_S,
    )
    create = partial(StoryProtocol, server=server)
    if server.rotation is None:
        return await serve_plainly(*server.address, configuration=configuration, create_protocol=create, retry=retry)
    return await serve(
        *server.address,
        configuration=configuration,
        generator=server.rotation,
        create_protocol=create,
        preferred_address=preferred_address,
    )


def _address(listening: QuicServer) -> Address:
    assert listening._transport is not None, "the server is not bound"
    host, port = listening._transport.get_extra_info("sockname")[:2]
    return host, port


def _close(server: QuicServerBehind, listening: QuicServer) -> None:
    for protocol in server.protocols:
        protocol.cancel()
    listening.close()
