"""Tests of the hypercorn adapter: an ASGI application over HTTP/3 whose connection IDs are all routable."""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aioquic.h3.connection import ErrorCode, H3Connection
from aioquic.quic.packet import QuicErrorCode
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from lab.asgi_servers import Hypercorn, close, configuration, hypercorn
from qlb.adapters import hypercorn as adapter
from qlb.adapters.aioquic import PreferredAddress
from qlb.cid import CidCodec, CidGenerator, CidParams, CidSource
from qlb.demo.client import DemoClient, connect
from qlb.errors import BackendError, CidError, NonceExhausted, QlbError

KEY = bytes(range(16))
SERVER_ID = bytes.fromhex("c0ffee01")
FOUR_PASS = CidParams(config_id=2, server_id_length=4, nonce_length=7, key=KEY)
SHAPES = {
    "plaintext": CidParams(config_id=0, server_id_length=4, nonce_length=6),
    "8 octets, as hypercorn itself": CidParams(config_id=5, server_id_length=3, nonce_length=4, key=KEY),
    "single-pass": CidParams(config_id=1, server_id_length=4, nonce_length=12, key=KEY),
    "four-pass, odd": FOUR_PASS,
    "padded, self-encoding, longest": CidParams(4, 4, 8, KEY, length_self_encoded=True, cid_length=20),
}
TIMEOUT_S = 90.0


def generator(params: CidParams = FOUR_PASS) -> CidGenerator:
    """Return a source of IDs."""
    return CidGenerator(params, SERVER_ID[: params.server_id_length])


async def name(_: Request) -> Response:
    """Answer with a name."""
    return PlainTextResponse("agent-a")


async def digest(request: Request) -> Response:
    """Answer with the digest of the request's body."""
    found = hashlib.sha256()
    async for piece in request.stream():
        found.update(piece)
    return PlainTextResponse(found.hexdigest())


async def who(request: Request) -> Response:
    """Answer with the HTTP version, the state of the application, and the client's address."""
    assert request.client is not None
    return PlainTextResponse(f"{request.scope['http_version']} {request.state.word} {request.client.host}")


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[dict[str, str]]:
    """Give a word to all requests."""
    yield {"word": "started"}


def application(**routes: Any) -> Starlette:
    """Return an application. routes: further ones, by name."""
    fixed = {"name": name, "digest": digest, "who": who}
    return Starlette(
        routes=[Route(f"/{path}", one, methods=["GET", "POST"]) for path, one in {**fixed, **routes}.items()],
        lifespan=lifespan,
    )


@asynccontextmanager
async def connected(
    folder: Path, source: CidSource | None = None, *, app: Any = None, **arguments: Any
) -> AsyncIterator[tuple[DemoClient, Hypercorn]]:
    """Yield a client of a running application, and its server."""
    async with (
        asyncio.timeout(TIMEOUT_S),
        hypercorn(app or application(), source or generator(), folder, **arguments) as server,
        connect(*server.quic, timeout_s=TIMEOUT_S) as client,
    ):
        yield client, server


@pytest.fixture(autouse=True)
async def loop_errors() -> AsyncIterator[None]:
    """Fail every test in which a callback of the event loop raises."""
    errors: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(str(context)))
    yield
    assert errors == []


def issued_ids(client: DemoClient) -> list[bytes]:
    """Return the ID that the client sends to, and its spare ones."""
    return [client.server_connection_id, *(spare.cid for spare in client._quic._peer_cid_available)]


async def until_refused(server: Hypercorn) -> None:
    """Open connections to a server that has begun to stop. Raises BackendError for the first refused one."""
    while True:
        async with connect(*server.quic, timeout_s=TIMEOUT_S):
            pass


async def until_ended(client: DemoClient) -> None:
    """Send pings until the server ends the connection. Raises BackendError with the reason."""
    while True:
        await client.ping()


@pytest.mark.parametrize("required", adapter.RELIES_ON)
def test_canary_hypercorn_still_has(required: str) -> None:
    """Each name of hypercorn that the adapter relies on exists."""
    assert required not in adapter.missing_names(), f"hypercorn has no {required}: qlb.adapters.hypercorn must change"


async def test_a_hypercorn_without_one_of_them_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release without one of them is rejected by name."""
    monkeypatch.setattr("qlb.adapters.hypercorn.server.RELIES_ON", ("H3Protocol.send", "worker_serve.Gone"))
    with pytest.raises(QlbError, match=r"no worker_serve\.Gone:"):
        await adapter.serve(application(), configuration(tmp_path), generator=generator())


@pytest.mark.parametrize("params", SHAPES.values(), ids=SHAPES.keys())
async def test_every_id_is_routable(params: CidParams, tmp_path: Path) -> None:
    """IDs of any length decode to the server ID, and the application answers from each new address."""
    async with connected(tmp_path, generator(params)) as (client, _):
        await client.ping()
        ids = issued_ids(client)
        for new_connection_id in (False, True, True):
            await client.rebind(new_connection_id=new_connection_id)
            ids.append(client.server_connection_id)
            assert (await client.get("/name")).body == b"agent-a"
    assert len(set(ids)) >= 8
    assert {len(cid) for cid in ids} == {params.cid_length}
    assert {CidCodec(params).decode(cid) for cid in ids} == {SERVER_ID[: params.server_id_length]}


async def test_retry_is_routable(tmp_path: Path) -> None:
    """With retry, the ID of the Retry packet is routable, too."""
    async with connected(tmp_path, retry=True) as (client, _):
        retry_id = client._quic._retry_source_connection_id
        assert retry_id is not None
        assert CidCodec(FOUR_PASS).decode(retry_id) == SERVER_ID
        assert (await client.get("/name")).body == b"agent-a"


async def test_a_preferred_address_is_offered(tmp_path: Path) -> None:
    """The preferred address takes the second ID, which therefore arrives in no frame."""
    wanted = PreferredAddress(ipv4=("192.0.2.7", 443))
    async with connected(tmp_path, preferred_address=wanted) as (client, _):
        await client.ping()
        numbers = [spare.sequence_number for spare in client._quic._peer_cid_available]
        assert numbers == [2, 3, 4, 5, 6, 7]
        assert {CidCodec(FOUR_PASS).decode(cid) for cid in issued_ids(client)} == {SERVER_ID}


async def test_without_nonces_connections_are_refused(tmp_path: Path) -> None:
    """A new connection is refused if the nonces are used up, and the server continues."""

    class Empty:
        params = FOUR_PASS

        def generate(self) -> bytes:
            raise NonceExhausted("all nonces are used")

    with pytest.raises(BackendError, match=f"code {int(QuicErrorCode.CONNECTION_REFUSED)}"):
        async with connected(tmp_path, Empty()):
            pytest.fail("connected")


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"workers": 2}, QlbError, "each process needs a server ID and a port"),
        ({"certfile": None}, QlbError, "QUIC needs a certificate"),
        ({"quic_bind": []}, QlbError, "quic_bind is empty"),
    ],
)
async def test_configurations_without_quic(
    changes: dict[str, Any], error: type[Exception], says: str, tmp_path: Path
) -> None:
    """A configuration that would silently serve no QUIC, or lose address changes, is an error."""
    config: Config = configuration(tmp_path)
    for key, value in changes.items():
        setattr(config, key, value)
    with pytest.raises(error, match=says):
        await adapter.serve(application(), config, generator=generator())


async def test_another_length_of_ids_is_an_error(tmp_path: Path) -> None:
    """An aioquic configuration with another ID length is rejected before the first packet."""
    config = configuration(tmp_path)
    quic = adapter.quic_configuration(config)
    quic.connection_id_length = 20
    with pytest.raises(CidError, match="connection_id_length is 20"):
        await adapter.serve(application(), config, generator=generator(), quic=quic)


async def test_the_application_sees_an_ordinary_request(tmp_path: Path) -> None:
    """Life cycle, HTTP version and client address are those of hypercorn, and bodies arrive whole."""
    body = bytes(range(256)) * 1000
    async with connected(tmp_path) as (client, _):
        assert (await client.get("/who")).body == b"3 started 127.0.0.1"
        answer = await client.request("/digest", method="POST", body=body).answer()
        assert answer.body.decode() == hashlib.sha256(body).hexdigest()


async def test_tcp_is_served_too(tmp_path: Path) -> None:
    """The TCP listener of hypercorn serves the same application and the same state."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with (
        connected(tmp_path) as (_, server),
        aiohttp.ClientSession() as session,
        session.get("https://{}:{}/who".format(*server.tcp), ssl=context) as answer,
    ):
        assert (await answer.text()).startswith("1.1 started")


@pytest.mark.parametrize("ends", ["the connection", "the request"])
async def test_an_application_learns_that_its_client_has_gone(ends: str, tmp_path: Path) -> None:
    """The application receives http.disconnect when the connection ends, or when the client cancels the request."""
    waiting, gone = asyncio.Event(), asyncio.Event()

    async def watch(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await application()(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        waiting.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        await send({"type": "http.response.body", "body": b"unwanted"})
        gone.set()

    async with connected(tmp_path, app=watch) as (client, _):
        client.request("/watch")
        await waiting.wait()
        if ends == "the connection":
            client.close()
        else:
            client._quic.stop_stream(0, 0x10C)
            client.transmit()
        await gone.wait()


async def test_the_rest_of_a_body_after_the_answer(tmp_path: Path) -> None:
    """A client that sends the rest of a body after the answer disturbs neither its own connection nor others."""
    async with connected(tmp_path) as (client, server), connect(*server.quic, timeout_s=TIMEOUT_S) as other:
        http: H3Connection = client._http
        stream_id = client._quic.get_next_available_stream_id()
        headers = {":method": "POST", ":scheme": "https", ":authority": "localhost", ":path": "/name"}
        http.send_headers(stream_id, [(key.encode(), value.encode()) for key, value in headers.items()])
        client.transmit()
        await client.ping()
        assert (await client.get("/name")).body == b"agent-a"
        http.send_data(stream_id, b"late", end_stream=True)
        client.transmit()
        await client.ping()
        assert (await client.get("/name")).body == b"agent-a"
        assert (await other.get("/name")).body == b"agent-a"


async def test_a_hostile_request_ends_alone(tmp_path: Path) -> None:
    """A path that hypercorn cannot decode resets its own stream. Other requests of the connection succeed."""
    async with connected(tmp_path) as (client, _):
        hostile = client.request("/\u00e9")
        with pytest.raises(BackendError, match="reset the stream"):
            await hostile.answer()
        assert (await client.get("/name")).body == b"agent-a"


async def test_a_violation_of_http_ends_one_connection(tmp_path: Path) -> None:
    """A body before the headers closes that connection with HTTP/3's code. Other connections continue."""
    async with connected(tmp_path) as (client, server), connect(*server.quic, timeout_s=TIMEOUT_S) as other:
        client._quic.send_stream_data(0, b"\x00\x01a", end_stream=True)
        client.transmit()
        with pytest.raises(BackendError, match=f"code {int(ErrorCode.H3_FRAME_UNEXPECTED)}"):
            await client.get("/name")
        assert (await other.get("/name")).body == b"agent-a"


async def test_an_endless_frame(tmp_path: Path) -> None:
    """A frame that does not end closes its connection before it uses much memory."""
    async with connected(tmp_path) as (client, _):
        client._quic.send_stream_data(0, b"\x01\x80\x0f\xff\xff" + bytes(200_000))
        client.transmit()
        with pytest.raises(BackendError, match=f"code {int(ErrorCode.H3_EXCESSIVE_LOAD)}"):
            await until_ended(client)


@pytest.mark.slow
async def test_an_application_that_does_not_read(tmp_path: Path) -> None:
    """A slow reader stops its own client only, at a bounded amount, and receives the whole body in the end."""
    reading, body, sizes = asyncio.Event(), bytes(3 * adapter.MAX_UNREAD_BYTES), []
    full = asyncio.Event()

    async def slow(request: Request) -> Response:
        await reading.wait()
        return await digest(request)

    original = adapter.connection.HttpConnection.quic_event_received

    def note(self: Any, event: Any) -> None:
        original(self, event)
        sizes.append(self._unread_bytes)
        if self._unread_bytes > adapter.MAX_UNREAD_BYTES:
            full.set()

    adapter.connection.HttpConnection.quic_event_received = note  # type: ignore[method-assign]
    try:
        async with connected(tmp_path, app=application(slow=slow)) as (client, server):
            exchange = client.request("/slow", method="POST", body=body)
            await full.wait()
            async with connect(*server.quic, timeout_s=TIMEOUT_S) as other:
                for _ in range(5):
                    assert (await other.get("/name")).body == b"agent-a"
            reading.set()
            assert (await exchange.answer()).body.decode() == hashlib.sha256(body).hexdigest()
    finally:
        adapter.connection.HttpConnection.quic_event_received = original  # type: ignore[method-assign]
    assert adapter.MAX_UNREAD_BYTES < max(sizes) < 2 * adapter.MAX_UNREAD_BYTES


@pytest.mark.slow
async def test_a_client_that_acknowledges_nothing(tmp_path: Path) -> None:
    """An application that sends faster than its client receives waits, and continues when the client receives."""
    piece, pieces, sent = bytes(64 * 1024), 24, []
    blocked = asyncio.Event()

    async def large(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/large":
            await application()(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(pieces):
            if (number + 1) * len(piece) >= adapter.MAX_UNSENT_BYTES:
                blocked.set()
            await send({"type": "http.response.body", "body": piece, "more_body": number < pieces - 1})
            sent.append(number)

    async with connected(tmp_path, app=large) as (client, server):
        await client.ping()
        receive = client.datagram_received
        client.datagram_received = lambda *_: None  # type: ignore[method-assign]
        exchange = client.request("/large")
        await blocked.wait()
        async with connect(*server.quic, timeout_s=TIMEOUT_S) as other:
            for _ in range(5):
                await other.get("/name")
        assert len(sent) * len(piece) <= adapter.MAX_UNSENT_BYTES
        client.datagram_received = receive  # type: ignore[method-assign]
        assert (await exchange.answer()).length == pieces * len(piece)
    assert len(sent) == pieces


@pytest.mark.slow
async def test_a_client_that_cancels_every_request(tmp_path: Path) -> None:
    """Applications that ignore http.disconnect are bounded in number, for a client that cancels each request."""
    wanted, ending = adapter.MAX_REQUESTS + 50, asyncio.Event()
    begun: list[None] = []
    most, all_begun = asyncio.Event(), asyncio.Event()

    async def stubborn(_: Request) -> Response:
        begun.append(None)
        if len(begun) == adapter.MAX_REQUESTS:
            most.set()
        if len(begun) == wanted:
            all_begun.set()
        await ending.wait()
        return PlainTextResponse("too late")

    async with connected(tmp_path, app=application(stubborn=stubborn)) as (client, server):
        await client.ping()
        for stream_id in range(0, 4 * wanted, 4):
            client.request("/stubborn")
            await client.ping()
            client._quic.reset_stream(stream_id, 0x10C)
            client._quic.stop_stream(stream_id, 0x10C)
            client.transmit()
        await most.wait()
        async with connect(*server.quic, timeout_s=TIMEOUT_S) as other:
            assert (await other.get("/name")).body == b"agent-a"
        assert len(begun) == adapter.MAX_REQUESTS
        ending.set()
        await all_begun.wait()


async def test_running_requests_are_completed_at_the_end(tmp_path: Path) -> None:
    """A server that stops completes running requests and refuses new connections."""
    running, finishing = asyncio.Event(), asyncio.Event()

    async def last(_: Request) -> Response:
        running.set()
        await finishing.wait()
        return PlainTextResponse("complete" * 10_000)

    async with connected(tmp_path, app=application(last=last)) as (client, server):
        exchange = client.request("/last")
        await running.wait()
        server.stopping.set()
        with pytest.raises(BackendError, match="the server is stopping"):
            await until_refused(server)
        finishing.set()
        assert (await exchange.answer()).body == b"complete" * 10_000


async def test_a_request_that_never_ends_is_cancelled_at_the_end(tmp_path: Path) -> None:
    """After graceful_timeout, requests that still run are cancelled."""
    running, cancelled = asyncio.Event(), asyncio.Event()

    async def endless(_: Request) -> Response:
        running.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return PlainTextResponse("never")

    async with connected(tmp_path, app=application(endless=endless), grace_s=0.1) as (client, _):
        client.request("/endless")
        await running.wait()
    assert cancelled.is_set()


def test_sockets_are_closed(tmp_path: Path) -> None:
    """Sockets that were created for a server that never ran can be closed."""
    sockets = configuration(tmp_path).create_sockets()
    close(sockets)
    assert {sock.fileno() for sock in (*sockets.secure_sockets, *sockets.quic_sockets)} == {-1}
