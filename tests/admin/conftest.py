"""A daemon that is none, behind a real admin server on loopback and on a Unix socket."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from lab.readings import sample_reading
from qlb.addresses import Endpoint
from qlb.admin import AdminServer, ReloadOutcome, UpgradeOutcome
from qlb.observe.figures import Reading

PATIENCE_S = 240.0


class FakeDaemon:
    """What the admin server asks and steers. A test sets what it says, and what it raises."""

    def __init__(self) -> None:
        """Ready, with the sample reading."""
        self.reading = sample_reading()
        self.ready = True
        self.outcome = ReloadOutcome(ok=True, generation=4, warnings=("a warning",))
        self.upgrade_outcome = UpgradeOutcome(ok=True, pid=12)
        self.error: Exception | None = None
        self.calls: list[str] = []

    def read(self) -> Reading:
        """Return the reading."""
        if self.error is not None:
            raise self.error
        return self.reading

    def is_ready(self) -> bool:
        """Say whether it is ready."""
        return self.ready

    def set(self, **fields: object) -> None:
        """Change fields of the reading."""
        self.reading = dataclasses.replace(self.reading, **fields)  # type: ignore[arg-type]

    async def reload(self, *, force: bool = False) -> ReloadOutcome:
        """Note that it was asked."""
        await self._called("reload by force" if force else "reload")
        return self.outcome

    async def upgrade(self) -> UpgradeOutcome:
        """Note that it was asked."""
        await self._called("upgrade")
        return self.upgrade_outcome

    async def drain(self, name: str) -> None:
        """Note that it was asked."""
        await self._called(f"drain {name}", name)

    async def undrain(self, name: str) -> None:
        """Note that it was asked."""
        await self._called(f"undrain {name}", name)

    async def _called(self, call: str, name: str | None = None) -> None:
        self.calls.append(call)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        if name is not None and name not in [row.name for row in self.reading.backends]:
            raise KeyError(name)


class Answer(NamedTuple):
    """An HTTP answer. headers: by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


class Peer:
    """A client that sends exactly what a test says."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Wrap a connection."""
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        """Send octets as they are."""
        self._writer.write(data)

    async def answer(self, *, head: bool = False) -> Answer:
        """Read one answer. head: it is one to a HEAD request, without a body."""
        async with asyncio.timeout(PATIENCE_S):
            lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            pairs = [line.split(": ", 1) for line in lines[1:] if line]
            headers = {name.lower(): value for name, value in pairs}
            assert len(headers) == len(pairs), "no header comes twice"
            length = 0 if head else int(headers["content-length"])
            return Answer(int(lines[0].split()[1]), headers, await self._reader.readexactly(length))

    async def rest(self) -> bytes:
        """Read until the server closes the connection."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()

    async def closed(self) -> None:
        """Wait until it is closed."""
        with suppress(OSError):
            await asyncio.wait_for(self._writer.wait_closed(), PATIENCE_S)


class Stage:
    """The server, the daemon behind it, and the clients in front of it."""

    def __init__(self, server: AdminServer, daemon: FakeDaemon, socket: Path) -> None:
        """Everything is started already."""
        self.server = server
        self.daemon = daemon
        self.socket = socket
        self._peers: list[Peer] = []

    @property
    def address(self) -> Endpoint:
        """Where it listens on TCP."""
        assert self.server.address is not None
        return self.server.address

    async def tcp(self) -> Peer:
        """Connect over TCP."""
        return self._keep(Peer(*await asyncio.open_connection(*self.address)))

    async def unix(self) -> Peer:
        """Connect to the control socket."""
        return self._keep(Peer(*await asyncio.open_unix_connection(self.socket)))

    async def ask(self, method: str, target: str, *headers: str, control: bool = False) -> Answer:
        """Send one request. headers: whole lines. control: over the control socket."""
        peer = await (self.unix() if control else self.tcp())
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
        peer.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer = await peer.answer(head=method == "HEAD")
        assert await peer.rest() == b""
        return answer

    async def close(self) -> None:
        """Close every client."""
        for peer in self._peers:
            peer.close()
        for peer in self._peers:
            await peer.closed()

    def _keep(self, peer: Peer) -> Peer:
        self._peers.append(peer)
        return peer


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A running server; in the end it is stopped and nothing is left."""
    daemon = FakeDaemon()
    server = AdminServer(daemon.read, daemon.is_ready, daemon)
    found = Stage(server, daemon, tmp_path / "run" / "qlb.sock")
    await server.start(("127.0.0.1", 0), found.socket)
    yield found
    await found.close()
    await server.stop()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:  # aiohttp lingers for bodies of clients that have gone
        _, left = await asyncio.wait(left, timeout=PATIENCE_S)
    assert not left
