"""A caller of the voice agent without a browser: aioquic's WebTransport and a clock instead of a microphone.

It does the same as the page: it sends prompts as streams of 20 ms frames in real time, sends pings in datagrams, and
counts the frames that it receives. Many callers fit into one process.
"""

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DatagramReceived, H3Event, HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, QuicEvent
from aioquic.tls import SessionTicket

from examples.voice_agent.agent import DATAGRAM_FRAME_BYTES, PATH
from examples.voice_agent.frames import FRAME_S, SAMPLES_BYTES, Arrivals, Frame, FrameReader
from lab.nat import Address

PING_S: Final = 0.1
IDLE_TIMEOUT_S: Final = 90.0
SAMPLES: Final = bytes(range(128)) * (SAMPLES_BYTES // 128)


class VoiceCall(QuicConnectionProtocol):
    """One call. Use ``calling`` to make it.

    agent: the name of the agent that answered. sent: the number of frames. by_agent: the agent's last report. heard:
    the frames from the agent. round_trips_s: of the answered pings. began_s, first_frame_s: the times of the first
    packet and of the first audio frame from the agent, on the loop's clock. early: whether the agent accepted the
    request in 0-RTT. lost: the reason if the call failed, "" if this side hung up, else None.
    """

    def __init__(self, quic: QuicConnection, on_heard: Callable[[float], None] | None = None) -> None:
        """quic: a client's connection. on_heard: called with the time of each event from the agent."""
        super().__init__(quic)
        self._on_heard = on_heard
        self.agent = ""
        self.sent = 0
        self.prompts = 0
        self.by_agent: dict[str, Any] = {}
        self.heard = Arrivals()
        self.utterances = 0
        self.round_trips_s: list[float] = []
        self.began_s = 0.0
        self.first_frame_s: float | None = None
        self.early = False
        self.lost: str | None = None
        self._http = H3Connection(quic, enable_webtransport=True)
        self._session_id = -1
        self._accepted = False
        self._readers: dict[int, FrameReader] = {}
        self._pings: dict[int, float] = {}
        self._pinged = 0
        self._progress = asyncio.Condition()
        self._notifying: set[asyncio.Task[None]] = set()

    def call(self, address: Address, path: str) -> None:
        """Send the first packet. With a session ticket it contains the request. Otherwise the request follows later."""
        self.began_s = self._loop.time()
        self.connect(address, transmit=False)
        self.ask(address, path)

    def ask(self, address: Address, path: str) -> None:
        """Request a session."""
        self._session_id = self._quic.get_next_available_stream_id()
        authority = "{}:{}".format(*address)
        headers = {":method": "CONNECT", ":protocol": "webtransport", ":scheme": "https", ":path": path}
        headers |= {":authority": authority, "origin": f"https://{authority}"}
        self._http.send_headers(self._session_id, [(name.encode(), value.encode()) for name, value in headers.items()])
        self.transmit()

    async def prompt(self, frames: int, *, interval_s: float = FRAME_S) -> None:
        """Send this number of frames, one each interval, and end the prompt. Stop early if the call is lost."""
        stream_id = self._http.create_webtransport_stream(self._session_id, is_unidirectional=True)
        due_s = self._loop.time()
        for left in reversed(range(frames)):
            if self.lost is not None:
                return
            frame = Frame(self.sent, self.prompts, time.time() * 1000, SAMPLES)
            self._quic.send_stream_data(stream_id, frame.encode(), end_stream=not left)
            self.transmit()
            self.sent += 1
            due_s += interval_s
            await asyncio.sleep(max(0.0, due_s - self._loop.time()))
        self.prompts += 1

    def send_prompt(self, octets: bytes) -> None:
        """Send any octets as a prompt."""
        stream_id = self._http.create_webtransport_stream(self._session_id, is_unidirectional=True)
        self._quic.send_stream_data(stream_id, octets, end_stream=True)
        self.transmit()

    def send_control(self, octets: bytes) -> None:
        """Send any octets in a datagram."""
        self._http.send_datagram(self._session_id, octets)
        self.transmit()

    async def ping_on(self, period_s: float = PING_S) -> None:
        """Send pings until this is cancelled. After a change of address, no server can find a silent client."""
        while True:
            if self._accepted and self.lost is None:
                self._pinged += 1
                self._pings[self._pinged] = self._loop.time()
                self.send_control(json.dumps({"ping": self._pinged}).encode())
            await asyncio.sleep(period_s)

    async def until(self, condition: Callable[["VoiceCall"], bool]) -> None:
        """Wait until a condition is true for the call, or until the call is lost."""
        async with self._progress:
            await self._progress.wait_for(lambda: self.lost is not None or condition(self))

    async def ended(self) -> None:
        """Wait until the call is lost."""
        await self.until(lambda _: False)

    async def answered(self, utterances: int) -> None:
        """Wait until this number of utterances has arrived, and each side has all frames of the other."""
        await self.until(lambda call: call.utterances >= utterances)
        await self.until(lambda call: call.by_agent.get("received") == call.sent)
        await self.until(lambda call: call.by_agent.get("sent") == call.heard.received)

    async def give_up(self, reason: str) -> None:
        """Treat the call as lost, as a caller does that receives nothing any more."""
        self.lost = self.lost or reason
        await self._notify()

    def hang_up(self) -> None:
        """End the call, without waiting for the agent's answer."""
        self.lost = self.lost or ""
        self.close()
        if self._transport is not None:
            self._transport.close()

    def quic_event_received(self, event: QuicEvent) -> None:
        """Count events and update the call's state."""
        if isinstance(event, HandshakeCompleted):
            self.early = event.early_data_accepted
        elif isinstance(event, ConnectionTerminated) and self.lost is None:
            self.lost = f"code {event.error_code} {event.reason_phrase}".rstrip()
        for http_event in self._http.handle_event(event):
            self._http_event_received(http_event)
        task = asyncio.ensure_future(self._notify())
        self._notifying.add(task)
        task.add_done_callback(self._notifying.discard)

    def _http_event_received(self, event: H3Event) -> None:
        if self._on_heard is not None:
            self._on_heard(self._loop.time())
        if isinstance(event, HeadersReceived):
            headers = dict(event.headers)
            self.agent = headers[b"x-backend"].decode()
            self._accepted = headers[b":status"] == b"200"
            if not self._accepted:
                self.lost = "the agent has refused"
        elif isinstance(event, WebTransportStreamDataReceived):
            self._receive_audio(event)
        elif isinstance(event, DatagramReceived):
            self.by_agent = json.loads(event.data)
            sent_s = self._pings.pop(self.by_agent["ping"])
            self.round_trips_s.append(self._loop.time() - sent_s)

    def _receive_audio(self, event: WebTransportStreamDataReceived) -> None:
        now_s = self._loop.time()
        reader = self._readers.setdefault(event.stream_id, FrameReader())
        for frame in reader.feed(event.data):
            if self.first_frame_s is None:
                self.first_frame_s = now_s
            self.heard.add(frame, now_s)
        if event.stream_ended:
            del self._readers[event.stream_id]
            self.utterances += 1

    async def _notify(self) -> None:
        async with self._progress:
            self._progress.notify_all()


@asynccontextmanager
async def calling(
    address: Address,
    *,
    path: str = PATH,
    ticket: SessionTicket | None = None,
    keep_ticket: Callable[[SessionTicket], None] | None = None,
    ping_s: float = PING_S,
    on_heard: Callable[[float], None] | None = None,
) -> AsyncIterator[VoiceCall]:
    """Call an agent at an IPv4 address, and hang up at the end of the block.

    ticket: of an earlier call, for 0-RTT. keep_ticket: called with each ticket for a next call. ping_s: the interval of
    pings. on_heard: called with the time of each event from the agent.
    """
    configuration = QuicConfiguration(
        alpn_protocols=H3_ALPN,
        server_name="localhost",
        verify_mode=ssl.CERT_NONE,
        max_datagram_frame_size=DATAGRAM_FRAME_BYTES,
        idle_timeout=IDLE_TIMEOUT_S,
        session_ticket=ticket,
    )
    quic = QuicConnection(configuration=configuration, session_ticket_handler=keep_ticket)
    loop = asyncio.get_running_loop()
    _, call = await loop.create_datagram_endpoint(lambda: VoiceCall(quic, on_heard), local_addr=("127.0.0.1", 0))
    pinging = asyncio.create_task(call.ping_on(ping_s))
    try:
        call.call(address, path)
        yield call
    finally:
        pinging.cancel()
        with suppress(asyncio.CancelledError):
            await pinging
        call.hang_up()
