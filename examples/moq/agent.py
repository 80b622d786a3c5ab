"""A voice agent: a MoQ session on unmodified aioquic, with connection IDs that the balancer can decode.

The agent announces a broadcast under its own name, with the track ``voice``. It sends its spoken name on that track
first. It subscribes to the track ``voice`` of the caller's broadcast. A group is one utterance; each frame of it is
20 ms of audio, as in examples.voice_agent.frames. When a group of the caller ends, the agent repeats its audio,
followed by its name, faster than real time.

``python -m examples.moq.agent CONFIG NAME FOLDER`` serves one backend of the balancer's configuration, with the
certificate in FOLDER. It prints ``ready``, and ends with exit code 0 at the end of its stdin, on SIGTERM or on SIGINT.

The memory that a caller can use is bounded: one broadcast, 30 s of prompts, four answers.
"""

import asyncio
import dataclasses
import secrets
import sys
import time
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from aioquic.asyncio.protocol import QuicConnectionProtocol, QuicStreamHandler
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, stream_is_unidirectional
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, QuicEvent, StreamDataReceived, StreamReset

from examples.moq import wire
from examples.voice_agent.agent import MAX_ANSWERS, MAX_PROMPT_FRAMES, SPEED, main
from examples.voice_agent.frames import FRAME_S, SAMPLES_BYTES, Frame, FrameReader
from examples.voice_agent.speech import say_name
from qlb.adapters.aioquic import RoutableServer, serve
from qlb.cid import CidSource

TRACK: Final = "voice"
_SUBSCRIPTION: Final = 0
_REFUSED: Final = 1
_PIECE_BYTES: Final = 4096


class MoqProtocol(QuicConnectionProtocol):
    """Connection of one caller, with a task for each stream that the caller opens."""

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
        self._hop = secrets.randbits(62) | 1
        self._tasks: set[asyncio.Task[None]] = set()
        self._readers: dict[int, asyncio.StreamReader | None] = {}
        self._answers: asyncio.Queue[Sequence[bytes]] = asyncio.Queue(MAX_ANSWERS)
        self._speaking = False
        self._sent_frames = 0
        self._sent_groups = 0
        self._kept_frames = 0

    def quic_event_received(self, event: QuicEvent) -> None:
        """Start after the handshake, pass data to the streams' readers, and end with the connection."""
        if isinstance(event, HandshakeCompleted):
            self._answers.put_nowait(self._jingle)
            self._start(self._follow_caller())
        elif isinstance(event, StreamDataReceived):
            self._feed(event.stream_id, event.data, end=event.end_stream)
        elif isinstance(event, StreamReset):
            self._feed(event.stream_id, b"", end=True)
        elif isinstance(event, ConnectionTerminated):
            for task in self._tasks:
                task.cancel()

    def _feed(self, stream_id: int, data: bytes, *, end: bool) -> None:
        if stream_id not in self._readers:
            self._start(self._serve(stream_id, self._reader(stream_id)))
        reader = self._readers[stream_id]
        if reader is not None:
            reader.feed_data(data)
            if end:
                reader.feed_eof()
        if end:
            del self._readers[stream_id]

    def _reader(self, stream_id: int) -> asyncio.StreamReader:
        reader = self._readers[stream_id] = asyncio.StreamReader()
        return reader

    def _ask(self, kind: int, message: bytes) -> asyncio.StreamReader:
        """Open a stream with a request; return the reader of the answers."""
        stream_id = self._quic.get_next_available_stream_id()
        reader = self._reader(stream_id)
        self._send(stream_id, wire.stream_type(kind) + message)
        return reader

    def _send(self, stream_id: int, data: bytes, *, end: bool = False) -> None:
        """Write to a stream. Data for a stream that the caller has stopped is dropped."""
        with suppress(RuntimeError, ValueError):
            self._quic.send_stream_data(stream_id, data, end)
        self.transmit()

    def _refuse(self, stream_id: int) -> None:
        """Stop reading a stream, and end it."""
        if stream_id in self._readers:
            self._readers[stream_id] = None
            self._quic.stop_stream(stream_id, _REFUSED)
        if not stream_is_unidirectional(stream_id):
            self._quic.reset_stream(stream_id, _REFUSED)
        self.transmit()

    async def _serve(self, stream_id: int, reader: asyncio.StreamReader) -> None:
        """Serve a stream that the caller has opened. A stream of another type is refused; that is not an error."""
        kind = await wire.read_number(reader)
        if stream_is_unidirectional(stream_id) and kind == wire.GROUP:
            await self._hear(reader)
        elif not stream_is_unidirectional(stream_id) and kind == wire.ANNOUNCE:
            await self._announce(stream_id, reader)
        elif not stream_is_unidirectional(stream_id) and kind == wire.SUBSCRIBE:
            await self._publish(stream_id, reader)
        else:
            self._refuse(stream_id)

    async def _follow_caller(self) -> None:
        """Wait for the caller's broadcast, and subscribe to its voice track."""
        announcements = self._ask(wire.ANNOUNCE, wire.Interest("").encode())
        caller = wire.Announcement.decode(await wire.read_message(announcements))
        answers = self._ask(wire.SUBSCRIBE, wire.Subscription(_SUBSCRIPTION, caller.suffix, TRACK).encode())
        await asyncio.gather(
            _drain(announcements), _drain(answers)
        )  # there is one caller, and its audio arrives in groups

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        """Receive one group to its end, and queue the answer."""
        wire.GroupHeader.decode(await wire.read_message(reader))
        heard: list[bytes] = []
        try:
            async for message in wire.messages(reader):
                [frame] = FrameReader().feed(message)
                if self._kept_frames < MAX_PROMPT_FRAMES:
                    self._kept_frames += 1
                    heard.append(frame.samples.ljust(SAMPLES_BYTES, b"\0"))
        finally:
            self._kept_frames -= len(heard)
        if self._answers.full():
            self._answers.get_nowait()
        self._answers.put_nowait([*heard, *self._jingle])

    async def _announce(self, stream_id: int, reader: asyncio.StreamReader) -> None:
        """Announce the broadcast with the agent's name, until the caller ends the stream."""
        asked = wire.Interest.decode(await wire.read_message(reader))
        if asked.prefix == "":
            self._send(stream_id, wire.Announcement(self._name, True, self._hop).encode())
        await _drain(reader)
        self._send(stream_id, b"", end=True)

    async def _publish(self, stream_id: int, reader: asyncio.StreamReader) -> None:
        """Serve a subscription until the caller ends it. Updates of its preferences are ignored."""
        asked = wire.Subscription.decode(await wire.read_message(reader))
        if (asked.broadcast, asked.track) != (self._name, TRACK) or self._speaking:
            self._refuse(stream_id)
            return
        self._send(stream_id, wire.accepted())
        self._speaking = True
        speaking = self._start(self._speak(asked.number))
        await _drain(reader)
        speaking.cancel()
        self._speaking = False
        self._send(stream_id, b"", end=True)

    async def _speak(self, subscription: int) -> None:
        """Send the answers one after the other, each in its own group."""
        while True:
            samples = await self._answers.get()
            stream_id = self._quic.get_next_available_stream_id(is_unidirectional=True)
            header = wire.GroupHeader(subscription, self._sent_groups)
            self._send(stream_id, wire.stream_type(wire.GROUP) + header.encode())
            for begin in range(0, len(samples), SPEED):
                pieces = samples[begin : begin + SPEED]
                self._send(stream_id, b"".join(map(self._next_frame, pieces)))
                await asyncio.sleep(FRAME_S)
            self._send(stream_id, b"", end=True)
            self._sent_groups += 1

    def _next_frame(self, samples: bytes) -> bytes:
        frame = Frame(self._sent_frames, self._sent_groups, time.time() * 1000, samples)
        self._sent_frames += 1
        return wire.frame(frame.encode())

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        """Close the connection if the caller violates the protocol. A stream may end at any time."""
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, asyncio.IncompleteReadError):
            self._quic.close(error_code=_REFUSED, reason_phrase=str(error))
            self.transmit()


async def _drain(reader: asyncio.StreamReader) -> None:
    """Read a stream to its end, and discard the data."""
    while await reader.read(_PIECE_BYTES):
        pass


async def serve_agent(
    name: str, host: str, port: int, *, quic: QuicConfiguration, generator: CidSource
) -> RoutableServer:
    """Serve one agent until the server is closed. generator: of its connection IDs. Raises OSError."""
    return await serve(
        host,
        port,
        configuration=dataclasses.replace(quic, alpn_protocols=[wire.ALPN]),
        generator=generator,
        create_protocol=partial(MoqProtocol, name=name, jingle=say_name(name)),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], serve_agent))
