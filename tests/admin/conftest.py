"""A fake daemon behind a real admin server, which listens on loopback and on a Unix socket."""

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
    """The fake daemon that the admin server reads and commands. A test sets its results and its errors."""

    def __init__(self) -> None:
        """Create a daemon that is ready and returns the sample reading."""
        self.reading = sample_reading()
        self.ticks = False
        """True: each reading is a second later than the one before."""
        self.ready = True
        self.outcome = ReloadOutcome(ok=True, generation=4, warnings=("a warning",))
        self.upgrade_outcome = UpgradeOutcome(ok=True, pid=12)
        self.error: Exception | None = None
        self.calls: list[str] = []

    def read(self) -> Reading:
        """Return the reading, or raise the error that the test has set."""
        if self.error is not None:
            raise self.error
        if self.ticks:
            self.set(uptime_s=self.reading.uptime_s + 1)
        return self.reading

    def is_ready(self) -> bool:
        """Return whether the daemon is ready."""
        return self.ready

    def set(self, **fields: object) -> None:
        """Change fields of the reading."""
        self.reading = dataclasses.replace(self.reading, **fields)  # type: ignore[arg-type]

    async def reload(self, *, force: bool = False) -> ReloadOutcome:
        """Record the call and return the reload outcome."""
        await self._called("reload by force" if force else "reload")
        return self.outcome

    async def upgrade(self) -> UpgradeOutcome:
        """Record the call and return the upgrade outcome."""
        await self._called("upgrade")
        return self.upgrade_outcome

    async def configuration(self, *, with_defaults: bool) -> dict[str, object]:
        """Record the call and return a configuration."""
        await self._called("all of config" if with_defaults else "config")
        return {"generation": 4, "config": {"listen": []}}

    async def drain(self, name: str) -> None:
        """Record the call. Raise KeyError for an unknown backend."""
        await self._called(f"drain {name}", name)

    async def undrain(self, name: str) -> None:
        """Record the call. Raise KeyError for an unknown backend."""
        await self._called(f"undrain {name}", name)

    async def _called(self, call: str, name: str | None = None) -> None:
        self.calls.append(call)
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        if name is not None and name not in [row.name for row in self.reading.backends]:
            raise KeyError(name)


class Answer(NamedTuple):
    """An HTTP response. headers: by lower-case name."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """Return the body as text."""
        return self.body.decode()


class Peer:
    """A client that sends exactly the octets that a test gives it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Wrap an open connection."""
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        """Send octets unchanged."""
        self._writer.write(data)

    async def answer(self, *, head: bool = False) -> Answer:
        """Read one response. head: it answers a HEAD request and has no body."""
        async with asyncio.timeout(PATIENCE_S):
            lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            pairs = [line.split(": ", 1) for line in lines[1:] if line]
            headers = {name.lower(): value for name, value in pairs}
            assert len(headers) == len(pairs), "a header is repeated"
            length = 0 if head else int(headers["content-length"])
            return Answer(int(lines[0].split()[1]), headers, await self._reader.readexactly(length))

    async def rest(self) -> bytes:
        """Read until the server closes the connection, and return the octets."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()

    async def closed(self) -> None:
        """Wait until the connection is closed."""
        with suppress(OSError):
            await asyncio.wait_for(self._writer.wait_closed(), PATIENCE_S)


class Stage:
    """The server, the daemon behind it, and the clients in front of it."""

    def __init__(self, server: AdminServer, daemon: FakeDaemon, socket: Path) -> None:
        """Wrap a server and a daemon that are already started."""
        self.server = server
        self.daemon = daemon
        self.socket = socket
        self._peers: list[Peer] = []

    @property
    def address(self) -> Endpoint:
        """Return the TCP address on which the server listens."""
        assert self.server.address is not None
        return self.server.address

    async def tcp(self) -> Peer:
        """Connect over TCP."""
        return self._keep(Peer(*await asyncio.open_connection(*self.address)))

    async def unix(self) -> Peer:
        """Connect to the control socket."""
        return self._keep(Peer(*await asyncio.open_unix_connection(self.socket)))

    async def ask(self, method: str, target: str, *headers: str, control: bool = False) -> Answer:
        """Send one request and return the response. headers: whole lines. control: use the control socket."""
        peer = await (self.unix() if control else self.tcp())
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
        peer.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer = await peer.answer(head=method == "HEAD")
        assert await peer.rest() == b""
        return answer

    async def close(self) -> None:
        """Close every client connection."""
        for peer in self._peers:
            peer.close()
        for peer in self._peers:
            await peer.closed()

    def _keep(self, peer: Peer) -> Peer:
        self._peers.append(peer)
        return peer


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """Yield a running server. After the test, stop it and check that no task remains."""
    daemon = FakeDaemon()
    server = AdminServer(daemon.read, daemon.is_ready, daemon)
    found = Stage(server, daemon, tmp_path / "run" / "qlb.sock")
    await server.start(("127.0.0.1", 0), found.socket)
    yield found
    await found.close()
    await server.stop()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:  # aiohttp waits a moment for the request bodies of clients that have disconnected
        _, left = await asyncio.wait(left, timeout=PATIENCE_S)
    assert not left
