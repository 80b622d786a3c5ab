"""ASGI applications behind hypercorn and the daemon: addresses change in mid-transfer, and no connection is lost."""

import asyncio
from pathlib import Path
from typing import Final

import pytest

from lab import ngtcp2
from lab.asgi_servers import asgi_servers
from lab.daemon import configuration, running
from lab.journeys import aioquic_journey, ngtcp2_journey, rebound_twice
from lab.nat import Nat
from lab.ports import free_port
from lab.stage import KEY, LIMIT_S, NAMES
from lab.stories import Gates
from qlb.cid import CidParams

pytestmark = pytest.mark.e2e

CONNECTIONS: Final = 6
SHAPES: Final = {
    "8 octets": CidParams(config_id=5, server_id_length=3, nonce_length=4, key=KEY),
    "single-pass": CidParams(config_id=1, server_id_length=4, nonce_length=12, key=KEY),
    "four-pass, longest": CidParams(config_id=2, server_id_length=5, nonce_length=14, key=KEY),
}


@pytest.mark.parametrize("params", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("retry", [False, True], ids=["", "retry"])
async def test_no_request_is_lost(params: CidParams, retry: bool, tmp_path: Path) -> None:
    """Each response is complete and from one server, although its client's address changes three times.

    The handshake probe finds the right server ID in every server, and packets are routed by it.
    """
    gates, service = Gates(), ("127.0.0.1", free_port())
    async with (
        asyncio.timeout(LIMIT_S),
        asgi_servers(NAMES, params, gates, tmp_path / "servers", retry=retry) as servers,
        running(
            tmp_path / "daemon", configuration([service], [params], servers, health={"probe": "handshake"})
        ) as daemon,
    ):
        await daemon.until_applied(lambda status: all(backend["healthy"] for backend in status["backends"]))
        with Nat() as nat:
            journeys = await asyncio.gather(
                *(aioquic_journey(nat.port(service), gates, rebound_twice, migrations=1) for _ in range(CONNECTIONS))
            )
        assert [journey.lost for journey in journeys if journey.lost] == []
        assert {journey.changes for journey in journeys} == {3}
        found = await daemon.settled()
        by_id = found.total("qlb_cid_config_packets_total", config_id=str(params.config_id))
        assert by_id > 5 * len(journeys)
        assert found.total("qlb_backend_cid_mismatch") == 0


@ngtcp2.needed
async def test_another_client_changes_its_address_too(tmp_path: Path) -> None:
    """An ngtcp2 client uploads and downloads at a time, and migrates: both bodies are complete."""
    params, gates, service = SHAPES["single-pass"], Gates(), ("127.0.0.1", free_port())
    async with (
        asyncio.timeout(LIMIT_S),
        asgi_servers(NAMES, params, gates, tmp_path / "servers") as servers,
        running(tmp_path / "daemon", configuration([service], [params], servers)),
    ):
        with Nat() as nat:
            journey = await ngtcp2_journey(nat.port(service), gates, rebound_twice, tmp_path, ngtcp2.Mode.MIGRATE)
    assert (journey.lost, journey.changes) == (None, 3)
