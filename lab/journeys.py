"""One client's journey: a transfer that is kept unfinished while its address changes, and then finished.

Every client always has something to send. A client that only receives falls silent when a change of address cuts it
off. The server then cannot learn its new address, and no balancer could help.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from lab import ngtcp2
from lab.nat import NatPort
from lab.stories import BrokenStory, Gates, read_receipt, read_story, split
from qlb.demo.client import DemoClient, connect
from qlb.errors import BackendError

TIMEOUT_S: Final = 240.0
SLOW_DATAGRAMS_PER_S: Final = 40.0
UPLOAD_BYTES: Final = 120_000
"""At this rate the upload lasts at least three seconds, unless the link is made fast again."""
_CHANGE_AFTER: Final = "200ms"
_PING_S: Final = 0.2
"""Fifty clients share one process: with a ping each 50 ms they fill a core, and a starved machine never catches up."""


@dataclass
class Journey:
    """The result of a journey. backend: the server of all of it. changes: of the address. lost: the reason, or None."""

    backend: str = ""
    changes: int = 0
    lost: str | None = None


Change = Callable[[NatPort], Awaitable[None]]
"""Change the address of a client during a transfer. Return when its datagrams flow again."""


async def rebound_twice(port: NatPort) -> None:
    """Act as a NAT that forgets a mapping: first change the port, then port and address."""
    for host in (None, "127.0.0.9" if ":" not in port.address[0] else None):
        port.rebind(host=host)
        await port.until_flowing()


async def aioquic_journey(port: NatPort, gates: Gates, change: Change, *, migrations: int = 0) -> Journey:
    """Download a story with aioquic. migrations: moves to a fresh connection ID, after the change."""
    gate = str(port.address[1])
    journey = Journey()
    try:
        async with asyncio.timeout(TIMEOUT_S), connect(*port.address, timeout_s=TIMEOUT_S) as client:
            pings = asyncio.create_task(_ping(client))
            try:
                exchange = client.request(f"/story/{gate}")
                await port.until_flowing()
                await change(port)
                for _ in range(migrations):
                    await client.rebind(new_connection_id=True)
                    await port.until_flowing()
                journey.changes = port.changes
                gates.open(gate)
                journey.backend = read_story((await exchange.answer()).body)
            finally:
                pings.cancel()
    except (TimeoutError, BackendError, BrokenStory) as error:
        journey.lost = f"{error!r}: {port}"
    return journey


async def ngtcp2_journey(
    port: NatPort,
    gates: Gates,
    change: Change,
    folder: Path,
    mode: ngtcp2.Mode,
    *,
    upload_bytes: int = UPLOAD_BYTES,
    datagrams_per_s: float = SLOW_DATAGRAMS_PER_S,
) -> Journey:
    """Send a file over a slow link with ngtcp2 while it downloads a story.

    mode: how the client changes its own address. upload_bytes, datagrams_per_s: the upload must last longer than the
    changes, because a client that has sent everything falls silent.
    """
    gate, body, sent = str(port.address[1]), *_body(port, folder, upload_bytes)

    def finish() -> None:
        port.speed_up()
        gates.open(gate)

    def read(answer: bytes) -> str:
        story, receipt = split(answer)
        backend = read_story(story)
        if read_receipt(receipt, sent) != backend:
            raise BrokenStory(f"the story is {backend}'s, the receipt {receipt!r}")
        return backend

    port.slow_down(datagrams_per_s)
    transfer = ngtcp2.download(
        port.address, f"/story/{gate}", folder / gate, mode=mode, change_after=_CHANGE_AFTER, upload=body
    )
    return await _ngtcp2(transfer, port, change, mode, finish, read)


async def ngtcp2_rush(port: NatPort, change: Change, folder: Path, size: int) -> Journey:
    """Send a file of this size as fast as possible with ngtcp2."""
    mode, body, sent = ngtcp2.Mode.STAY, *_body(port, folder, size)
    transfer = ngtcp2.download(port.address, "/receipt", folder / str(port.address[1]), mode=mode, upload=body)
    return await _ngtcp2(transfer, port, change, mode, lambda: None, lambda answer: read_receipt(answer, sent))


def _body(port: NatPort, folder: Path, size: int) -> tuple[Path, bytes]:
    """Write the file that a client sends. Return its path and its octets."""
    body, octets = folder / f"{port.address[1]}.body", secrets.token_bytes(size)
    body.write_bytes(octets)
    return body, octets


async def _ping(client: DemoClient) -> None:
    while True:
        await client.ping()
        await asyncio.sleep(_PING_S)


async def _moved(port: NatPort, change: Change, mode: ngtcp2.Mode) -> None:
    if mode is not ngtcp2.Mode.STAY:
        await port.until_clients(2)
    await port.until_flowing()
    await change(port)


async def _unless_ended(moving: Coroutine[Any, Any, None], running: asyncio.Future[ngtcp2.Download]) -> None:
    """Wait for the changes of address, or for the end of a client that ends before them."""
    changes = asyncio.ensure_future(moving)
    try:
        await asyncio.wait((changes, running), return_when=asyncio.FIRST_COMPLETED)
        if changes.done():
            await changes
    finally:
        changes.cancel()
        await asyncio.gather(changes, return_exceptions=True)


async def _ngtcp2(
    transfer: Awaitable[ngtcp2.Download],
    port: NatPort,
    change: Change,
    mode: ngtcp2.Mode,
    finish: Callable[[], None],
    read: Callable[[bytes], str],
) -> Journey:
    journey = Journey()
    running = asyncio.ensure_future(transfer)
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await _unless_ended(_moved(port, change, mode), running)
            journey.changes = port.changes
            finish()
            found = await running
        journey.lost = f"exit code {found.exit_code}: {found.output}"
        if not found.exit_code:
            journey.backend = read(found.body or b"")
            journey.lost = None
    except BrokenStory as error:
        journey.lost = f"{error!r}: {port}; {journey.lost}"
    except TimeoutError as error:
        journey.lost = f"{error!r}: {port}"
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return journey
