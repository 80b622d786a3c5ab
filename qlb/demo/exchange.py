"""One request of the demo client with its answer, and bounded waits for events."""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from aioquic.h3.events import DataReceived, HeadersReceived

from qlb.errors import BackendError

KEEP_ALIVE_S: Final = 0.25
"""The time after which a client that waits for an answer sends something again."""
MAX_KEPT_BYTES: Final = 2**20
"""The stored part of a body. Octets after it are only counted."""


class Answer(NamedTuple):
    """The answer to one request.

    backend: the header x-backend, or ``""``. body: its first MiB. length: the number of all its octets.
    """

    status: int
    backend: str
    body: bytes
    length: int


class Waits:
    """Waits for conditions that events make true. Each is bounded, and ends at once if the connection has failed.

    aioquic's own waiters would leave an exception that is never retrieved if such a wait is cancelled.
    """

    def __init__(self, timeout_s: float, nudge: Callable[[], None]) -> None:
        """timeout_s: the limit of each wait. nudge: called every KEEP_ALIVE_S seconds while no event comes."""
        self.failure: str | None = None
        """The reason why no more events will come; None while they may."""
        self._timeout_s = timeout_s
        self._nudge = nudge
        self._waiters: list[asyncio.Future[None]] = []

    async def until(self, reached: Callable[[], bool], complaint: str) -> None:
        """Wait until ``reached`` returns true. Raises BackendError, whose text begins with ``complaint``."""
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
        """Make every wait check its condition again."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def fail(self, reason: str) -> None:
        """End every wait whose condition is not true, now and later."""
        self.failure = self.failure or reason
        self.wake()


class Exchange:
    """One request and the part of its answer that has arrived."""

    def __init__(self, request: str, waits: Waits) -> None:
        """request: its name in errors."""
        self._request = request
        self._waits = waits
        self._status = 0
        self._backend = ""
        self._body = bytearray()
        self.length = 0
        """The number of octets of the body so far."""
        self.ended = False
        """True if the answer is complete."""

    async def at_least(self, length: int) -> None:
        """Wait until this number of octets of the body has arrived, or the answer has ended. Raises BackendError."""
        await self._waits.until(
            lambda: self.length >= length or self.ended, f"{self._request} not answered with {length} octets"
        )

    async def answer(self) -> Answer:
        """Wait for the whole answer. Raises BackendError."""
        await self._waits.until(lambda: self.ended, f"{self._request} not answered in full")
        return Answer(self._status, self._backend, bytes(self._body), self.length)

    def receive(self, event: HeadersReceived | DataReceived) -> None:
        """Process a piece of the answer."""
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
        """End the exchange: nothing more will arrive."""
        self._waits.fail(reason)
