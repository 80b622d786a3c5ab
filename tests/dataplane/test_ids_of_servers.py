"""The check of the connection IDs in servers' answers, on every plane of proxy mode: what counts, and as what."""

import asyncio
import dataclasses
import socket
from dataclasses import dataclass

import pytest

from lab.dataplane.network import (
    FOUR_PASS,
    PLAINTEXT,
    SETTINGS,
    Network,
    cid_of,
    long_header,
    orders,
    receive,
    short_header,
)
from lab.dataplane.running import Run, Running
from qlb.addresses import Endpoint
from qlb.cid import CidCodec, reserved_cid
from qlb.routing import counters as layout
from qlb.routing.backends import Backend
from qlb.routing.counters import SHOWN_ID_BYTES, SHOWN_KINDS
from qlb.wire.versions import V2

RIGHT = cid_of(FOUR_PASS, 0)
OTHERS = cid_of(FOUR_PASS, 1)
NOBODYS = CidCodec(dataclasses.replace(FOUR_PASS, key=bytes(16))).encode(b"\0" * 4, b"\0" * 10)
FIRST = b"\x93" + b"\x77" * 11
"""The ID that the client chooses first. Its config ID is not configured."""


@dataclass
class Conversation:
    """A client and the server b0, with the plane between them."""

    qlb: Running
    client: socket.socket
    server: socket.socket
    reply_to: tuple[str, int]

    async def answer(self, *datagrams: bytes) -> None:
        """Let the server answer. Return when the client has received everything."""
        for datagram in datagrams:
            await asyncio.get_running_loop().sock_sendto(self.server, datagram, self.reply_to)
            assert (await receive(self.client))[0] == datagram

    @property
    def shown(self) -> tuple[int, ...]:
        """Return the counted IDs of b0 by SHOWN_KINDS."""
        return tuple(self.qlb.slot(layout.SHOWN + kind) for kind in range(len(SHOWN_KINDS)))


async def begin(qlb: Running, client: socket.socket, server: socket.socket) -> Conversation:
    """Send a client's first packet, which the fallback forwards to b0, the only backend for new connections."""
    await qlb.send(client, long_header(FIRST))
    _, reply_to = await receive(server)
    return Conversation(qlb, client, server, reply_to)


def pool(network: Network) -> tuple[list[socket.socket], list[Backend]]:
    """Return three backends. Only b0 gets new connections."""
    sockets, backends = network.pool()
    return sockets, [backends[0], *(dataclasses.replace(one, weight=0) for one in backends[1:])]


def of_server(scid: bytes, version: int = 1, first: int = 0xC0) -> bytes:
    """Return a server's long header with this source ID."""
    return bytes((first,)) + long_header(b"client", scid, version)[1:]


@pytest.mark.parametrize(
    ("scid", "shown"),
    [
        pytest.param(RIGHT, (1, 0, 0), id="its own"),
        pytest.param(cid_of(PLAINTEXT, 0), (1, 0, 0), id="its own of another CID config"),
        pytest.param(RIGHT + b"\0\0\0", (1, 0, 0), id="its own and padding"),
        pytest.param(OTHERS, (0, 1, 0), id="another backend's"),
        pytest.param(NOBODYS, (0, 1, 0), id="another key"),
        pytest.param(b"\x65" + b"\0" * 16, (0, 1, 0), id="a config ID that is not configured"),
        pytest.param(RIGHT[:8], (0, 1, 0), id="too short"),
        pytest.param(cid_of(PLAINTEXT, 0) + b"x", (0, 1, 0), id="another length than it encodes"),
        pytest.param(b"\x3f" * 255, (0, 1, 0), id="the longest ID of any version"),
        pytest.param(b"", (0, 0, 1), id="none"),
        pytest.param(reserved_cid(12), (0, 0, 1), id="the reserved config ID"),
    ],
)
async def test_the_kinds_of_ids(running: Run, network: Network, scid: bytes, shown: tuple[int, ...]) -> None:
    """An ID counts once for a connection, by its kind. The last wrong one is stored."""
    sockets, backends = pool(network)
    client = network.socket()
    async with running(orders(backends)) as qlb:
        talk = await begin(qlb, client, sockets[0])
        await talk.answer(of_server(scid), of_server(scid, first=0xE0), of_server(scid), short_header(b"client"))
        await qlb.until(lambda: sum(talk.shown) == 1)
        assert talk.shown == shown
        assert qlb.slot(layout.WRONG_IDS) == shown[1]
        assert qlb.counters.last_wrong_id(0) == (scid[:SHOWN_ID_BYTES] if shown[1] else b"")


async def test_each_connection_counts(running: Run, network: Network) -> None:
    """Connections of one client and of several clients count each. Other backends' counters do not change."""
    sockets, backends = pool(network)
    clients = [network.socket() for _ in range(3)]
    async with running(orders(backends)) as qlb:
        for client in clients:
            talk = await begin(qlb, client, sockets[0])
            await talk.answer(of_server(RIGHT), of_server(OTHERS), of_server(NOBODYS))
        await qlb.until(lambda: sum(talk.shown) == 9)
        assert talk.shown == (3, 6, 0)
        others = slice(layout.SHOWN + layout.SHOWN_SLOTS, layout.SHOWN + 3 * layout.SHOWN_SLOTS)
        assert set(qlb.counters.slots[others]) == {0}


@pytest.mark.parametrize(
    "datagram",
    [
        pytest.param(of_server(NOBODYS, version=0), id="Version Negotiation"),
        pytest.param(of_server(NOBODYS, first=0xF0), id="Retry"),
        pytest.param(of_server(NOBODYS, version=V2), id="Retry of version 2"),
        pytest.param(of_server(NOBODYS, version=0xFF00001D, first=0xF0), id="Retry of an unknown version"),
        pytest.param(of_server(FIRST), id="a refusal with the client's own ID"),
        pytest.param(of_server(NOBODYS)[:-15], id="truncated"),
        pytest.param(short_header(NOBODYS), id="a short header"),
        pytest.param(b"\xff", id="one octet"),
        pytest.param(b"", id="empty"),
    ],
)
async def test_packets_that_prove_nothing(running: Run, network: Network, datagram: bytes) -> None:
    """Retry, Version Negotiation, copies of the client's ID and garbage do not count. They reach the client."""
    sockets, backends = pool(network)
    client = network.socket()
    async with running(orders(backends)) as qlb:
        talk = await begin(qlb, client, sockets[0])
        await talk.answer(datagram, of_server(RIGHT))
        await qlb.until(lambda: sum(talk.shown) == 1)
        assert talk.shown == (1, 0, 0)


async def test_a_copied_wrong_id_counts_if_the_client_did_not_choose_it(running: Run, network: Network) -> None:
    """Only the very ID that a client has chosen is excluded. A version 2 Initial is no Retry."""
    sockets, backends = pool(network)
    client = network.socket()
    async with running(orders(backends)) as qlb:
        talk = await begin(qlb, client, sockets[0])
        await talk.answer(of_server(b"\x33" + FIRST[1:] + b"\0" * 5), of_server(NOBODYS, version=V2, first=0xD0))
        await qlb.until(lambda: sum(talk.shown) == 2)
        assert talk.shown == (0, 2, 0)


async def test_answers_of_a_backend_that_has_moved_do_not_count(running: Run, network: Network) -> None:
    """If a backend gets another address, the late answers of the old server do not count."""
    sockets, backends = pool(network)
    client, new = network.socket(), network.socket()
    async with running(orders(backends)) as qlb:
        talk = await begin(qlb, client, sockets[0])
        moved = dataclasses.replace(backends[0], endpoint=Endpoint(*new.getsockname()[:2]))
        qlb.plane.apply(orders([moved, *backends[1:]], generation=2))
        await asyncio.get_running_loop().sock_sendto(sockets[0], of_server(NOBODYS), talk.reply_to)
        talk = await begin(qlb, client, new)
        await asyncio.get_running_loop().sock_sendto(new, of_server(RIGHT), talk.reply_to)
        while (await receive(client))[0] != of_server(RIGHT):
            pass  # the batch plane still returns the late answer
        await qlb.until(lambda: talk.shown[0] == 1)
        assert talk.shown == (1, 0, 0)


async def test_short_headers_with_an_unknown_server_id(running: Run, network: Network) -> None:
    """They count by config ID. They count for a backend only after it has answered that client with a long header."""
    sockets, backends = pool(network)
    client, stranger = network.socket(), network.socket()
    of_b0 = layout.SHOWN + layout.SHOWN_UNKNOWN
    async with running(orders(backends)) as qlb:
        for _ in range(3):
            await qlb.send(stranger, short_header(NOBODYS))
            await receive(sockets[0])
        talk = await begin(qlb, client, sockets[0])
        await qlb.send(client, short_header(NOBODYS))
        await receive(sockets[0])
        await talk.answer(short_header(b"reset"), of_server(NOBODYS, version=0))
        await qlb.send(client, short_header(NOBODYS))
        await receive(sockets[0])
        assert (qlb.slot(layout.UNKNOWN + 1), qlb.slot(of_b0)) == (5, 0)
        await talk.answer(of_server(NOBODYS))
        for _ in range(2):
            await qlb.send(client, short_header(NOBODYS))
            await receive(sockets[0])
        await qlb.send(client, short_header(RIGHT))
        await receive(sockets[0])
        await qlb.until(lambda: qlb.slot(of_b0) == 2)
        assert qlb.slot(layout.UNKNOWN + 1) == 7
        assert qlb.slot(layout.UNKNOWN_LAST_SEEN_MS + 1) > 0


async def test_without_flow_tables(running: Run, network: Network) -> None:
    """Without flow tables the check works as well. The copy of a client's ID cannot be recognised then."""
    sockets, backends = pool(network)
    client = network.socket()
    async with running(orders(backends, dataclasses.replace(SETTINGS, flow_table_size=0))) as qlb:
        talk = await begin(qlb, client, sockets[0])
        await talk.answer(of_server(RIGHT), of_server(OTHERS))
        await qlb.until(lambda: sum(talk.shown) == 2)
        assert talk.shown == (1, 1, 0)
