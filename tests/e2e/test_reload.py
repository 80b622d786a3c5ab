"""Reloads under load: backends are added, drained and removed, keys rotate, files are invalid. No call is lost."""

import asyncio
import os
import re
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final
from unittest import mock

import pytest

from lab import datagrams
from lab.clients import Calls, in_progress
from lab.daemon import Daemon, Yaml, backend_config, cid_config, configuration
from lab.echoes import echoes
from lab.quic_servers import quic_servers
from lab.scrape import POLL_S
from lab.stage import NEXT_PARAMS, PARAMS, Stage, stage
from lab.udp_servers import open_socket, received
from qlb.cid import CidGenerator

pytestmark = pytest.mark.e2e

CALLS: Final = 15
MANY_CALLS: Final = 40
"""So many that the fallback selects each of three backends almost certainly."""
QUIET_S: Final = 0.5
QUIET: Final = {"drain": {"quiet_period": "500ms"}, "rotation": {"quiet_period": "500ms"}}
RELOADS: Final = 10
DEATHS: Final = 4
CLIENTS: Final = 16
ANY: Final = mock.ANY

Reload = Callable[[Daemon, Yaml], Awaitable[None]]


async def reload_by_socket(daemon: Daemon, config: Yaml) -> None:
    """Reload by the control socket."""
    daemon.write(config)
    code, output = await daemon.command("reload")
    assert code == 0, output


every_way = pytest.mark.parametrize("reload", [Daemon.reload_by_signal, reload_by_socket], ids=["sighup", "socket"])


async def until_silent(daemon: Daemon, kind: str, name: str, value: object) -> None:
    """Wait until a CID config or backend has had no packet for QUIET_S. kind, name, value: select a row in /status."""
    while True:
        row = next(row for row in (await daemon.status())[kind] if row[name] == value)
        if row["last_seen_s"] is None or row["last_seen_s"] > QUIET_S:
            return
        await asyncio.sleep(POLL_S)


async def all_move(scene: Stage, *calls: Calls) -> None:
    """Give every client another address, and wait for answers there."""
    scene.nat.rebind_all()
    await asyncio.gather(*(each.until_more() for each in calls))


@every_way
async def test_a_backend_is_added_drained_and_removed(tmp_path: Path, reload: Reload) -> None:
    """A backend is added, drained, and removed after its calls, while all addresses change. No call is lost.

    As long as packets go to the backend, its removal is refused.
    """
    async with (
        stage(tmp_path, may_log_errors=True, **QUIET) as scene,
        quic_servers(["agent-d"], PARAMS, scene.gates) as (newcomer,),
    ):

        def with_newcomer(**more: str) -> Yaml:
            config = scene.config(**QUIET)
            return {**config, "backends": [*config["backends"], backend_config(newcomer, [PARAMS], **more)]}

        async with in_progress(scene.addresses(CALLS)) as old_calls:
            await reload(scene.daemon, with_newcomer(weight="50"))
            async with in_progress(scene.addresses(CALLS)) as new_calls:
                assert newcomer.accepted > 0, "the heaviest backend got no new call"
                await all_move(scene, old_calls, new_calls)
                await reload(scene.daemon, with_newcomer(weight="50", state="draining"))
                accepted = newcomer.accepted
                async with in_progress(scene.addresses(CALLS)) as late_calls:
                    await all_move(scene, old_calls, new_calls, late_calls)
                assert newcomer.accepted == accepted, "a draining backend got a new connection"
                scene.daemon.write(scene.config(**QUIET))
                code, output = await scene.daemon.command("reload")
                assert (code, "'agent-d' still gets packets" in output) == (1, True), output
                await all_move(scene, old_calls, new_calls)
            await until_silent(scene.daemon, "backends", "name", "agent-d")
            drained = {row["name"]: row["drained"] for row in (await scene.daemon.status())["backends"]}
            assert drained == {"agent-a": False, "agent-b": False, "agent-c": False, "agent-d": True}
            await reload(scene.daemon, scene.config(**QUIET))
            await all_move(scene, old_calls)
        assert old_calls.lost + new_calls.lost + late_calls.lost == []
        assert scene.accepted + newcomer.accepted == 3 * CALLS
        found = await scene.daemon.settled()
        assert found.total("qlb_config_generation") == 4


@every_way
async def test_keys_rotate(tmp_path: Path, reload: Reload) -> None:
    """A second config ID is added, first at the balancer. The old one is removed after its last call. None is lost."""
    async with stage(tmp_path, **QUIET) as scene:
        async with in_progress(scene.addresses(CALLS)) as old_calls:
            await reload(scene.daemon, scene.config([PARAMS, NEXT_PARAMS], **QUIET))
            for server in scene.servers:
                assert server.rotation is not None, "the server has no QUIC-LB generator"
                assert server.server_id is not None
                server.rotation.rotate(CidGenerator(NEXT_PARAMS, server.server_id))
            async with in_progress(scene.addresses(CALLS)) as new_calls:
                await all_move(scene, old_calls, new_calls)
                found = await scene.daemon.metrics()
                assert found.by("qlb_cid_config_packets_total", "config_id").keys() == {"1", "2"}
        async with in_progress(scene.addresses(CALLS)) as late_calls:
            await until_silent(scene.daemon, "cid_configs", "config_id", PARAMS.config_id)
            await reload(scene.daemon, scene.config([NEXT_PARAMS], **QUIET))
            await all_move(scene, late_calls)
        assert old_calls.lost + new_calls.lost + late_calls.lost == []
        assert scene.accepted == 3 * CALLS
        await scene.daemon.settled()


async def test_a_backend_is_drained_by_command(tmp_path: Path) -> None:
    """``qlb drain``: existing calls continue, and new ones use other backends until ``qlb undrain``. None is lost.

    ``qlb drain --wait`` returns when the last call has ended.
    """
    async with stage(tmp_path, **QUIET) as scene:
        async with in_progress(scene.addresses(CALLS)) as calls:
            drained = max(scene.servers, key=lambda server: server.accepted)
            accepted = drained.accepted
            assert await scene.daemon.command("drain", drained.name) == (0, ANY)
            found = await scene.daemon.metrics()
            assert found.by("qlb_backend_draining", "backend") == {drained.name: 1}
            async with in_progress(scene.addresses(CALLS)) as more_calls:
                await all_move(scene, calls, more_calls)
            assert drained.accepted == accepted
            assert await scene.daemon.command("undrain", drained.name) == (0, ANY)
            async with in_progress(scene.addresses(MANY_CALLS)) as late_calls:
                await all_move(scene, calls, late_calls)
            assert drained.accepted > accepted
            waiting = asyncio.create_task(scene.daemon.command("drain", drained.name, "--wait"))
            await all_move(scene, calls)
            assert not waiting.done()
        assert await waiting == (0, f"{drained.name}: draining\n{drained.name}: drained\n")
        assert calls.lost + more_calls.lost + late_calls.lost == []
        await scene.daemon.settled()


async def test_a_broken_file_changes_nothing(tmp_path: Path) -> None:
    """Both kinds of reload refuse an invalid file and report the position. The old configuration stays."""
    async with stage(tmp_path, may_log_errors=True) as scene, in_progress(scene.addresses(CALLS)) as calls:
        broken = scene.config()
        broken["backends"][0]["adress"] = broken["backends"][0].pop("address")
        scene.daemon.write(broken)
        code, output = await scene.daemon.command("reload")
        assert code == 2
        assert re.search(rf"{re.escape(str(scene.daemon.path))}:\d+:\d+: .*adress", output)
        scene.daemon.hang_up()
        await scene.daemon.until_logged("adress", times=2)

        await all_move(scene, calls)
        found = await scene.daemon.metrics()
        assert found.total("qlb_config_generation") == 1
        assert found.total("qlb_config_last_reload_successful") == 0
        await scene.daemon.reload_by_signal(scene.config())
        assert (await scene.daemon.metrics()).total("qlb_config_last_reload_successful") == 1
        await all_move(scene, calls)
        assert calls.lost == []


async def test_reloads_lose_no_packet(tmp_path: Path) -> None:
    """Many reloads in a row, each with another configuration, do not affect calls through two workers. None is lost."""
    async with stage(tmp_path, forwarding={"workers": "2"}) as scene:
        whole = scene.config(forwarding={"workers": "2"})
        smaller = {**whole, "cid_configs": [*whole["cid_configs"], cid_config(NEXT_PARAMS)]}
        async with in_progress(scene.addresses(CALLS)) as calls:
            for config in [smaller, whole] * RELOADS:
                await scene.daemon.reload_by_signal(config)
            await all_move(scene, calls)
        assert calls.lost == []
        found = await scene.daemon.settled()
        assert found.dropped == 0
        assert found.total("qlb_config_generation") == 1 + 2 * RELOADS


async def test_a_reload_meets_a_dead_worker(tmp_path: Path) -> None:
    """If a worker dies just before a reload, the reload succeeds, and both workers apply the last configuration."""
    async with echoes(tmp_path, "127.0.0.1", forwarding={"workers": "2"}) as on:
        sections = {name: on.config[name] for name in ("health", "forwarding")}
        rotated = configuration([on.service], [NEXT_PARAMS], on.servers, **sections)
        for config in [on.config, rotated] * DEATHS:
            os.kill((await on.daemon.status())["workers"][0]["pid"], signal.SIGKILL)
            await on.daemon.reload_by_signal(config)
        question = datagrams.short(on.id_of(on.servers[0], NEXT_PARAMS), b"?")
        for _ in range(CLIENTS):
            with open_socket(("127.0.0.1", 0)) as client:
                client.sendto(question, on.service)
                assert (await received(client))[0] == question
        found = await on.daemon.settled()
        assert found.by("qlb_packets_forwarded_total", "route") == {"cid": CLIENTS}, "a worker is behind"
        assert found.total("qlb_config_generation") == 2 * DEATHS, "the first one changed nothing"


async def test_changed_files_are_reloaded(tmp_path: Path) -> None:
    """A changed file is reloaded automatically. An invalid file is refused once, and the next change is tried again."""
    async with echoes(tmp_path, "127.0.0.1", may_log_errors=True, reload_on_change="true") as on:
        on.daemon.write({**on.config, "drain": {"quiet_period": "2s"}})
        await on.daemon.until_logged("reloaded", times=1)
        on.daemon.path.write_text("listen: [")
        while not on.daemon.logged("reload refused"):
            await asyncio.sleep(POLL_S)
        on.daemon.write({**on.config, "drain": {"quiet_period": "3s"}})
        await on.daemon.until_logged("reloaded", times=2)
        assert on.daemon.logged("reload refused") == 1
        assert (await on.daemon.status())["config"]["generation"] == 3


async def test_a_removal_waits_for_its_last_client(tmp_path: Path) -> None:
    """While a client sends, the removal is refused and logged once, and the backend drains. Later it is applied."""
    drain = {"quiet_period": "2s"}
    async with echoes(tmp_path, "127.0.0.1", may_log_errors=True, reload_on_change="true", drain=drain) as on:
        leaving = on.config["backends"][0]["name"]
        question = datagrams.short(on.id_of(on.servers[0]), b"?")

        async def talk() -> None:
            with open_socket(("127.0.0.1", 0)) as client:
                while True:
                    client.sendto(question, on.service)
                    assert (await received(client))[0] == question
                    await asyncio.sleep(POLL_S)

        async def backend(name: str) -> dict[str, object]:
            rows = (await on.daemon.status())["backends"]
            return next((row for row in rows if row["name"] == name), {})

        talking = asyncio.create_task(talk())
        while not (await backend(leaving))["packets_per_second"]:
            await asyncio.sleep(POLL_S)
        on.daemon.write({**on.config, "backends": on.config["backends"][1:]})
        while not (await backend(leaving))["leaving"]:
            await asyncio.sleep(POLL_S)
        assert (await backend(leaving))["state"] == "draining"
        assert (await on.daemon.status())["config"]["reload_retry_s"] is not None
        assert not talking.done()
        talking.cancel()
        await on.daemon.until_logged("reloaded", times=1)
        assert await backend(leaving) == {}
        assert on.daemon.logged("reload refused") == 1
