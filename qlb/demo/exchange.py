"""One request of the demo client and what has come back for it, and the way to wait for such things."""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from aioquic.h3.events import DataReceived, HeadersReceived

from qlb.errors import BackendError

KEEP_ALIVE_S: Final = 0.25
"""How long a client that waits for an answer stays silent."""
MAX_KEPT_BYTES: Final = 2**20
"""The beginning of a body that is kept; what follows is only counted."""


class Answer(NamedTuple):
    """What came back for one request.

    backend: the header x-backend, empty where there was none. body: its first MiB. length: all its octets.
    """

    status: int
    backend: str
    body: bytes
    length: int


class Waits:
    """Waits for what events bring: each bounded, and over at once when it cannot come any more.

    aioquic's own waiters leave an exception behind that nobody retrieves when such a wait is cut short.
    """

    def __init__(self, timeout_s: float, nudge: Callable[[], None]) -> None:
        """Bound each wait by timeout_s. nudge: called again and again while nothing happens."""
        self.failure: str | None = None
        """Why nothing more will come; None while it may."""
        self._timeout_s = timeout_s
        self._nudge = nudge
        self._waiters: list[asyncio.Future[None]] = []

    async def until(self, reached: Callable[[], bool], complaint: str) -> None:
        """Wait until ``reached`` says so. Raises BackendError, beginning with ``complaint``."""
        try:
            async with asyncio.timeout(self._timeout_s):
                while not reached():
                    if self.failure is not None:
                        raise BackendError(f"{complaint}: {self.failure}")
                    await self._news()
        except TimeoutError as error:
            raise BackendError(f"{complaint} within {self._timeout_s:g} s") from error

    async def _news(self) -> None:
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(KEEP_ALIVE_S):
                await waiter
        except TimeoutError:
            self._nudge()

    def wake(self) -> None:
        """Let every wait look again."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def fail(self, reason: str) -> None:
        """End every wait that has not got what it waits for, now and later."""
        self.failure = self.failure or reason
        self.wake()


class Exchange:
    """One request, and as much of its answer as has arrived."""

    def __init__(self, request: str, waits: Waits) -> None:
        """Nothing has arrived. request: how errors call it."""
        self._request = request
        self._waits = waits
        self._status = 0
        self._backend = ""
        self._body = bytearray()
        self.length = 0
        """Octets of the body so far."""
        self.ended = False
        """Whether the answer is complete."""

    async def at_least(self, length: int) -> None:
        """Wait until so many octets of the body are there, or the answer ends. Raises BackendError."""
        await self._waits.until(
            lambda: self.length >= length or self.ended, f"{self._request} not answered with {length} octets"
        )

    async def answer(self) -> Answer:
        """Wait for the whole answer. Raises BackendError."""
        await self._waits.until(lambda: self.ended, f"{self._request} not answered in full")
        return Answer(self._status, self._backend, bytes(self._body), self.length)

    def receive(self, event: HeadersReceived | DataReceived) -> None:
        """Take in a piece of the answer."""
        if isinstance(event, DataReceived):
            self.length += len(event.data)
            self._body += event.data[: MAX_KEPT_BYTES - len(self._body)]
        else:
            headers = dict(event.headers)
            if b":status" in headers:  # trailers have none
                self._status = int(headers[b":status"])
                self._backend = headers.get(b"x-backend", b"").decode(errors="replace")
        self.ended = event.stream_ended
        self._waits.wake()

    def fail(self, reason: str) -> None:
        """Nothing more will arrive."""
        self._waits.fail(reason)
