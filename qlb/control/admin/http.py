"""The HTTP server under the admin server: aiohttp, with bounds on how much a stranger can hold and for how long.

A peer has a short time for its first request and a longer one for the next; too many connections are closed
at once; what is no HTTP gets a 400 without a traceback in the log. Nothing here knows what is served.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final, NamedTuple, cast

from aiohttp import web

HEADERS: Final = {
    "Server": "qlb",  # aiohttp would tell its own version and Python's
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""What every answer bears."""

_LINGER_S: Final = 0.2
"""How long the rest of a body that nobody wants is read, so that closing does not tear our answer away."""

Answer = Callable[[web.BaseRequest], Awaitable[web.Response]]


class Limits(NamedTuple):
    """What one listener grants its peers.

    first_request_s: from the connection to the end of the first request's head. idle_s: from our answer to the
    end of the next one's head, taking in the answer included.
    """

    connections: int = 256
    first_request_s: float = 10.0
    idle_s: float = 75.0


def text_response(status: int, text: str) -> web.Response:
    """Return an answer of one line."""
    return web.Response(status=status, text=f"{text}\n", headers=HEADERS)


def json_response(status: int, answer: object) -> web.Response:
    """Return an answer in JSON, on a line of its own."""
    body = json.dumps(answer).encode() + b"\n"
    return web.Response(status=status, body=body, content_type="application/json", headers=HEADERS)


class HttpServer(web.Server):
    """Makes a connection's protocol for each peer: what a loop's create_server() takes."""

    def __init__(self, answer: Answer, limits: Limits) -> None:
        """answer: request → response; it does not raise. Must be made in a running loop."""
        super().__init__(self._handle)
        self._answer = answer
        self.limits = limits

    def __call__(self) -> web.RequestHandler:
        """Return the protocol of a new connection."""
        return _Connection(self)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast(_Connection, request.protocol)
        connection.expect(None)
        try:
            return await self._answer(request)
        finally:
            connection.expect(self.limits.idle_s)


class _Connection(web.RequestHandler):
    """One peer."""

    def __init__(self, server: HttpServer) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # none is wanted, and that is how to say it
            auto_decompress=False,
            keepalive_timeout=server.limits.idle_s,
            lingering_time=_LINGER_S,
        )
        self._server = server
        self._expected: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.expect(self._server.limits.first_request_s)
        if len(self._server.connections) > self._server.limits.connections:
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self.expect(None)

    def expect(self, within_s: float | None) -> None:
        """Close the connection unless this is called again within a time; None: no such time is running."""
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
        """Answer what could not be parsed: no echo of it, no traceback, and the connection ends."""
        response = text_response(status, HTTPStatus(status).phrase)
        response.force_close()
        return response
