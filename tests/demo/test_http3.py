"""The HTTP/3 server of the demo backends: its answers, and its limits for hostile clients."""

import pytest
from aioquic.h3.connection import ErrorCode, H3Connection, H3Stream
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.stream import QuicStreamSender

from qlb.adapters.aioquic import RoutableServer
from qlb.demo import http3
from qlb.demo.backends import DemoBackend
from qlb.demo.client import DemoClient, connect
from qlb.demo.exchange import Exchange
from qlb.errors import BackendError

TIMEOUT_S = 90.0


def port_of(backends: list[DemoBackend]) -> int:
    """Return the port of the first backend."""
    return backends[0].endpoint.port


def its_connection(backends: list[DemoBackend]) -> QuicConnection:
    """Return the first backend's end of its only connection."""
    server = backends[0].server
    assert isinstance(server, RoutableServer)
    (protocol,) = set(server._protocols.values())
    return protocol._quic


def send_raw(client: DemoClient, data: bytes, *, end_stream: bool = False) -> int:
    """Write octets to a new request stream, bypassing HTTP/3."""
    stream_id = client._quic.get_next_available_stream_id()
    client._quic.send_stream_data(stream_id, data, end_stream)
    client.transmit()
    return stream_id


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (QuicConnection(configuration=QuicConfiguration()), "_streams"),
        (QuicStreamSender(stream_id=0, writable=True), "buffer_is_empty"),
        (QuicStreamSender(stream_id=0, writable=True), "_reset_error_code"),
        (H3Connection(QuicConnection(configuration=QuicConfiguration())), "_stream"),
        (H3Stream(0), "buffer"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_canary_aioquic_still_has(owner: object, name: str) -> None:
    """The installed aioquic has each undocumented attribute that the backend reads."""
    where = f"{type(owner).__name__}.{name}"
    assert hasattr(owner, name), f"this aioquic has no {where}: qlb.demo.http3 must be adapted"


async def test_a_get_is_answered_with_the_name(backends: list[DemoBackend]) -> None:
    """The header and the body contain the name, for every path."""
    async with connect("127.0.0.1", port_of(backends), timeout_s=TIMEOUT_S) as client:
        for path in ("/", "/anything?at=all", "/bytes/", "/bytes/-1", "/bytes/1x"):
            assert await client.get(path) == (200, "agent-a", b"agent-a\n", 8)


async def test_a_head_has_no_body(backends: list[DemoBackend]) -> None:
    """HEAD returns only headers, for both kinds of answers."""
    async with connect("127.0.0.1", port_of(backends), timeout_s=TIMEOUT_S) as client:
        for path in ("/", "/bytes/1000000"):
            assert await client.request(path, method="HEAD").answer() == (200, "agent-a", b"", 0)


@pytest.mark.parametrize("length", [0, 1, 65_535, 65_536, 65_537, 600_000])
async def test_bytes_has_the_requested_length(length: int, backends: list[DemoBackend]) -> None:
    """A long answer consists of pieces without a gap."""
    async with connect("127.0.0.1", port_of(backends), timeout_s=TIMEOUT_S) as client:
        answer = await client.get(f"/bytes/{length}")
    assert (answer.status, answer.length) == (200, length)
    assert answer.body == (bytes(range(256)) * (length // 256 + 1))[:length]


async def test_too_many_bytes_are_refused(backends: list[DemoBackend]) -> None:
    """A length above the limit is answered with 400, and the text contains the limit."""
    async with connect("127.0.0.1", port_of(backends), timeout_s=TIMEOUT_S) as client:
        assert await client.get("/bytes/104857601") == (400, "agent-a", b"N may be 104857600 at most\n", 27)


async def test_a_long_answer_is_not_kept_in_memory(backends: list[DemoBackend]) -> None:
    """Of an answer of 100 MiB, the backend has only the sent part and one more piece in memory."""
    async with connect("127.0.0.1", port_of(backends), timeout_s=TIMEOUT_S) as client:
        transfer = client.request(f"/bytes/{http3.MAX_BODY_BYTES}")
        most = 0
        for step in range(1, 11):
            await transfer.at_least(step * 50_000)
            (sender,) = (s.sender for s in its_connection(backends)._streams.values() if s.stream_id == 0)
            most = max(most, len(sender._buffer))
    assert 0 < most < 2 * 2**20


async def test_a_post_comes_back(backends: list[DemoBackend]) -> None:
    """The answer to POST is the same body, up to the limit."""
    body = b"echo" * (http3.MAX_ECHO_BYTES // 4)
    async with connect("127.0.0.1", port_of(backends), timeout_s=TIMEOUT_S) as client:
        assert await client.request("/", method="POST", body=body).answer() == (200, "agent-a", body, len(body))


async def test_a_body_too_long_is_refused(backends: list[DemoBackend]) -> None:
    """A body above the limit is answered with 413, and the connection continues."""
    async with connect("127.0.0.1", port_of(backends), timeout_s=TIMEOUT_S) as client:
        refused = client.request("/", method="POST", body=bytes(http3.MAX_ECHO_BYTES + 1))
        assert (await refused.answer()).status == 413
        assert (await client.get("/")).status == 200


async def test_other_methods_are_refused(backends: list[DemoBackend]) -> None:
    """DELETE is answered with 405."""
    async with connect("127.0.0.1", port_of(backends), timeout_s=TIMEOUT_S) as client:
        assert (await client.request("/", method="DELETE").answer()).status == 405


async def test_a_frame_without_end_is_cut_off(backends: list[DemoBackend]) -> None:
    """A HEADERS frame with a length of 16 MiB is not stored: the connection is closed with H3_EXCESSIVE_LOAD."""
    async with connect("127.0.0.1", port_of(backends), timeout_s=TIMEOUT_S) as client:
        exchange = client.request("/bytes/50000000")
        send_raw(client, b"\x01\x81\x00\x00\x00" + bytes(2 * http3.MAX_UNPARSED_BYTES))
        with pytest.raises(BackendError, match=f"code {int(ErrorCode.H3_EXCESSIVE_LOAD)}"):
            await exchange.answer()


@pytest.mark.parametrize(
    "data", [b"\x00\x05hello", b"\x01\x03\xff\xff\xff", b"\xff" * 100, b"\x04\x00", b"\x01\x00"], ids=bytes.hex
)
async def test_invalid_http3_ends_only_its_connection(data: bytes, backends: list[DemoBackend]) -> None:
    """Invalid HTTP/3 closes the connection or is ignored. The next client is served."""
    async with connect("127.0.0.1", port_of(backends), timeout_s=TIMEOUT_S) as client:
        send_raw(client, data, end_stream=True)
    async with connect("127.0.0.1", port_of(backends), timeout_s=TIMEOUT_S) as client:
        assert (await client.get("/")).status == 200


async def test_a_client_that_wants_no_answer(backends: list[DemoBackend]) -> None:
    """STOP_SENDING, before the request or during its answer, does not make the backend fail."""
    async with connect("127.0.0.1", port_of(backends), timeout_s=TIMEOUT_S) as client:
        for path in ("/", "/bytes/50000000"):
            stream_id = client._quic.get_next_available_stream_id()
            client.request(path)
            client._quic.stop_stream(stream_id, 0)
            client.transmit()
        stream_id = client._quic.get_next_available_stream_id()
        transfer = client.request("/bytes/50000000")
        await transfer.at_least(1)
        client._quic.stop_stream(stream_id, 0)
        client.transmit()
        assert (await client.get("/")).status == 200
        (protocol,) = set(backends[0].server._protocols.values())
        assert isinstance(protocol, http3.BackendProtocol)
        assert protocol._octets_to_write == {}


async def test_a_request_that_is_given_up(backends: list[DemoBackend]) -> None:
    """If a client resets its request, the backend resets the stream and drops the request."""
    async with connect("127.0.0.1", port_of(backends), timeout_s=TIMEOUT_S) as client:
        stream_id = client._quic.get_next_available_stream_id()
        client._http.send_headers(stream_id, [(b":method", b"POST"), (b":scheme", b"https"), *_WHERE])
        client.transmit()
        await client.ping()
        client._quic.reset_stream(stream_id, 0)
        client.transmit()
        assert (await client.get("/")).status == 200
        (protocol,) = set(backends[0].server._protocols.values())
        assert isinstance(protocol, http3.BackendProtocol)
        assert protocol._requests == {}


async def test_trailers_are_no_second_request(backends: list[DemoBackend]) -> None:
    """A request with trailers is answered once."""
    async with connect("127.0.0.1", port_of(backends), timeout_s=TIMEOUT_S) as client:
        stream_id = client._quic.get_next_available_stream_id()
        http = client._http
        http.send_headers(stream_id, [(b":method", b"POST"), (b":scheme", b"https"), *_WHERE])
        http.send_data(stream_id, b"body", end_stream=False)
        http.send_headers(stream_id, [(b"x-trailer", b"1")], end_stream=True)
        client._exchanges[stream_id] = exchange = Exchange("POST /", client._waits)
        client.transmit()
        assert (await exchange.answer()).body == b"body"
        assert (await client.get("/")).body == b"agent-a\n"


async def test_without_http3_nothing_is_answered(backends: list[DemoBackend]) -> None:
    """A client without a negotiated protocol gets no answer, and the backend continues."""
    async with connect("127.0.0.1", port_of(backends), timeout_s=TIMEOUT_S) as client:
        (protocol,) = set(backends[0].server._protocols.values())
        assert isinstance(protocol, http3.BackendProtocol)
        protocol._http = None
        send_raw(client, b"GET /\r\n", end_stream=True)
        await client.ping()


_WHERE = ((b":authority", b"localhost"), (b":path", b"/"))
