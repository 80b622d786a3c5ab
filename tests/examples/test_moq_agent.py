"""Tests of the MoQ agent without a balancer: the requests that it answers and rejects."""

import asyncio
import ssl
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol, QuicStreamHandler
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, QuicEvent, StopSendingReceived, StreamDataReceived, StreamReset

from examples.moq import agent, wire
from examples.moq.agent import TRACK, serve_agent
from examples.moq.caller import BROADCAST, calling
from examples.voice_agent.agent import configuration
from examples.voice_agent.frames import SAMPLES_BYTES, Frame
from examples.voice_agent.speech import say_name
from lab.nat import Address
from qlb.cid import CidGenerator, CidParams
from qlb.demo.http3 import make_certificate

LIMIT_S: Final = 90.0
PARAMS: Final = CidParams(config_id=1, server_id_length=4, nonce_length=12, key=bytes(16))
NAME: Final = "agent-b"
FAST_S: Final = 0.001
FIRST_GROUP: Final = 3
"""The first unidirectional stream that a server opens."""


class OneAgent(NamedTuple):
    """A running agent. sha256: of its certificate."""

    address: Address
    sha256: bytes

    @property
    def url(self) -> str:
        """The URL of the agent for a MoQ client."""
        return "moqt://{}:{}".format(*self.address)


@asynccontextmanager
async def one_agent(folder: Path) -> AsyncIterator[OneAgent]:
    """Run one agent on a free port."""
    certificate = make_certificate()
    certificate.write(folder)
    async with asyncio.timeout(LIMIT_S):
        quic, generator = configuration(folder), CidGenerator(PARAMS, b"bbbb")
        server = await serve_agent(NAME, "127.0.0.1", 0, quic=quic, generator=generator)
        try:
            yield OneAgent(server.address, certificate.sha256)
        finally:
            server.close()


class Streams(QuicConnectionProtocol):
    """A client that writes raw octets to streams. received, refused: by stream. ended: the end of the connection."""

    def __init__(self, quic: QuicConnection, stream_handler: QuicStreamHandler | None = None) -> None:
        """Start without streams."""
        super().__init__(quic, stream_handler)
        self.received: defaultdict[int, bytes] = defaultdict(bytes)
        self.refused: set[int] = set()
        self.ended: ConnectionTerminated | None = None
        self._arrived = asyncio.Event()

    def quic_event_received(self, event: QuicEvent) -> None:
        """Record the event."""
        if isinstance(event, StreamDataReceived):
            self.received[event.stream_id] += event.data
        elif isinstance(event, StreamReset | StopSendingReceived):
            self.refused.add(event.stream_id)
        elif isinstance(event, ConnectionTerminated):
            self.ended = event
        self._arrived.set()

    def open(self, octets: bytes, *, one_way: bool = False, end: bool = False) -> int:
        """Open a stream with these octets; return its ID."""
        stream_id = self._quic.get_next_available_stream_id(is_unidirectional=one_way)
        self._quic.send_stream_data(stream_id, octets, end)
        self.transmit()
        return stream_id

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until a condition is true."""
        while not condition():
            self._arrived.clear()
            await self._arrived.wait()


@asynccontextmanager
async def streams_to(address: Address) -> AsyncIterator[Streams]:
    """Connect to an agent with aioquic."""
    quic = QuicConfiguration(alpn_protocols=[wire.ALPN], server_name="localhost", verify_mode=ssl.CERT_NONE)
    async with connect(*address, configuration=quic, create_protocol=Streams) as client:
        assert isinstance(client, Streams)
        yield client


async def test_it_greets_and_echoes_prompts(tmp_path: Path) -> None:
    """A standard MoQ client that follows the track gets a greeting, then its prompt followed by the name."""
    jingle, prompt = say_name(NAME), [bytes([number]) * SAMPLES_BYTES for number in range(7)]
    async with one_agent(tmp_path) as found, calling(found.url, found.sha256) as call:
        await call.answered(1)
        await call.prompt(prompt, interval_s=FAST_S)
        await call.answered(2)
        assert call.agent == NAME
        assert call.answers == [jingle, [*prompt, *jingle]]
        assert (call.heard.missing, call.connections) == (0, 1)


async def test_the_echo_of_a_prompt_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the first frames of a long prompt are echoed, and the next prompt works as usual."""
    monkeypatch.setattr(agent, "MAX_PROMPT_FRAMES", 10)
    async with one_agent(tmp_path) as found, calling(found.url, found.sha256) as call:
        await call.answered(1)
        for number in range(2):
            await call.prompt([bytes(SAMPLES_BYTES)] * 25, interval_s=FAST_S)
            await call.answered(2 + number)
            assert len(call.answers[-1]) == 10 + len(say_name(NAME))


async def test_only_the_newest_answers_are_queued(tmp_path: Path) -> None:
    """At most four answers are queued for a caller that has not subscribed yet; the oldest are dropped."""
    async with one_agent(tmp_path) as found, streams_to(found.address) as client:
        for number in range(10):
            prompt = Frame(number, number, 0.0, bytes([number]) * SAMPLES_BYTES).encode()
            client.open(group(number) + wire.frame(prompt), one_way=True, end=True)
        await client.ping()
        client.open(subscription(NAME, TRACK))
        await client.until(lambda: len(client.received[FIRST_GROUP]) > SAMPLES_BYTES)
        assert bytes([6]) * SAMPLES_BYTES in client.received[FIRST_GROUP]


async def test_unexpected_streams_are_rejected(tmp_path: Path) -> None:
    """Unknown types, an unknown track and a track that is already served are rejected; the connection continues."""
    async with one_agent(tmp_path) as found, streams_to(found.address) as client:
        client.open(subscription(NAME, TRACK))
        two_way = [
            wire.stream_type(4),
            wire.stream_type(wire.GROUP),
            subscription(NAME, "other"),
            subscription(NAME, TRACK),
        ]
        refused = {client.open(octets) for octets in two_way}
        refused.add(client.open(wire.stream_type(wire.SUBSCRIBE), one_way=True))
        await client.until(lambda: client.refused == refused)
        await client.ping()
        assert client.ended is None


@pytest.mark.parametrize(
    ("octets", "one_way", "reason"),
    [
        (wire.stream_type(wire.ANNOUNCE) + wire.stream_type(5000), False, "at most 4096 octets, not 5000"),
        (wire.stream_type(wire.SUBSCRIBE) + b"\x02\x01\x09", False, ""),
        (wire.stream_type(wire.GROUP) + wire.GroupHeader(0, 0).encode() + b"\x01x", True, "not enough values"),
    ],
    ids=["too long", "no text", "no audio"],
)
async def test_an_invalid_message_ends_the_connection(
    tmp_path: Path, octets: bytes, one_way: bool, reason: str
) -> None:
    """An invalid message closes the connection, with the reason."""
    async with one_agent(tmp_path) as found, streams_to(found.address) as client:
        client.open(octets, one_way=one_way)
        await client.until(lambda: client.ended)
        assert client.ended is not None
        assert client.ended.error_code == 1
        assert reason in client.ended.reason_phrase


async def test_a_truncated_stream_is_harmless(tmp_path: Path) -> None:
    """A stream may end in the middle of a type, message or frame; the connection continues."""
    async with one_agent(tmp_path) as found, streams_to(found.address) as client:
        for octets in (b"\x40", wire.stream_type(wire.SUBSCRIBE) + b"\x09\x01", b""):
            client.open(octets, end=True)
        client.open(group(0) + b"\x20half", one_way=True, end=True)
        await client.ping()
        asked = client.open(wire.stream_type(wire.ANNOUNCE) + wire.Interest("").encode())
        await client.until(lambda: NAME.encode() in client.received[asked])
        assert client.ended is None


async def test_a_track_can_be_subscribed_again(tmp_path: Path) -> None:
    """After the end of its subscription, a client may subscribe to the track again."""
    async with one_agent(tmp_path) as found, streams_to(found.address) as client:
        first = client.open(subscription(NAME, TRACK), end=True)
        await client.until(lambda: client.received[first] == wire.accepted())
        await client.ping()
        again = client.open(subscription(NAME, TRACK))
        await client.until(lambda: client.received[again] == wire.accepted())
        assert not client.refused


def test_the_caller_publishes_what_the_agent_subscribes_to() -> None:
    """Caller and agent use the names of the README."""
    assert (BROADCAST, TRACK) == ("caller", "voice")


def group(sequence: int) -> bytes:
    """Return the start of a group stream."""
    return wire.stream_type(wire.GROUP) + wire.GroupHeader(0, sequence).encode()


def subscription(broadcast: str, track: str) -> bytes:
    """Return the start of a stream that subscribes to a track."""
    return wire.stream_type(wire.SUBSCRIBE) + wire.Subscription(0, broadcast, track).encode()
