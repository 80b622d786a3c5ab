"""Health checks of the whole path: a wrong key is found, and a prober without a network removes no backend."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
import yaml

from lab import scrape
from lab.clients import in_progress
from lab.daemon import Yaml, configuration, running
from lab.datagrams import short
from lab.echoes import Echoes, echoes
from lab.nat import Address, Nat
from lab.ports import free_port
from lab.server import Server, server_id_of
from lab.stage import KEY, NAMES, PARAMS, stage
from lab.stopped import standing_still
from qlb.cid import CidGenerator, CidParams
from qlb.demo.client import connect

pytestmark = pytest.mark.e2e

CALLS: Final = 24
"""So many that the fallback selects each of three backends almost certainly."""
HEALTH: Final = {"probe": "handshake", "interval": "100ms", "timeout": "5s"}
OTHER_KEY: Final = CidParams(config_id=1, server_id_length=4, nonce_length=12, key=KEY[::-1])
LIMIT_S: Final = 240.0


async def test_a_server_with_another_key_is_found(tmp_path: Path) -> None:
    """A backend with a wrong key is named with expected and actual ID, and gets no new calls until it is corrected."""
    async with stage(tmp_path, health=HEALTH) as scene:
        wrong = scene.servers[0]
        assert wrong.rotation is not None
        assert wrong.server_id is not None
        async with in_progress(scene.addresses(CALLS)) as old_calls:
            wrong.rotation.rotate(CidGenerator(OTHER_KEY, wrong.server_id))
            await scene.daemon.until(lambda found: found.total("qlb_backend_cid_mismatch") == 1)
            found = await scene.daemon.metrics()
            assert found.by("qlb_backend_cid_mismatch", "backend") == {wrong.name: 1}
            assert found.by("qlb_backend_up", "backend") == {server.name: 1 for server in scene.servers[1:]}
            row = (await scene.daemon.status())["backends"][0]
            assert f"expected {wrong.server_id.hex()} (config 1)" in row["finding"]
            assert scene.daemon.logged("backend configuration is wrong") == 1
            async with in_progress(scene.addresses(CALLS)) as new_calls:
                scene.nat.rebind_all()
                await asyncio.gather(old_calls.until_more(), new_calls.until_more())
            assert wrong.name not in new_calls.backends

            wrong.rotation.rotate(CidGenerator(PARAMS, wrong.server_id))
            await scene.daemon.until(lambda found: found.total("qlb_backend_up") == len(scene.servers))
            async with in_progress(scene.addresses(CALLS)) as late_calls:
                scene.nat.rebind_all()
                await asyncio.gather(old_calls.until_more(), late_calls.until_more())
            assert wrong.name in late_calls.backends
            assert scene.daemon.logged("backend configuration ok") == 1
        assert old_calls.lost + new_calls.lost + late_calls.lost == []
        await scene.daemon.settled()


@asynccontextmanager
async def demo_servers(config: Path) -> AsyncIterator[int]:
    """Run demo servers for all backends of a configuration in one process. Yield its process ID."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qlb.demo.backends", str(config)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline()
        yield process.pid
    finally:
        process.terminate()
        await process.communicate()


def three_servers() -> tuple[Yaml, tuple[str, int]]:
    """Return a configuration of three backends, and the service's address."""
    service = ("127.0.0.1", free_port())
    servers = [Server(name, server_id_of(name, PARAMS), ("127.0.0.1", free_port())) for name in NAMES]
    health = {"probe": "quic", "interval": "50ms", "timeout": "50ms", "fall": "2"}
    return configuration([service], [PARAMS], servers, health=health), service


async def ask(address: Address) -> str:
    """Return the name of the backend of a new connection. Raises BackendError if the connection is lost."""
    async with connect(*address, timeout_s=LIMIT_S) as client:
        return (await client.get()).backend or ""


async def test_if_no_server_answers_routing_stays(tmp_path: Path) -> None:
    """If all servers stop at once, the node is not ready, but no backend is removed.

    New connections at that time are not dropped. They complete when the servers continue, and none is lost.
    """
    config, service = three_servers()
    (tmp_path / "servers").mkdir()
    file = tmp_path / "servers/qlb.yaml"
    file.touch(mode=0o600)
    file.write_text(yaml.safe_dump(config))
    async with asyncio.timeout(LIMIT_S), demo_servers(file) as pid, running(tmp_path / "daemon", config) as daemon:
        with Nat() as nat:
            addresses = [nat.port(service).address for _ in range(CALLS)]
            with standing_still(pid):
                await daemon.until(lambda found: found.total("qlb_health_all_failing") == 1)
                assert (await daemon.metrics()).total("qlb_backend_up") == 0
                assert (await scrape.get(daemon.admin, "/readyz"))[0] == 503
                assert daemon.logged("all probes fail") == 1
                # The first backends to fail were unhealthy until the last one failed, too. A command applies all
                # pending verdicts before it returns, so that no worker forwards by that state any more.
                assert (await daemon.command("undrain", NAMES[0]))[0] == 0
                await daemon.until_applied(lambda found: all(row["fallback_share"] for row in found["backends"]))
                asking = asyncio.gather(*map(ask, addresses))
                await daemon.until(lambda found: found.total("qlb_packets_forwarded_total") >= CALLS)
            assert set(await asking) == set(NAMES)
            await daemon.until(lambda found: found.total("qlb_backend_up") == len(NAMES))
            await daemon.until(lambda found: found.total("qlb_health_all_failing") == 0)
        assert (await daemon.settled()).by("qlb_packets_dropped_total", "reason") == {}


async def test_a_refused_packet_finds_a_dead_server(tmp_path: Path) -> None:
    """A client's packet that the host refuses causes a probe at once, although the next one is due in an hour."""
    health = {"probe": "quic", "interval": "1h", "timeout": "50ms"}
    async with echoes(tmp_path, "127.0.0.1", health=health) as scene:
        dead, *others = scene.servers
        await scene.daemon.until(lambda found: found.total("qlb_probes_total") == len(NAMES))
        assert (await scene.daemon.metrics()).total("qlb_backend_up") == len(NAMES)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unbound:
            os.dup2(unbound.fileno(), dead.sock.fileno())  # no socket has its address any more
        packet = short(scene.id_of(dead))
        while (await scene.daemon.metrics()).total("qlb_backend_up", backend=dead.name):
            scene.client.sendto(packet, scene.service)
        found = await scene.daemon.metrics()
        assert found.by("qlb_backend_up", "backend") == {server.name: 1 for server in others}
        assert "ECONNREFUSED" in (await scene.daemon.status())["backends"][0]["detail"]
        assert found.total("qlb_probes_total") == len(NAMES) + 1


async def test_answers_to_clients_count_if_probes_are_never_answered(tmp_path: Path) -> None:
    """The node is ready while clients get answers or send nothing. It is not ready when clients get no answers."""
    health = {"probe": "quic", "interval": "100ms", "timeout": "50ms"}

    async def probed(scene: Echoes, times: int) -> None:
        goal = (await scene.daemon.metrics()).total("qlb_probes_total") + times
        await scene.daemon.until(lambda found: found.total("qlb_probes_total") >= goal)

    async def detail(scene: Echoes) -> str:
        return str((await scene.daemon.status())["backends"][0]["detail"])

    async def ready(scene: Echoes) -> bool:
        return (await scrape.get(scene.daemon.admin, "/readyz"))[0] == 200

    async with echoes(tmp_path, "127.0.0.1", health=health) as scene:
        server = scene.servers[0]
        await scene.daemon.until(lambda found: found.total("qlb_backend_up") == 0)
        assert not await ready(scene)
        while not await ready(scene):
            await scene.ask(short(scene.id_of(server)))
        assert "answers clients, but never a probe" in await detail(scene)
        while "no traffic now" not in await detail(scene):
            await probed(scene, len(NAMES))
        await probed(scene, 10 * len(NAMES))
        assert await ready(scene), "not ready although no client sends anything"
        server.silent = True
        while await ready(scene):
            scene.client.sendto(short(scene.id_of(server)), scene.service)
        await scene.daemon.settled()
