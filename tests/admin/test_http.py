"""Hostile peers: what they can send, how much they can hold, for how long."""

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
    async with asyncio.timeout(90):
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


def crowded(per_peer: int = 64) -> Limits:
    """Return bounds that four connections reach, and no time limit that a slow machine could reach."""
    return Limits(connections=4, per_peer=per_peer, first_request_s=3600.0, idle_s=3600.0)


@pytest.fixture
async def full(tmp_path: Path) -> AsyncIterator[Stage]:
    """A server that has room for four connections on each listener."""
    daemon = FakeDaemon()
    server = AdminServer(daemon.read, daemon.is_ready, daemon, limits=crowded())
    found = Stage(server, daemon, tmp_path / "qlb.sock")
    await server.start(("127.0.0.1", 0), found.socket)
    yield found
    await found.close()
    await server.stop()


async def connect(stage: Stage, control: bool) -> Peer:
    """Return a client on one of the listeners."""
    return await (stage.unix() if control else stage.tcp())


async def ask(peer: Peer, target: str = "/healthz") -> int:
    """Ask over a connection that stays open."""
    peer.send(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return (await peer.answer()).status


async def test_an_answer_that_is_not_read_is_not_copied(full: Stage) -> None:
    """A reader that stops holds a piece of the page, whatever the page's size."""
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
async def test_a_new_connection_takes_the_place_of_the_idlest(full: Stage, control: bool, target: str) -> None:
    """Whoever is there, the next one is served; the one that asked least recently is closed, and no other."""
    held = [await connect(full, control) for _ in range(4)]
    for peer in (*held, held[0]):
        assert await ask(peer) == 200
    newcomer = await connect(full, control)
    assert await ask(newcomer, target) == 200
    assert await held[1].rest() == b""
    for peer in (held[0], held[2], held[3], newcomer):
        assert await ask(peer) == 200


@pytest.mark.parametrize("said", [b"G", b"GET /readyz HTTP/1.1\r\nHo", b"POST /reload HTTP/1.1\r\nX: "])
async def test_a_request_that_does_not_end_is_idle(full: Stage, said: bytes) -> None:
    """However often such peers send another octet, they make room for one who asks."""
    slow = [await full.tcp() for _ in range(3)]
    asking = await full.tcp()
    for peer in slow:
        peer.send(said)
    assert await ask(asking) == 200
    for peer in slow:
        peer.send(b"E")
    for one in [await full.tcp() for _ in range(3)]:
        assert await ask(one) == 200
    for peer in slow:
        assert await peer.rest() == b""
    assert await ask(asking) == 200


async def test_an_answer_that_is_not_read_is_idle(full: Stage) -> None:
    """Requests that wait behind it are no progress either."""
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


async def test_commands_that_are_under_way_are_not_closed(full: Stage) -> None:
    """Even if nobody else is there to make room; /readyz is answered beside them."""
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


async def test_beside_too_many_commands_the_new_one_is_closed(full: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even then what is held is bounded."""
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


async def test_one_address_has_a_share(tmp_path: Path) -> None:
    """It makes room for itself; the control socket's peers have no address, and no share."""
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
def test_the_share_is_of_an_address_or_of_a_network(name: object, peer: str | None) -> None:
    """An IPv6 host can have any number of addresses of its network."""
    assert http_module._peer(name) == peer
