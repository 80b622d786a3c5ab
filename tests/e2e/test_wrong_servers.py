"""Servers whose connection IDs lead elsewhere are named, by the default probe and by real traffic alone."""

import asyncio
import dataclasses
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from aioquic.quic.configuration import QuicConfiguration

from lab.clients import in_progress
from lab.daemon import Daemon, Yaml, configuration, running
from lab.datagrams import short
from lab.nat import Address
from lab.ports import free_port
from lab.quic_servers import quic_servers
from lab.server import Server
from lab.stage import KEY, LIMIT_S, NAMES, PARAMS
from lab.stories import Gates
from lab.udp_servers import open_socket
from qlb.adapters.aioquic import RoutableServer, routable_configuration
from qlb.addresses import Endpoint
from qlb.cid import CidGenerator, CidParams
from qlb.dataplane import planes
from qlb.demo.http3 import answering_as, make_certificate
from qlb.health.handshake import probe_handshake
from qlb.health.probe import Target

pytestmark = pytest.mark.e2e

IDS: Final = {name: bytes((0xC0, 0xFF, 0xEE, number)) for number, name in enumerate(("right", "key", "id", "clash"))}
IDS_OF_OTHERS: Final = {name: bytes((0xC0, 0xFF, 0xEF, n)) for n, name in enumerate(("lengths", "plain", "workers"))}
NOBODYS: Final = b"\xc0\xff\xee\x99"
SERVERS: Final[Mapping[str, tuple[CidParams, bytes, int]]] = {
    "right": (PARAMS, IDS["right"], 1),
    "key": (dataclasses.replace(PARAMS, key=KEY[::-1]), IDS["key"], 1),
    "id": (PARAMS, NOBODYS, 1),
    "clash": (PARAMS, IDS["right"], 1),
    "lengths": (dataclasses.replace(PARAMS, nonce_length=8, cid_length=0), IDS_OF_OTHERS["lengths"], 1),
    "plain": (dataclasses.replace(PARAMS, key=None), IDS_OF_OTHERS["plain"], 1),
    "workers": (PARAMS, IDS_OF_OTHERS["workers"], 2),
}
"""Name → the parameters of its IDs, its server ID, and the number of its processes. Only the first one is right."""
WORDS: Final = {
    "key": f"no backend's (has the server another key?); expected {IDS['key'].hex()} (config 1)",
    "id": f"to server ID {NOBODYS.hex()}, no backend's",
    "clash": f"to server ID {IDS['right'].hex()}, right's; expected {IDS['clash'].hex()} (config 1)",
    "lengths": "is too short for config 1: 13 octets instead of 17",
    "plain": f"contains the server ID {IDS_OF_OTHERS['plain'].hex()}, plain's, in plaintext: the server has no key",
    "workers": "packets of one connection from other ports get no answer: another process",
}
BY_TRAFFIC: Final = WORDS.keys() - {"workers"}
"""Only a probe finds several processes on one port."""
CLIENT_TIMEOUT_S: Final = 2.0
GARBAGE: Final = 400
QUIET_S: Final = 12.0


@asynccontextmanager
async def servers() -> AsyncIterator[list[Server]]:
    """Run all servers. Yield them as the daemon should know them."""
    loop, certificate, transports, found = asyncio.get_running_loop(), make_certificate(), [], []
    try:
        for name, (params, server_id, processes) in SERVERS.items():
            generator, port = CidGenerator(params, server_id), 0
            bare = QuicConfiguration(
                is_client=False,
                alpn_protocols=["h3"],
                certificate=certificate.certificate,
                private_key=certificate.private_key,
            )
            settings = {
                "configuration": routable_configuration(bare, generator),
                "generator": generator,
                "create_protocol": answering_as(name),
            }
            for _ in range(processes):
                transport, _ = await loop.create_datagram_endpoint(
                    lambda settings=settings: RoutableServer(**settings),  # type: ignore[misc]
                    local_addr=("127.0.0.1", port),
                    reuse_port=processes > 1,
                )
                transports.append(transport)
                port = transport.get_extra_info("sockname")[1]
            found.append(Server(name, {**IDS, **IDS_OF_OTHERS}[name], ("127.0.0.1", port)))
        yield found
    finally:
        for transport in transports:
            transport.close()


async def connect_again_and_again(service: Address) -> None:
    """Let clients begin one connection after the other. Many of them fail, because their servers are wrong."""
    client = Target("client", Endpoint(*service), alpn=("h3",))
    while True:
        await asyncio.gather(*(probe_handshake(client, CLIENT_TIMEOUT_S) for _ in range(4)))


def findings(status: dict[str, Any]) -> dict[str, str]:
    """Return backend → finding."""
    return {row["name"]: row["finding"] for row in status["backends"] if row["finding"]}


@pytest.fixture(params=["batch", "asyncio"])
def forwarding(request: pytest.FixtureRequest) -> Yaml:
    """Return the section ``forwarding`` for a plane of proxy mode that this machine can run."""
    if lack := planes.what_lacks(request.param):
        pytest.skip(lack)
    return {"plane": request.param}


async def test_the_default_probe_names_every_wrong_server(tmp_path: Path, forwarding: Yaml) -> None:
    """Each wrong server is named in /status, in its notices and in the log. Those with wrong IDs are unhealthy."""
    service = ("127.0.0.1", free_port())
    async with asyncio.timeout(LIMIT_S), servers() as pool:
        config = configuration([service], [PARAMS], pool, forwarding=forwarding)
        async with running(tmp_path / "daemon", config) as daemon:
            status = await daemon.until_applied(lambda found: findings(found).keys() == WORDS.keys())
            assert {name: WORDS[name] in text for name, text in findings(status).items()} == dict.fromkeys(WORDS, True)
            told = [notice["text"] for notice in status["notices"] if notice["kind"] == "backend_finding"]
            assert sum(any(words in text for text in told) for words in WORDS.values()) == 5, "five are named"
            assert any("and 1 more backends with findings" in text for text in told)
            assert daemon.logged("backend configuration is wrong") == len(WORDS)
            up = (await daemon.metrics()).by("qlb_backend_up", "backend")
            assert up == {"right": 1, "workers": 1}
            assert (await daemon.metrics()).by("qlb_backend_cid_mismatch", "backend") == dict.fromkeys(WORDS, 1)


@pytest.mark.parametrize("probe", ["quic", "none"])
async def test_traffic_names_every_wrong_server(tmp_path: Path, forwarding: Yaml, probe: str) -> None:
    """Without handshakes of the probe, clients' connections name the same servers. They still get new clients."""
    service = ("127.0.0.1", free_port())
    async with asyncio.timeout(LIMIT_S), servers() as pool:
        config = configuration([service], [PARAMS], pool, forwarding=forwarding, health={"probe": probe})
        async with running(tmp_path / "daemon", config) as daemon:
            clients = asyncio.create_task(connect_again_and_again(service))
            try:
                status = await daemon.until_applied(lambda found: findings(found).keys() == BY_TRAFFIC)
            finally:
                clients.cancel()
                await asyncio.gather(clients, return_exceptions=True)
            for name in BY_TRAFFIC:
                assert WORDS[name] in findings(status)[name]
                assert "seen in answers to clients, so it still gets new connections" in findings(status)[name]
            rows = {row["name"]: row for row in status["backends"]}
            assert all(row["healthy"] and row["fallback_share"] for row in rows.values())
            assert rows["right"]["shown_ids"]["wrong"] == rows["workers"]["shown_ids"]["wrong"] == 0
            assert daemon.logged("a backend shows wrong connection IDs to clients") == len(BY_TRAFFIC)
            assert (await daemon.metrics()).by("qlb_backend_cid_mismatch", "backend") == dict.fromkeys(BY_TRAFFIC, 1)


async def disturb(daemon: Daemon, service: Address) -> dict[str, Any]:
    """Send garbage at once, and then a short header with an unknown server ID from each of three hosts a second.

    Return the status after QUIET_S seconds of the daemon's clock.
    """
    chance, status, sent_s = random.Random(GARBAGE), await daemon.status(), 0
    end_s = status["uptime_s"] + QUIET_S
    with ExitStack() as stack:
        senders = [stack.enter_context(open_socket(("127.0.0.1", 0))) for _ in range(3)]
        for _ in range(GARBAGE):
            senders[0].sendto(chance.randbytes(chance.randrange(1, 60)), service)
        while status["uptime_s"] < end_s:
            if int(status["uptime_s"]) > sent_s:
                sent_s = int(status["uptime_s"])
                for sender in senders:
                    sender.sendto(short(b"\x30" + chance.randbytes(16)), service)
            status = await daemon.status()
    return status


@pytest.mark.parametrize("quic_lb", [True, False], ids=["right", "fallback only"])
async def test_right_servers_and_garbage_are_silent(tmp_path: Path, forwarding: Yaml, quic_lb: bool) -> None:
    """Right servers, plain servers without server IDs, garbage and strangers cause no notice and no log line."""
    service, gates = ("127.0.0.1", free_port()), Gates()
    async with (
        asyncio.timeout(LIMIT_S),
        quic_servers(NAMES, PARAMS if quic_lb else None, gates) as pool,
        running(tmp_path / "daemon", configuration([service], [PARAMS], pool, forwarding=forwarding)) as daemon,
    ):
        lines = len(daemon.log_records)
        async with in_progress([service] * 6) as calls:
            status = await disturb(daemon, service)
        assert calls.lost == []
        assert status["notices"] == []
        assert findings(status) == {}
        assert sum(row["packets"] for row in status["unknown_server_ids"]) > 0, "no garbage arrived"
        shown = [row["shown_ids"] for row in status["backends"]]
        if quic_lb:
            assert sum(row["right"] for row in shown) >= 6
            assert sum(row["wrong"] + row["unroutable"] for row in shown) == 0
        else:
            assert shown == [None] * len(NAMES)
        assert daemon.log_records[lines:] == []
