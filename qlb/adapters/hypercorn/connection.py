"""One client's connection: HTTP/3 requests for an ASGI application, by hypercorn's code.

aioquic calls this module for each datagram. hypercorn's code is asynchronous, so a queue is between the two: it keeps
the order of the events and bounds the memory that a client can use.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from aioquic.asyncio.protocol import QuicConnectionProtocol, QuicStreamHandler
from aioquic.h3.connection import ErrorCode
from aioquic.quic.connection import (
    NetworkAddress,
    QuicConnection,
    stream_is_client_initiated,
    stream_is_unidirectional,
)
from aioquic.quic.events import (
    ConnectionTerminated,
    ProtocolNegotiated,
    QuicEvent,
    StopSendingReceived,
    StreamDataReceived,
    StreamReset,
)
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.config import Config
from hypercorn.protocol.events import Event, StreamClosed
from hypercorn.protocol.h3 import H3Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.typing import AppWrapper, ConnectionState, LifespanState, WorkerContext
from hypercorn.utils import parse_socket_addr

MAX_UNREAD_BYTES: Final = 256 * 1024
"""Octets of a connection's requests that may wait for the application. While more wait, its packets are dropped."""
MAX_UNSENT_BYTES: Final = 1024 * 1024
"""Octets of a connection's responses that the client has not acknowledged. While there are more, ``send`` waits."""
MAX_REQUESTS: Final = 256
"""Running applications of one connection: twice the streams that aioquic allows at a time, for a client that opens and
resets streams. While more run, its packets wait."""
_MAX_UNPARSED_BYTES: Final = 64 * 1024
"""Octets of an incomplete HTTP/3 frame."""
_EVENT_BYTES: Final = 64
"""Octets for which an event without data counts."""
_LOG: Final = logging.getLogger("qlb.adapters.hypercorn")

StreamEvent = StreamDataReceived | StreamReset | StopSendingReceived


@dataclass
class Service:
    """The common part of all connections of one server. progress: set whenever a request may be complete."""

    app: AppWrapper
    config: Config
    context: WorkerContext
    state: LifespanState
    progress: asyncio.Event = field(default_factory=asyncio.Event)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine until it ends or the server does."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def stop(self) -> None:
        """Cancel everything that still runs, and wait for its end."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


class HttpConnection(QuicConnectionProtocol):
    """A connection whose events go to hypercorn's HTTP/3, in their order."""

    def __init__(
        self, quic: QuicConnection, stream_handler: QuicStreamHandler | None = None, *, service: Service
    ) -> None:
        """service: to which the connection belongs."""
        super().__init__(quic, stream_handler)
        self._service = service
        self._requests = _Requests(self._loop, service, self._wake)
        self._http: _Http | None = None
        self._handling: asyncio.Task[None] | None = None
        self._unread: asyncio.Queue[StreamEvent] = asyncio.Queue()
        self._unread_bytes = 0
        self._progress = asyncio.Event()

    @property
    def is_busy(self) -> bool:
        """Return whether a request is running, or its response is not delivered."""
        return any(
            stream_is_client_initiated(stream_id) and not stream_is_unidirectional(stream_id)
            for stream_id in self._quic._streams
        )

    def datagram_received(self, data: bytes | str, addr: NetworkAddress) -> None:
        """Receive a datagram, unless too much of this connection is unread: QUIC sends it again."""
        if not self._is_unread():
            super().datagram_received(data, addr)

    def quic_event_received(self, event: QuicEvent) -> None:
        """Begin HTTP/3, queue its events, and end it with the connection."""
        if isinstance(event, ProtocolNegotiated):
            self._begin()
        elif isinstance(event, ConnectionTerminated):
            self._end()
        elif isinstance(event, StreamEvent):
            self._unread_bytes += _size(event)
            self._unread.put_nowait(event)

    def transmit(self) -> None:
        """Send pending datagrams, and wake the coroutines that wait for progress."""
        if self._transport is not None and not self._transport.is_closing():
            super().transmit()
        self._wake()

    async def send(self) -> None:
        """Send what HTTP/3 has written. Return when the client has acknowledged enough of it.

        While the client's packets are dropped it cannot acknowledge anything, so then this returns at once.
        """
        self.transmit()
        while self._http is not None and self._is_unsent() and not self._is_unread():
            await self._progressed()

    def _begin(self) -> None:
        assert self._transport is not None
        sock = self._transport.get_extra_info("socket")
        peer = self._quic.get_peer_address()
        self._http = _Http(
            self._service.app,
            self._service.config,
            self._service.context,
            self._requests,
            ConnectionState(self._service.state.copy()),
            None if peer is None else (peer[0], peer[1]),
            parse_socket_addr(sock.family, sock.getsockname()),
            self._quic,
            self.send,
        )
        self._http.streams = _Streams()
        self._handling = self._service.start(self._handle_all(self._http))

    def _end(self) -> None:
        """Tell the applications of all requests that their client has gone."""
        http, self._http = self._http, None
        if http is not None and self._handling is not None:
            self._handling.cancel()
            for stream_id in tuple(http.streams):
                self._service.start(http.abandon(stream_id))
        self._wake()

    async def _handle_all(self, http: "_Http") -> None:
        """Handle the events in their order. An error ends the request that caused it, and no other."""
        while True:
            event = await self._unread.get()
            while self._requests.running >= MAX_REQUESTS:
                await self._progressed()
            try:
                await self._handle(http, event)
            except Exception:  # hypercorn's, for example about a path that is not ASCII: the client has caused it
                _LOG.debug("a request has failed", exc_info=True)
                self._reset(event.stream_id)
            finally:
                self._unread_bytes -= _size(event)
            self.transmit()  # HTTP/3 may have closed the connection, or written to its own streams

    async def _handle(self, http: "_Http", event: StreamEvent) -> None:
        if not isinstance(event, StreamDataReceived):
            self._service.start(http.abandon(event.stream_id))
            return
        await http.handle(event)
        stream = http.connection._stream.get(event.stream_id)
        if stream is not None and len(stream.buffer) > _MAX_UNPARSED_BYTES:
            self.close(error_code=ErrorCode.H3_EXCESSIVE_LOAD, reason_phrase="frame too long")

    def _reset(self, stream_id: int) -> None:
        if stream_id in self._quic._streams and not stream_is_unidirectional(stream_id):
            self._quic.reset_stream(stream_id, ErrorCode.H3_MESSAGE_ERROR)

    def _is_unread(self) -> bool:
        return self._unread_bytes > MAX_UNREAD_BYTES

    def _is_unsent(self) -> bool:
        return sum(len(stream.sender._buffer) for stream in self._quic._streams.values()) > MAX_UNSENT_BYTES

    def _wake(self) -> None:
        self._progress.set()
        self._service.progress.set()

    async def _progressed(self) -> None:
        """Wait for the next _wake()."""
        self._progress.clear()
        await self._progress.wait()


class _Http(H3Protocol):
    """hypercorn's HTTP/3 of one connection. Events of streams that have ended have no effect."""

    async def abandon(self, stream_id: int) -> None:
        """Send http.disconnect to the application of a request."""
        stream = self.streams.pop(stream_id, None)
        if stream is not None:
            await stream.handle(StreamClosed(stream_id=stream_id))

    async def stream_send(self, event: Event) -> None:
        """Write a part of a response. After the end of the request nothing is written, because aioquic would raise."""
        if event.stream_id in self.streams and (isinstance(event, StreamClosed) or self._is_open(event.stream_id)):
            await super().stream_send(event)

    def _is_open(self, stream_id: int) -> bool:
        stream = self.connection._quic._streams.get(stream_id)
        return stream is not None and stream.sender._reset_error_code is None


class _Ended:
    """A request whose response is complete, or which the client has cancelled."""

    async def handle(self, event: Event) -> None:
        """Ignore the rest of the request."""


class _Streams(dict[int, HTTPStream | WSStream]):
    """The running requests. hypercorn looks up requests that have ended, too: clients may still send their bodies."""

    def __missing__(self, stream_id: int) -> _Ended:
        return _Ended()


class _Requests(TaskGroup):
    """The running applications of one connection. Unlike in hypercorn's task group, a failed one ends no other."""

    def __init__(self, loop: asyncio.AbstractEventLoop, service: Service, ended: Callable[[], None]) -> None:
        """service: in which the tasks run. ended: called after each of them."""
        super().__init__(loop)
        self._service = service
        self._call_after_each = ended
        self.running = 0

    def spawn(self, func: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        """Start a task."""
        self.running += 1
        self._service.start(func(*args)).add_done_callback(self._ended)

    def _ended(self, _: asyncio.Task[None]) -> None:
        self.running -= 1
        self._call_after_each()


def _size(event: StreamEvent) -> int:
    return _EVENT_BYTES + (len(event.data) if isinstance(event, StreamDataReceived) else 0)
