"""Hostile clients: which requests they can send, and how much memory and time they can use."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qlb.admin import AdminServer
from qlb.admin import http as http_module
from qlb.admin.http import Limits
from tests.admin.conftest import FakeDaemon, Peer, Stage

HOSTILE = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no method": b" / HTTP/1.1\r\n\r\n",
    "odd version": b"GET /status HTTP/9.9.9\r\n\r\n",
    "long target": b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 2000 + b"\r\n",
    "odd header": b"GET / HTTP/1.1\r\nHost: localhost\r\n: x\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: localhost\r\n x\r\n\r\n",
    "control octets": b"GET /\x00\x07 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "length and chunks": b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "negative length": b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "bad chunk": b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "odd absolute target": b"GET http://[::1/status HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "absolute target with a bad port": b"GET http://h:999999/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "CONNECT": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "not UTF-8": b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\nAccept: \xff\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "encoding unknown": b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
    "expectation": b"POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 200-maybe\r\nContent-Length: 9999\r\n\r\n",
}


@pytest.mark.parametrize("request_", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("control", [False, True], ids=["tcp", "unix"])
async def test_hostile_requests_get_a_4xx(
    stage: Stage, request_: bytes, control: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A hostile request gets one short 4xx response without its own text. It is not logged."""
    peer = await (stage.unix() if control else stage.tcp())
    peer.send(request_)
    answer = await peer.answer()
    assert 400 <= answer.status < 500
    assert answer.headers["server"] == "qlb"
    assert len(answer.body) < 100
    assert caplog.records == []
    assert stage.daemon.calls == []
    assert (await stage.ask("GET", "/healthz", control=control)).status == 200


@pytest.mark.parametrize("target", [b"gopher://x/healthz", b"http://evil.example/healthz"])
async def test_only_the_path_of_an_absolute_target_counts(stage: Stage, target: bytes) -> None:
    """Only the path of an absolute target counts. The server is no proxy and ignores scheme and host."""
    peer = await stage.tcp()
    peer.send(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await peer.answer()).text == "ok\n"


async def test_an_odd_host_is_refused(stage: Stage) -> None:
    """A host that looks like an address literal but is not one is refused."""
    peer = await stage.tcp()
    peer.send(b"GET / HTTP/1.1\r\nHost: [::1]@evil:99999\r\n\r\n")
    assert (await peer.answer()).status == 421


async def test_an_upgrade_header_is_ignored(stage: Stage) -> None:
    """An Upgrade header is ignored, and the response is the page."""
    peer = await stage.tcp()
    peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert (await peer.answer()).status == 200


async def test_random_octets_do_no_harm(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Requests with random changes cause no log record, and the server still answers afterwards."""
    chance = random.Random(2)
    template = b"POST /drain/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nAccept: */*\r\n\r\n{}"
    for _ in range(300):
        octets = bytearray(template)
        for _ in range(chance.randrange(1, 6)):
            octets[chance.randrange(len(octets))] = chance.randrange(256)
        peer = await stage.tcp()
        peer.send(bytes(octets))
        peer.close()
    assert (await stage.ask("GET", "/healthz")).status == 200
    assert caplog.records == []


async def test_connections_are_kept_alive(stage: Stage) -> None:
    """A client can send several requests over one connection before it reads the responses."""
    peer = await stage.tcp()
    peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await peer.answer()).text == "ok\n"
    assert (await peer.answer()).status == 200


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[Stage]:
    """Run a server with strict limits."""
    daemon = FakeDaemon()
    limits = Limits(connections=3, first_request_s=1.0, idle_s=1.0)  # a busy machine needs time for a good request
    server = AdminServer(daemon.read, daemon.is_ready, daemon, limits=limits)
    found = Stage(server, daemon, tmp_path / "qlb.sock")
    await server.start(("127.0.0.1", 0), found.socket)
    yield found
    await found.close()
    await server.stop()


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HTTP/1.1\r\nHost: loc"])
async def test_a_silent_peer_is_disconnected(strict: Stage, sent: bytes) -> None:
    """A client that sends nothing or an incomplete request is disconnected."""
    peer = await strict.tcp()
    peer.send(sent)
    assert await peer.rest() == b""


async def test_an_idle_peer_is_disconnected(strict: Stage) -> None:
    """A client is disconnected when it is idle after a response, even in the middle of a new request."""
    peer = await strict.tcp()
    peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
    assert (await peer.answer()).status == 200
    assert await peer.rest() == b""


@pytest.mark.slow
async def test_a_peer_that_does_not_read_is_disconnected(strict: Stage) -> None:
    """A client that does not read is disconnected, so that its responses do not stay in memory."""
    row = strict.daemon.reading.backends[0]
    strict.daemon.set(backends=(row,) * 20_000)
    peer = await strict.tcp()
    peer.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5)
    http = strict.server._listeners[0][1]
    async with asyncio.timeout(90):
        while http.requests_count == 0 or http.connections:
            await asyncio.sleep(0)
    assert len(await peer.rest()) < 5 * 3_000_000


async def test_a_slow_command_is_not_cut_off(strict: Stage) -> None:
    """A client is not disconnected while the daemon works on its command."""
    finish = asyncio.Event()
    called = asyncio.Event()

    async def slow(_name: str) -> None:
        called.set()
        await finish.wait()

    strict.daemon.drain = slow  # type: ignore[method-assign, assignment]
    peer = await strict.unix()
    peer.send(b"POST /drain/a HTTP/1.1\r\nHost: x\r\n\r\n")
    await called.wait()
    silent = await strict.unix()
    assert await silent.rest() == b""  # this client connected later, and its time limit has passed
    finish.set()
    assert (await peer.answer()).status == 200


def crowded(per_peer: int = 64) -> Limits:
    """Return limits that four connections reach, and time limits that a slow machine does not reach."""
    return Limits(connections=4, per_peer=per_peer, first_request_s=3600.0, idle_s=3600.0)


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[Stage]:
    """Run a server that allows four connections for each listener."""
    daemon = FakeDaemon()
    server = AdminServer(daemon.read, daemon.is_ready, daemon, limits=crowded())
    found = Stage(server, daemon, tmp_path / "qlb.sock")
    await server.start(("127.0.0.1", 0), found.socket)
    yield found
    await found.close()
    await server.stop()


async def connect(stage: Stage, control: bool) -> Peer:
    """Connect to one of the two listeners."""
    return await (stage.unix() if control else stage.tcp())


async def ask(peer: Peer, target: str = "/healthz") -> int:
    """Send a request over a connection that stays open. Return the status code."""
    peer.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return (await peer.answer()).status


async def test_an_answer_that_is_not_read_is_not_copied(full: Stage) -> None:
    """For a client that stops reading, the server buffers only a part of the page, whatever the page's size."""
    full.daemon.set(backends=(full.daemon.reading.backends[0],) * 20_000)
    greedy = await full.tcp()
    greedy.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
    http = full.server._listeners[0][1]
    async with asyncio.timeout(60.0):
        while not any(one.transport and one.transport.get_write_buffer_size() for one in http.connections):
            await asyncio.sleep(0)
        for _ in range(100):
            await asyncio.sleep(0)
            assert all(one.transport.get_write_buffer_size() < 1 << 18 for one in http.connections if one.transport)
    assert (await greedy.answer()).headers["content-length"] == str(len((await full.ask("GET", "/status")).body))


@pytest.mark.parametrize("control", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize("target", ["/healthz", "/readyz", "/metrics", "/status"])
async def test_a_new_connection_replaces_the_idlest(full: Stage, control: bool, target: str) -> None:
    """At the limit a new connection is served, and the one whose last request is oldest is closed."""
    peers = [await connect(full, control) for _ in range(4)]
    for peer in (*peers, peers[0]):
        assert await ask(peer) == 200
    newcomer = await connect(full, control)
    assert await ask(newcomer, target) == 200
    assert await peers[1].rest() == b""
    for peer in (peers[0], peers[2], peers[3], newcomer):
        assert await ask(peer) == 200


@pytest.mark.parametrize("sent", [b"G", b"GET /readyz HTTP/1.1\r\nHo", b"POST /reload HTTP/1.1\r\nX: "])
async def test_a_request_that_does_not_end_is_idle(full: Stage, sent: bytes) -> None:
    """Clients with unfinished requests are closed first, however often they send another octet."""
    slow = [await full.tcp() for _ in range(3)]
    asking = await full.tcp()
    for peer in slow:
        peer.send(sent)
    assert await ask(asking) == 200
    for peer in slow:
        peer.send(b"E")
    for one in [await full.tcp() for _ in range(3)]:
        assert await ask(one) == 200
    for peer in slow:
        assert await peer.rest() == b""
    assert await ask(asking) == 200


async def test_an_answer_that_is_not_read_is_idle(full: Stage) -> None:
    """A client that does not read its responses is closed first, even if more of its requests wait."""
    full.daemon.set(backends=(full.daemon.reading.backends[0],) * 20_000)
    greedy = await full.tcp()
    greedy.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5)
    http = full.server._listeners[0][1]
    async with asyncio.timeout(60.0):
        while http.requests_count == 0 or not all(one.transport for one in http.connections):
            await asyncio.sleep(0)
    assert await ask(await full.tcp(), "/readyz") == 200
    others = [await full.tcp() for _ in range(3)]
    for peer in others:
        assert await ask(peer) == 200
    assert len(await greedy.rest()) < 5 * 3_000_000
    for peer in others:
        assert await ask(peer) == 200


async def test_running_commands_are_not_closed(full: Stage) -> None:
    """Connections with a running command are not closed, even at the limit. /readyz is still answered."""
    finish, called = asyncio.Event(), asyncio.Semaphore(0)

    async def slow(_name: str) -> None:
        called.release()
        await finish.wait()

    full.daemon.drain = slow  # type: ignore[method-assign, assignment]
    commanding = []
    for _ in range(6):
        commanding.append(await full.unix())
        commanding[-1].send(b"POST /drain/a HTTP/1.1\r\nHost: x\r\n\r\n")
        await called.acquire()
    assert (await full.ask("GET", "/readyz", control=True)).status == 200
    finish.set()
    for peer in commanding:
        assert (await peer.answer()).status == 200


async def test_the_number_of_running_commands_is_limited(full: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of running commands is limited too: beyond it, the new connection is closed."""
    monkeypatch.setattr(http_module, "_SPARES", 1)
    finish, called = asyncio.Event(), asyncio.Semaphore(0)

    async def slow(_name: str) -> None:
        called.release()
        await finish.wait()

    full.daemon.drain = slow  # type: ignore[method-assign, assignment]
    for _ in range(5):
        (await full.unix()).send(b"POST /drain/a HTTP/1.1\r\nHost: x\r\n\r\n")
        await called.acquire()
    assert await (await full.unix()).rest() == b""
    finish.set()


async def test_one_address_has_a_limit(tmp_path: Path) -> None:
    """At its limit, an address loses its own oldest connection. Clients of the control socket have no such limit."""
    daemon = FakeDaemon()
    server = AdminServer(daemon.read, daemon.is_ready, daemon, limits=crowded(per_peer=2))
    stage = Stage(server, daemon, tmp_path / "qlb.sock")
    await server.start(("127.0.0.1", 0), stage.socket)
    first, second, third = [await stage.tcp() for _ in range(3)]
    assert await first.rest() == b""
    assert [await ask(peer) for peer in (second, third)] == [200, 200]
    local = [await stage.unix() for _ in range(4)]
    assert [await ask(peer) for peer in local] == [200] * 4
    await stage.close()
    await server.stop()


@pytest.mark.parametrize(
    ("name", "peer"),
    [
        (("192.0.2.7", 5), "192.0.2.7"),
        (("2001:db8::1:2:3:4", 5, 0, 0), "2001:db8::/64"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
        ("", None),
        ((), None),
        (None, None),
    ],
)
def test_the_limit_counts_an_address_or_a_network(name: object, peer: str | None) -> None:
    """The limit counts an IPv4 address, or an IPv6 /64 network: one host can use all of its addresses."""
    assert http_module._peer(name) == peer
