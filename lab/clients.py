"""aioquic clients that send all the time, as voice clients do.

A QUIC client that has nothing to send cannot make a balancer create a new session. After a balancer has died, such a
client waits for ever, and no balancer can help it. So these clients send a request about every 30 ms.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from lab.nat import Address
from lab.stories import read_receipt
from qlb.demo.client import DemoClient, connect
from qlb.errors import BackendError

TIMEOUT_S: Final = 90.0
PAUSE_S: Final = 0.03


class Call:
    """One connection that sends small requests all the time.

    backends: the names that have answered. exchanges: the number of answers. lost: the reason if the call failed.
    """

    def __init__(self, address: Address, timeout_s: float) -> None:
        """address: of the service. timeout_s: the time limit of one answer."""
        self._address = address
        self._timeout_s = timeout_s
        self._hung_up = asyncio.Event()
        self._progress = asyncio.Condition()
        self.backends: set[str] = set()
        self.exchanges = 0
        self.lost: BackendError | None = None

    async def talk(self) -> None:
        """Send requests until hang_up(), or until an answer is missing."""
        try:
            async with connect(*self._address, timeout_s=self._timeout_s) as client:
                while not self._hung_up.is_set():
                    await self._exchange(client)
                    await self._pause()
        except BackendError as error:
            async with self._progress:
                self.lost = error
                self._progress.notify_all()

    async def until_more(self, exchanges: int) -> None:
        """Wait for more answers, or until the call is lost."""
        wanted = self.exchanges + exchanges
        async with self._progress:
            await self._progress.wait_for(lambda: self.exchanges >= wanted or self.lost is not None)

    def hang_up(self) -> None:
        """End the call."""
        self._hung_up.set()

    async def _exchange(self, client: DemoClient) -> None:
        body = str(self.exchanges).encode()
        answer = await client.request("/receipt", method="POST", body=body).answer()
        async with self._progress:
            self.backends.add(read_receipt(answer.body, body))
            self.exchanges += 1
            self._progress.notify_all()

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._hung_up.wait(), PAUSE_S)
        except TimeoutError:
            return


class Calls:
    """Many calls at once."""

    def __init__(self, calls: Sequence[Call]) -> None:
        """calls: not started yet. Use in_progress() instead."""
        self.calls = tuple(calls)

    async def until_more(self, exchanges: int = 3) -> None:
        """Wait until every call has had more answers or is lost."""
        await asyncio.gather(*(call.until_more(exchanges) for call in self.calls))

    @property
    def lost(self) -> list[str]:
        """Return the reasons of the lost calls."""
        return [str(call.lost) for call in self.calls if call.lost is not None]

    @property
    def backends(self) -> list[str]:
        """Return the backend of each call. If several have answered a call, their names are joined by "+"."""
        return ["+".join(sorted(call.backends)) for call in self.calls]


@asynccontextmanager
async def in_progress(addresses: Sequence[Address], *, timeout_s: float = TIMEOUT_S) -> AsyncIterator[Calls]:
    """Make one call for each address. Inside the block all calls are active; at its end they hang up."""
    calls = Calls([Call(address, timeout_s) for address in addresses])
    talks = [asyncio.create_task(call.talk()) for call in calls.calls]
    try:
        await calls.until_more()
        yield calls
        for call in calls.calls:
            call.hang_up()
        await asyncio.gather(*talks)
    finally:
        for talk in talks:
            talk.cancel()
        await asyncio.gather(*talks, return_exceptions=True)
