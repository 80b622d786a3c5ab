"""Fifty connections of each kind change their addresses during a transfer, and none is lost."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Final

import pytest

from lab import ngtcp2
from lab.journeys import Journey, aioquic_journey, ngtcp2_journey, ngtcp2_rush, rebound_twice
from lab.nat import NatPort
from lab.stage import NAMES, Stage, stage

pytestmark = pytest.mark.e2e

CONNECTIONS: Final = 50
BULK_CONNECTIONS: Final = 5
BULK_BYTES: Final = 1_500_000
BULK_DATAGRAMS: Final = 200

Travel = Callable[[Stage, NatPort, Path], Coroutine[object, None, Journey]]


async def _aioquic_behind_nat(stage: Stage, port: NatPort, _: Path) -> Journey:
    return await aioquic_journey(port, stage.gates, rebound_twice)


async def _aioquic_migrating(stage: Stage, port: NatPort, _: Path) -> Journey:
    return await aioquic_journey(port, stage.gates, rebound_twice, migrations=2)


async def _ngtcp2_migrating(stage: Stage, port: NatPort, folder: Path) -> Journey:
    return await ngtcp2_journey(port, stage.gates, rebound_twice, folder, ngtcp2.Mode.MIGRATE)


async def _ngtcp2_nat_rebinding(stage: Stage, port: NatPort, folder: Path) -> Journey:
    return await ngtcp2_journey(port, stage.gates, rebound_twice, folder, ngtcp2.Mode.NAT_REBINDING)


@pytest.mark.parametrize(
    ("travel", "changes"),
    [
        pytest.param(_aioquic_behind_nat, 2, id="aioquic-behind-nat"),
        pytest.param(_aioquic_migrating, 4, id="aioquic-migrating"),
        pytest.param(_ngtcp2_migrating, 3, id="ngtcp2-migrating", marks=ngtcp2.needed),
        pytest.param(_ngtcp2_nat_rebinding, 3, id="ngtcp2-nat-rebinding", marks=ngtcp2.needed),
    ],
)
async def test_no_connection_is_lost(tmp_path: Path, travel: Travel, changes: int) -> None:
    """Of 50 connections none is lost, and each stays on one backend. After the first packets, all are routed by ID."""
    async with stage(tmp_path, forwarding={"workers": "2"}) as scene:
        journeys = await asyncio.gather(*(travel(scene, port, tmp_path) for port in scene.ports(CONNECTIONS)))

        assert [journey.lost for journey in journeys if journey.lost] == []
        assert {journey.changes for journey in journeys} == {changes}
        assert scene.accepted == CONNECTIONS, "a client has connected a second time"
        served = Counter(journey.backend for journey in journeys)
        assert served == {server.name: server.accepted for server in scene.servers}
        assert set(served) == set(NAMES), "the fallback has left out a backend"
        found = await scene.daemon.settled()
        assert found.total("qlb_packets_forwarded_total", route="cid") > 10 * CONNECTIONS
        assert found.total("qlb_sessions") >= CONNECTIONS * (1 + changes)
        assert all(port.strays == [] for port in scene.nat.ports)
        assert len(scene.daemon.log.splitlines()) < CONNECTIONS, "something is logged for each packet or connection"


@ngtcp2.needed
async def test_no_connection_is_lost_at_full_speed(tmp_path: Path) -> None:
    """During uploads at full speed, each client changes its address three times. No connection and no octet is lost."""

    async def rebound_in_the_rush(port: NatPort) -> None:
        for _ in range(3):
            port.rebind()
            await port.until_flowing(up=BULK_DATAGRAMS)

    async with stage(tmp_path) as scene:
        journeys = await asyncio.gather(
            *(ngtcp2_rush(port, rebound_in_the_rush, tmp_path, BULK_BYTES) for port in scene.ports(BULK_CONNECTIONS))
        )
        assert [journey.lost for journey in journeys if journey.lost] == []
        assert scene.accepted == BULK_CONNECTIONS
        await scene.daemon.settled()


@ngtcp2.needed
async def test_retry(tmp_path: Path) -> None:
    """Retry packets contain a routable ID, so that the token returns to the server that created it."""
    async with stage(tmp_path, retry=True) as scene:
        journeys = await asyncio.gather(
            *(aioquic_journey(port, scene.gates, rebound_twice, migrations=1) for port in scene.ports(10)),
            *(
                ngtcp2_journey(port, scene.gates, rebound_twice, tmp_path, ngtcp2.Mode.MIGRATE)
                for port in scene.ports(10)
            ),
        )
        assert [journey.lost for journey in journeys if journey.lost] == []
        assert scene.accepted == len(journeys)
        await scene.daemon.settled()
