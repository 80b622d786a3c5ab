"""The HTTP server under the admin server: aiohttp with bounds on the connections of a peer and their time.

A peer has a short time for its first request and a longer one for the next. A new connection is always accepted. If
there are too many, the one that has been idle for longest is closed, so that no peer can block /healthz and /readyz for
others. Input that is no HTTP gets a 400 and no traceback in the log. This module does not know the pages and commands.
"""

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Final, NamedTuple, cast

from aiohttp import web

HEADERS: Final = {
    "Server": "qlb",  # aiohttp would send its own version and Python's
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""The headers of every answer."""

_LINGER_S: Final = 0.2
"""The time for which the rest of an unwanted body is read. An immediate close could destroy our answer on its way."""

_PIECE_BYTES: Final = 1 << 16
_READING: Final = ("GET", "HEAD")
_SPARES: Final = 32
"""Connections beyond the bound, while all others run commands."""
_PEER_PREFIX: Final = 64
"""The prefix of an IPv6 peer: one host can have all addresses of such a network."""

Answer = Callable[[web.BaseRequest], Awaitable[web.Response]]


class Limits(NamedTuple):
    """The bounds of one listener.

    connections: at once. per_peer: of one IPv4 address or one IPv6 /64; peers of the control socket have no address.
    first_request_s: from the connection to the end of the first request's head. idle_s: from our answer to the end of
    the next request's head, including the time in which the peer reads the answer.
    """

    connections: int = 256
    per_peer: int = 64
    first_request_s: float = 10.0
    idle_s: float = 75.0


def text_response(status: int, text: str) -> web.Response:
    """Return an answer with one line of text."""
    return web.Response(status=status, text=f"{text}\n", headers=HEADERS)


def json_body(answer: object) -> bytes:
    """Return JSON with a final line feed."""
    return json.dumps(answer).encode() + b"\n"


def page_response(body: bytes, content_type: str) -> web.Response:
    """Return a page that many readers share. It is sent in pieces, so a slow reader costs one piece, not a copy."""
    headers = {**HEADERS, "Content-Type": content_type, "Content-Length": str(len(body))}
    return web.Response(body=_pieces(body), headers=headers)


async def _pieces(body: bytes) -> AsyncIterator[memoryview]:
    for start in range(0, len(body), _PIECE_BYTES):
        yield memoryview(body)[start : start + _PIECE_BYTES]


def json_response(status: int, answer: object) -> web.Response:
    """Return an answer in JSON."""
    return web.Response(status=status, body=json_body(answer), content_type="application/json", headers=HEADERS)


class HttpServer(web.Server):
    """The factory of connection protocols for the create_server() of an event loop."""

    def __init__(self, answer: Answer, limits: Limits) -> None:
        """answer: request → response; it does not raise. Create the server in a running event loop."""
        super().__init__(self._handle)
        self._answer = answer
        self._open: set[_Connection] = set()
        self.limits = limits

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        return _Connection(self)

    def admit(self, new: "_Connection") -> None:
        """Register an accepted connection. If there are too many, close the one that has been idle for longest."""
        self._open.add(new)
        if new.peer is not None:
            same = [one for one in self._open if one.peer == new.peer]
            if len(same) > self.limits.per_peer:
                self._close_idlest(same, new)
        if len(self._open) > self.limits.connections:
            self._close_idlest(self._open, new)

    def forget(self, connection: "_Connection") -> None:
        """Remove a closed connection."""
        self._open.discard(connection)

    def _close_idlest(self, among: Iterable["_Connection"], new: "_Connection") -> None:
        """Close the idlest connection without a running command; if there is none, the new one beyond some spares."""
        others = [one for one in among if one is not new and not one.commands]
        if others:
            min(others, key=lambda one: one.progress_s).drop()
        elif len(self._open) > self.limits.connections + _SPARES:
            new.drop()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast(_Connection, request.protocol)
        connection.expect(None)
        connection.commands = request.method not in _READING
        try:
            return await self._answer(request)
        finally:
            connection.commands = False
            connection.expect(self.limits.idle_s)


class _Connection(web.RequestHandler):
    """One connection. Progress is the connection itself, the end of a request's head, and our answer to it.

    So a peer that sends its request octet by octet, or does not read our answer, makes no progress.
    """

    def __init__(self, server: HttpServer) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # the way to turn it off
            auto_decompress=False,
            keepalive_timeout=server.limits.idle_s,
            lingering_time=_LINGER_S,
        )
        self._server = server
        self._expected: asyncio.TimerHandle | None = None
        self.peer: str | None = None
        self.progress_s = 0.0
        self.commands = False
        """True while a request that may change something is running. Such a connection is not closed to make room."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.peer = _peer(transport.get_extra_info("peername"))
        self.expect(self._server.limits.first_request_s)
        self._server.admit(self)

    def data_received(self, data: bytes) -> None:
        waiting = self._waiter is not None
        super().data_received(data)
        if waiting and self._messages:
            self.progress_s = asyncio.get_running_loop().time()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._server.forget(self)
        self.expect(None)

    def drop(self) -> None:
        """Close the connection at once, also during an answer."""
        self._server.forget(self)
        if self.transport is not None:
            self.transport.abort()

    def expect(self, within_s: float | None) -> None:
        """Note progress. Close the connection if there is no more progress within a time; None = never close it."""
        self.progress_s = asyncio.get_running_loop().time()
        if self._expected is not None:
            self._expected.cancel()
        self._expected = None
        if within_s is not None and self.transport is not None:
            self._expected = asyncio.get_running_loop().call_later(within_s, self.transport.abort)

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 (aiohttp's signature)
        status: int = HTTPStatus.INTERNAL_SERVER_ERROR,
        exc: BaseException | None = None,  # noqa: ARG002
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """Answer input that could not be parsed, without an echo or a traceback, and end the connection."""
        response = text_response(status, HTTPStatus(status).phrase)
        response.force_close()
        return response


def _peer(name: object) -> str | None:
    """Return the peer for the limit per peer. name: of the transport; it is no address for a Unix socket."""
    if not isinstance(name, tuple) or not name:  # empty if the peer has already closed the connection
        return None
    address = ipaddress.ip_address(name[0].partition("%")[0])
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, _PEER_PREFIX), strict=False))
