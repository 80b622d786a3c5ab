"""HTTP server of the page: its files, the URL to call, and the buttons of the NAT.

Plain HTTP is enough: browsers treat 127.0.0.1 as a secure context, with microphone and WebTransport. No authority has
signed the agents' certificate. The page gets its hash, which the browser accepts instead of a chain.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from aiohttp import web

from examples.voice_agent.network import Network

PAGE: Final = Path(__file__).parent / "page"
_FILES: Final = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/call.js": ("call.js", "text/javascript"),
    "/page.js": ("page.js", "text/javascript"),
    "/worklet.js": ("worklet.js", "text/javascript"),
}
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; "
    "connect-src 'self' https:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


@asynccontextmanager
async def serving_page(host: str, port: int, *, call_url: str, sha256: bytes, network: Network) -> AsyncIterator[str]:
    """Serve the page; yield its URL. call_url: of the agents. sha256: of their certificate. Raises OSError."""

    async def session(_: web.Request) -> web.Response:
        return _json({"url": call_url, "sha256": sha256.hex()})

    async def state(_: web.Request) -> web.Response:
        return _json(network.state())

    async def change(request: web.Request) -> web.Response:
        _change(network, request.query.get("change", "once"))
        return _json(network.state())

    application = web.Application()
    application.add_routes([web.get(path, _file(*named)) for path, named in _FILES.items()])
    application.add_routes([web.get("/session", session), web.get("/network", state), web.post("/network", change)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield "http://{}:{}/".format(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


def _file(name: str, content_type: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    text = (PAGE / name).read_text()

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text=text, content_type=content_type, headers=_HEADERS)

    return answer


def _json(data: object) -> web.Response:
    return web.json_response(data, headers=_HEADERS)


def _change(network: Network, wanted: str) -> None:
    """Change the addresses once, start to change them each second, or stop that."""
    if wanted == "once":
        network.change()
    elif wanted in ("each-second", "never"):
        network.keep_changing(wanted == "each-second")
    else:
        raise web.HTTPBadRequest(text="change must be once, each-second or never\n")
