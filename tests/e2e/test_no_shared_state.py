"""Balancers share only their configuration: any of them, or a new one, can continue any connection."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Final

import pytest

from lab import ngtcp2
from lab.clients import in_progress
from lab.daemon import running, written
from lab.journeys import ngtcp2_journey, rebound_twice
from lab.nat import NatPort
from lab.ports import free_port, until_free
from lab.stage import Stage, stage

pytestmark = pytest.mark.e2e

CALLS: Final = 15
TRANSFERS: Final = 10

Survive = Callable[[Stage, Path, Callable[[], Awaitable[None]]], Coroutine[object, None, None]]
"""Start connections, let the event happen, change all their addresses, and check that none is lost."""


async def calls_survive(scene: Stage, _: Path, event: Callable[[], Awaitable[None]]) -> None:
    """Use aioquic clients that send all the time."""
    async with in_progress(scene.addresses(CALLS)) as calls:
        await event()
        await calls.until_more()
        scene.nat.rebind_all()
        await calls.until_more()
    assert calls.lost == []


async def transfers_survive(scene: Stage, folder: Path, event: Callable[[], Awaitable[None]]) -> None:
    """Use ngtcp2 clients during a transfer."""
    over, ports = asyncio.Event(), scene.ports(TRANSFERS)

    async def wait_and_move(port: NatPort) -> None:
        await over.wait()
        await rebound_twice(port)

    transfers = asyncio.gather(
        *(ngtcp2_journey(port, scene.gates, wait_and_move, folder, ngtcp2.Mode.STAY) for port in ports)
    )
    try:
        await asyncio.gather(*(port.until_flowing() for port in ports))
        await event()
        over.set()
        assert [journey.lost for journey in await transfers if journey.lost] == []
    finally:
        transfers.cancel()


every_stack = pytest.mark.parametrize(
    "survive",
    [
        pytest.param(calls_survive, id="aioquic"),
        pytest.param(transfers_survive, id="ngtcp2", marks=ngtcp2.needed),
    ],
)


@every_stack
@pytest.mark.parametrize("workers", [1, 2])
async def test_a_worker_is_killed(tmp_path: Path, survive: Survive, workers: int) -> None:
    """After ``kill -9`` of each worker during connections, another worker reads its sockets. No connection is lost."""
    async with stage(tmp_path, forwarding={"workers": str(workers)}) as scene:

        async def event() -> None:
            for index in range(workers):
                await scene.daemon.kill_worker(index)

        await survive(scene, tmp_path, event)
        assert scene.accepted == len(scene.nat.ports), "a client has connected a second time"
        found = await scene.daemon.settled()
        assert found.total("qlb_worker_restarts_total") == workers


@every_stack
async def test_a_daemon_is_killed_and_started_again(tmp_path: Path, survive: Survive) -> None:
    """After ``kill -9`` of the whole daemon, a new one continues without the old one's state. No connection is lost."""
    async with stage(tmp_path) as scene:

        async def event() -> None:
            await scene.daemon.kill()
            await until_free(*scene.service)  # the workers have detected it
            await scene.daemon.start()

        await survive(scene, tmp_path, event)
        assert scene.accepted == len(scene.nat.ports), "a client has connected a second time"
        found = await scene.daemon.settled()
        assert found.by("qlb_packets_forwarded_total", "route").keys() == {"cid"}, (
            "a connection began at the new daemon"
        )


@every_stack
async def test_connections_move_to_another_balancer_and_back(tmp_path: Path, survive: Survive) -> None:
    """After a change of routes, connections go through another daemon with the same YAML, and back. None is lost."""
    async with stage(tmp_path) as scene:
        here, there = scene.service, ("127.0.0.1", free_port())
        async with running(tmp_path / "twin", {**scene.config(), "listen": [written(there)]}) as twin:

            async def detour() -> None:
                for target in (there, here):
                    for port in scene.nat.ports:
                        port.move(target)
                    await asyncio.gather(*(port.until_flowing() for port in scene.nat.ports))

            await survive(scene, tmp_path, detour)
            assert scene.accepted == len(scene.nat.ports), "a client has connected a second time"
            await scene.daemon.settled()
            found = await twin.settled()
            assert found.received >= 3 * len(scene.nat.ports)
            routes = found.by("qlb_packets_forwarded_total", "route")
            assert routes.keys() == {"cid"}, "a connection began at the twin"
