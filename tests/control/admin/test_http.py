"""Hostile peers: what they can send, how much they can hold, for how long."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from qlb.control.admin import AdminServer
from qlb.control.admin.http import Limits
from tests.control.admin.conftest import FakeDaemon, Stage

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
    """One short answer that echoes nothing, nothing in the log, and the next client is served."""
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
async def test_an_absolute_target_is_its_path(stage: Stage, target: bytes) -> None:
    """We are no proxy: what a target says of schemes and hosts is not followed."""
    peer = await stage.tcp()
    peer.send(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await peer.answer()).text == "ok\n"


async def test_an_odd_host_is_refused(stage: Stage) -> None:
    """It looks like a literal and is none."""
    peer = await stage.tcp()
    peer.send(b"GET / HTTP/1.1\r\nHost: [::1]@evil:99999\r\n\r\n")
    assert (await peer.answer()).status == 421


async def test_an_upgrade_is_not_taken_up(stage: Stage) -> None:
    """The answer is the page, and what follows is a request again."""
    peer = await stage.tcp()
    peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert (await peer.answer()).status == 200


async def test_random_octets_do_no_harm(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Requests with octets changed at random: an answer or a closed connection, and nothing in the log."""
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
    """A scraper uses one connection; several requests may be under way on it."""
    peer = await stage.tcp()
    peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await peer.answer()).text == "ok\n"
    assert (await peer.answer()).status == 200


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[Stage]:
    """A server that grants its peers little."""
    daemon = FakeDaemon()
    limits = Limits(connections=3, first_request_s=0.05, idle_s=0.05)
    server = AdminServer(daemon.read, daemon.is_ready, daemon, limits=limits)
    found = Stage(server, daemon, tmp_path / "qlb.sock")
    await server.start(("127.0.0.1", 0), found.socket)
    yield found
    await found.close()
    await server.stop()


@pytest.mark.parametrize("said", [b"", b"GET /healthz HTTP/1.1\r\nHost: loc"])
async def test_a_silent_peer_is_let_go(strict: Stage, said: bytes) -> None:
    """Whoever says nothing, or begins and does not end, is disconnected."""
    peer = await strict.tcp()
    peer.send(said)
    assert await peer.rest() == b""


async def test_an_idle_peer_is_let_go(strict: Stage) -> None:
    """After an answer too, even if it has begun another request."""
    peer = await strict.tcp()
    peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea")
    assert (await peer.answer()).status == 200
    assert await peer.rest() == b""


async def test_a_peer_that_does_not_read_is_let_go(strict: Stage) -> None:
    """An answer that nobody takes does not stay in memory."""
    row = strict.daemon.reading.backends[0]
    strict.daemon.set(backends=(row,) * 20_000)
    peer = await strict.tcp()
    peer.send(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n" * 5)
    http = strict.server._listeners[0][1]
    async with asyncio.timeout(5.0):
        while http.requests_count == 0 or http.connections:
            await asyncio.sleep(0)
    assert len(await peer.rest()) < 5 * 3_000_000


async def test_a_command_may_take_its_time(strict: Stage) -> None:
    """While the daemon works on an answer, its peer is not late."""
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
    assert await silent.rest() == b""  # the limit is over for one who came later
    finish.set()
    assert (await peer.answer()).status == 200


async def test_connections_are_bounded_for_each_listener(strict: Stage) -> None:
    """One too many is closed at once; the control socket is not affected; a place that is free again can be had."""
    held = [await strict.tcp() for _ in range(3)]
    for peer in held:
        peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await peer.answer()).status == 200
    turned_away = await strict.tcp()
    assert await turned_away.rest() == b""
    assert (await strict.ask("GET", "/healthz", control=True)).status == 200
    for peer in held:
        await peer.rest()
    assert (await strict.ask("GET", "/healthz")).status == 200
