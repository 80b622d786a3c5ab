"""The HTTP/1.1 server behind Envoy. It sends the same stories as the aioquic backends.

Envoy writes its name into a request header, so the story contains the name of the Envoy that the client is connected
to.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from lab.nat import Address
from lab.stories import STORY_PATH, Gates, Receipt

NAME_HEADER = "x-server"


@asynccontextmanager
async def origin(gates: Gates) -> AsyncIterator[Address]:
    """Run the server on a free port of 127.0.0.1."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        backend, receiving = request.headers[NAME_HEADER], asyncio.create_task(_receive(request))
        if request.path.startswith(STORY_PATH):
            async for line in gates.story(backend, request.path.removeprefix(STORY_PATH)):
                await response.write(line.encode())
        receipt = await receiving
        if request.method == "POST":
            await response.write(receipt.encode())
        return response

    application = web.Application()
    application.add_routes([web.route("*", "/{anything:.*}", answer)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield runner.addresses[0][:2]
    finally:
        await runner.cleanup()


async def _receive(request: web.Request) -> Receipt:
    receipt = Receipt(request.headers[NAME_HEADER])
    async for data in request.content.iter_any():
        receipt.add(data)
    return receipt
