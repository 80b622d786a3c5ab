"""ASGI applications behind hypercorn, with connection IDs that a balancer can decode."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from hypercorn.config import Config, Sockets
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lab.nat import Address
from lab.server import Server, server_id_of
from lab.stories import Gates, Receipt
from qlb.adapters.hypercorn import serve
from qlb.cid import CidGenerator, CidParams, CidSource
from qlb.demo.http3 import make_certificate

GRACE_S: Final = 30.0

Application = Callable[..., Any]


@dataclass
class Hypercorn:
    """A running server. quic, tcp: its addresses. stopping: set it to end the server."""

    quic: Address
    tcp: Address
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def hypercorn(
    application: Application, source: CidSource, folder: Path, *, grace_s: float = GRACE_S, **arguments: Any
) -> AsyncIterator[Hypercorn]:
    """Run an application on free ports, with the adapter. grace_s: hypercorn's graceful_timeout. arguments: of serve.

    folder: for the certificate. The server must end without an error.
    """
    config = configuration(folder, grace_s)
    sockets = config.create_sockets()
    (tcp,), (quic,) = sockets.secure_sockets, sockets.quic_sockets
    running = Hypercorn(quic.getsockname()[:2], tcp.getsockname()[:2])
    task = asyncio.create_task(
        serve(
            application,
            config,
            generator=source,
            sockets=sockets,
            shutdown_trigger=running.stopping.wait,
            **arguments,
        )
    )
    try:
        yield running
    finally:
        running.stopping.set()
        await task
        close(sockets)


def configuration(folder: Path, grace_s: float = GRACE_S) -> Config:
    """Return a configuration of hypercorn for free ports of 127.0.0.1, without logs."""
    certificate, key = make_certificate().write(folder)
    return Config.from_mapping(
        bind=["127.0.0.1:0"],
        quic_bind=["127.0.0.1:0"],
        certfile=str(certificate),
        keyfile=str(key),
        graceful_timeout=grace_s,
        errorlog=None,
    )


def close(sockets: Sockets) -> None:
    """Close the sockets that a server has not closed."""
    for sock in (*sockets.secure_sockets, *sockets.insecure_sockets, *sockets.quic_sockets):
        sock.close()


def story_application(name: str, gates: Gates) -> Starlette:
    """Return an application that answers as the other backends of the end-to-end tests: stories and receipts."""

    async def story(request: Request) -> StreamingResponse:
        lines = gates.story(name, request.path_params["gate"])
        return StreamingResponse((line.encode() async for line in lines), headers={"x-backend": name})

    upload = _StoryDuringUpload(name, gates)
    return Starlette(
        routes=[Route("/story/{gate}", story), Route("/story/{gate}", upload, methods=["POST"])],
    )


class _StoryDuringUpload:
    """The answer to an upload: a story while it arrives, then a receipt. Starlette's responses would read the body."""

    def __init__(self, name: str, gates: Gates) -> None:
        """name: of the backend."""
        self._name = name
        self._gates = gates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        receipt = Receipt(self._name)
        receiving = asyncio.create_task(self._receive(receive, receipt))
        headers = [(b"x-backend", self._name.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for line in self._gates.story(self._name, scope["path_params"]["gate"]):
            await send({"type": "http.response.body", "body": line.encode(), "more_body": True})
        await receiving
        await send({"type": "http.response.body", "body": receipt.encode()})

    async def _receive(self, receive: Receive, receipt: Receipt) -> None:
        more = True
        while more:
            message = await receive()
            receipt.add(message.get("body", b""))
            more = message.get("more_body", False)


@asynccontextmanager
async def asgi_servers(
    names: Sequence[str], params: CidParams, gates: Gates, folder: Path, **arguments: Any
) -> AsyncIterator[list[Server]]:
    """Run one server for each name. params: of their connection IDs."""
    async with AsyncExitStack() as stack:
        found = []
        for name in names:
            server_id = server_id_of(name, params)
            assert server_id is not None, "params are missing"
            (folder / name).mkdir(parents=True)
            source = CidGenerator(params, server_id)
            running = await stack.enter_async_context(
                hypercorn(story_application(name, gates), source, folder / name, **arguments)
            )
            found.append(Server(name, server_id, running.quic))
        yield found
