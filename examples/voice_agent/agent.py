"""A voice agent: WebTransport on unmodified aioquic, with connection IDs that the balancer can decode.

The agent greets a caller with its name. A prompt is a stream of audio frames that the caller ends. The agent answers
each prompt by repeating the audio, followed by its name. It sends answers faster than real time, so that the
listener's buffer covers the delay when an address changes. Control messages are datagrams: the agent returns each
``{"ping": N, ...}`` with its name and its counts. It also answers a plain GET with its name.

``python -m examples.voice_agent.agent CONFIG NAME FOLDER`` serves one backend of the balancer's configuration, with the
certificate in FOLDER. It prints ``ready``, and ends with exit code 0 at the end of its stdin, on SIGTERM or on SIGINT.

The memory that a caller can use is bounded: one session per connection, 30 s of prompts, four answers.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from aioquic.asyncio.protocol import QuicConnectionProtocol, QuicStreamHandler
from aioquic.h3.connection import H3_ALPN, ErrorCode, H3Connection
from aioquic.h3.events import DatagramReceived, H3Event, HeadersReceived, WebTransportStreamDataReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, ProtocolNegotiated, QuicEvent, StreamReset
from aioquic.tls import SessionTicket

from examples.voice_agent.frames import FRAME_S, SAMPLES_BYTES, Arrivals, Frame, FrameReader
from examples.voice_agent.speech import say_name
from qlb.adapters.aioquic import RoutableServer, serve
from qlb.cid import CidSource
from qlb.config.load import load
from qlb.demo.backends import id_source, issued, served_here
from qlb.errors import ConfigError, QlbError

PATH: Final = "/voice"
SPEED: Final = 3
"""Factor by which an answer is sent faster than it is played."""
MAX_PROMPT_FRAMES: Final = 1500
MAX_ANSWERS: Final = 4
MAX_CONTROL_BYTES: Final = 256
MAX_TICKETS: Final = 10_000
DATAGRAM_FRAME_BYTES: Final = 65_535

ServeAgent = Callable[..., Awaitable[RoutableServer]]
"""Function that serves one agent: see ``serve_agent``."""


class Mouth:
    """Sender of a call's utterances, one after the other, each on its own stream. sent: frames so far."""

    def __init__(self, protocol: "AgentProtocol", http: H3Connection, session_id: int) -> None:
        """session_id: ID of the CONNECT request's stream."""
        self._protocol = protocol
        self._http = http
        self._session_id = session_id
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Sequence[bytes]] = deque(maxlen=MAX_ANSWERS)
        self._timer: asyncio.TimerHandle | None = None
        self._stream_id: int | None = None
        self._rest: deque[bytes] = deque()
        self._utterance = -1
        self.sent = 0

    def say(self, samples: Sequence[bytes]) -> None:
        """Queue an utterance. If MAX_ANSWERS are waiting already, the oldest one is dropped."""
        self._waiting.append(samples)
        if self._timer is None:
            self._tick()

    def close(self) -> None:
        """Stop sending, and drop the waiting utterances."""
        self._waiting.clear()
        self._rest.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        """Send the frames that are due now."""
        self._timer = None
        if self._stream_id is None and self._waiting:
            self._utterance += 1
            self._rest.extend(self._waiting.popleft())
            self._stream_id = self._http.create_webtransport_stream(self._session_id, is_unidirectional=True)
        if self._stream_id is None:
            return
        for _ in range(min(SPEED, len(self._rest))):
            self._protocol.send(self._stream_id, self._frame(self._rest.popleft()), end=not self._rest)
        if not self._rest:
            self._stream_id = None
        self._protocol.transmit()
        self._timer = self._loop.call_later(FRAME_S, self._tick)

    def _frame(self, samples: bytes) -> bytes:
        frame = Frame(self.sent, self._utterance, time.time() * 1000, samples)
        self.sent += 1
        return frame.encode()


class AgentProtocol(QuicConnectionProtocol):
    """Connection of one caller."""

    def __init__(
        self,
        quic: QuicConnection,
        stream_handler: QuicStreamHandler | None = None,
        *,
        name: str,
        jingle: Sequence[bytes],
    ) -> None:
        """name: of the agent. jingle: the spoken name, in frames."""
        super().__init__(quic, stream_handler)
        self._name = name
        self._jingle = jingle
        self._http: H3Connection | None = None
        self._session_id: int | None = None
        self._mouth: Mouth | None = None
        self._heard = Arrivals()
        self._prompts: dict[int, tuple[FrameReader, list[bytes]]] = {}

    def quic_event_received(self, event: QuicEvent) -> None:
        """Pass streams and datagrams to HTTP/3."""
        if isinstance(event, ProtocolNegotiated):
            self._http = H3Connection(self._quic, enable_webtransport=True)
        elif isinstance(event, StreamReset):
            self._prompts.pop(event.stream_id, None)
        elif isinstance(event, ConnectionTerminated):
            self._hang_up()
        if self._http is not None:
            for http_event in self._http.handle_event(event):
                self._http_event_received(self._http, http_event)

    def send(self, stream_id: int, data: bytes, *, end: bool) -> None:
        """Write to a stream. Data for a stream that the caller has stopped is dropped."""
        with contextlib.suppress(RuntimeError, ValueError):
            self._quic.send_stream_data(stream_id, data, end)

    def _http_event_received(self, http: H3Connection, event: H3Event) -> None:
        if isinstance(event, HeadersReceived):
            self._begin(http, event)
        elif isinstance(event, WebTransportStreamDataReceived) and event.session_id == self._session_id:
            self._listen(event)
        elif isinstance(event, DatagramReceived) and event.stream_id == self._session_id:
            self._control(http, event)
        elif getattr(event, "stream_id", None) == self._session_id and getattr(event, "stream_ended", False):
            self._hang_up()  # the end of the CONNECT stream is the end of the session

    def _begin(self, http: H3Connection, event: HeadersReceived) -> None:
        headers = dict(event.headers)
        path = headers.get(b":path", b"").partition(b"?")[0].decode(errors="replace")
        named = [(b"x-backend", self._name.encode())]
        if headers.get(b":method") == b"GET":
            http.send_headers(event.stream_id, [(b":status", b"200"), *named])
            http.send_data(event.stream_id, self._name.encode() + b"\n", end_stream=True)
        elif headers.get(b":protocol") != b"webtransport" or path != PATH or self._session_id is not None:
            http.send_headers(event.stream_id, [(b":status", b"404"), *named], end_stream=True)
        else:
            self._session_id = event.stream_id
            accepted = [(b":status", b"200"), (b"sec-webtransport-http3-draft", b"draft02"), *named]
            http.send_headers(event.stream_id, accepted)
            self._mouth = Mouth(self, http, event.stream_id)
            self._mouth.say(self._jingle)

    def _listen(self, event: WebTransportStreamDataReceived) -> None:
        reader, heard = self._prompts.setdefault(event.stream_id, (FrameReader(), []))
        try:
            for frame in reader.feed(event.data):
                self._heard.add(frame, time.monotonic())
                if sum(len(kept) for _, kept in self._prompts.values()) < MAX_PROMPT_FRAMES:
                    heard.append(frame.samples.ljust(SAMPLES_BYTES, b"\0"))
        except ValueError as error:
            self.close(error_code=ErrorCode.H3_MESSAGE_ERROR, reason_phrase=str(error))
        if event.stream_ended:
            self._prompts.pop(event.stream_id)
            if self._mouth is not None:
                self._mouth.say([*heard, *self._jingle])

    def _control(self, http: H3Connection, event: DatagramReceived) -> None:
        """Answer a ping with the name and the counts. Any other datagram is ignored."""
        if len(event.data) > MAX_CONTROL_BYTES:
            return
        try:
            asked = json.loads(event.data)
        except (ValueError, RecursionError):
            return
        if not isinstance(asked, dict) or "ping" not in asked or self._mouth is None:
            return
        heard = {"received": self._heard.received, "missing": self._heard.missing}
        answer = {**asked, "agent": self._name, "sent": self._mouth.sent, **heard}
        http.send_datagram(event.stream_id, json.dumps(answer).encode())

    def _hang_up(self) -> None:
        self._prompts.clear()
        if self._mouth is not None:
            self._mouth.close()


class Tickets:
    """Session tickets, with which callers can return by 0-RTT. The oldest are removed first.

    An attacker who recorded early data can replay it. That is harmless here: the agent sends a greeting in vain.
    """

    def __init__(self) -> None:
        """Start without tickets."""
        self._tickets: OrderedDict[bytes, SessionTicket] = OrderedDict()

    def add(self, ticket: SessionTicket) -> None:
        """Store a ticket."""
        self._tickets[ticket.ticket] = ticket
        if len(self._tickets) > MAX_TICKETS:
            self._tickets.popitem(last=False)

    def pop(self, label: bytes) -> SessionTicket | None:
        """Remove a ticket and return it; None if it is unknown."""
        return self._tickets.pop(label, None)


def configuration(folder: Path) -> QuicConfiguration:
    """Return aioquic's configuration, with the certificate in a folder."""
    quic = QuicConfiguration(
        is_client=False, alpn_protocols=H3_ALPN, max_datagram_frame_size=DATAGRAM_FRAME_BYTES, idle_timeout=30.0
    )
    quic.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    return quic


async def serve_agent(
    name: str, host: str, port: int, *, quic: QuicConfiguration, generator: CidSource
) -> RoutableServer:
    """Serve one agent until the server is closed. generator: of its connection IDs. Raises OSError."""
    tickets = Tickets()
    return await serve(
        host,
        port,
        configuration=quic,
        generator=generator,
        create_protocol=partial(AgentProtocol, name=name, jingle=say_name(name)),
        session_ticket_fetcher=tickets.pop,
        session_ticket_handler=tickets.add,
    )


async def _serve_until_stopped(serve_one: ServeAgent, config: Path, name: str, folder: Path) -> None:
    loaded = load(config).config
    backend = served_here(loaded, name)[0]
    generator = id_source(backend, issued(loaded))
    if generator is None:
        raise ConfigError(f"backend {name!r} has no server_ids: add one, so that the balancer can route its callers")
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    threading.Thread(target=_await_end_of_stdin, args=(loop, stop), daemon=True).start()
    server = await serve_one(name, *backend.endpoint, quic=configuration(folder), generator=generator)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await stop.wait()
    server.close()


def _await_end_of_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop is closed already
        loop.call_soon_threadsafe(stop.set)


def main(arguments: Sequence[str], serve_one: ServeAgent = serve_agent) -> int:
    """Serve one agent; return the exit code. serve_one: function that serves this kind of agent."""
    if len(arguments) != 3:
        sys.stderr.write("usage: python -m MODULE_OF_THE_AGENT CONFIG NAME FOLDER\n")
        return 2
    logging.getLogger("quic").setLevel(logging.ERROR)  # aioquic warns about each connection that a client breaks
    try:
        asyncio.run(_serve_until_stopped(serve_one, Path(arguments[0]), arguments[1], Path(arguments[2])))
    except (QlbError, OSError) as error:
        sys.stderr.write(f"{arguments[1]}: {error}\n")
        return 2 if isinstance(error, ConfigError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
