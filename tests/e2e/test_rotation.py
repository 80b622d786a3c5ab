"""A key is rotated on two balancers by ``qlb rotate`` while addresses change. No connection is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from lab import datagrams
from lab.clients import Calls, in_progress
from lab.daemon import Daemon, cid_config, configuration, running
from lab.echoes import echoes
from lab.nat import Address
from lab.ports import free_port
from lab.quic_servers import QuicServerBehind, generator_of
from lab.stage import KEY, PARAMS, Stage, stage
from qlb.cid import CidParams

pytestmark = pytest.mark.e2e

CALLS: Final = 8
QUIET: Final = {"rotation": {"quiet_period": "500ms"}, "drain": {"quiet_period": "500ms"}}
OTHER: Final = CidParams(config_id=1, server_id_length=4, nonce_length=12, key=KEY[::-1])


@asynccontextmanager
async def another_balancer(folder: Path, scene: Stage) -> AsyncIterator[tuple[Daemon, Address]]:
    """Run a second balancer before the same servers."""
    service = ("127.0.0.1", free_port())
    config = configuration([service], [PARAMS], scene.servers, **QUIET)
    async with running(folder, config) as daemon:
        yield daemon, service


def give_the_same(source: Daemon, target: Daemon) -> None:
    """Copy a configuration from one balancer to another. The target retains its own addresses."""
    read, own = (yaml.load(daemon.path.read_text(), yaml.BaseLoader) for daemon in (source, target))
    target.write({**read, "listen": own["listen"]})


async def load_server_config(daemon: Daemon, server: QuicServerBehind) -> None:
    """Apply the output of ``qlb server-config`` to a running server."""
    code, output = await daemon.cli("server-config", str(daemon.path), server.name)
    assert code == 0, output
    assert server.rotation is not None
    server.rotation.rotate(generator_of(output))


async def test_a_key_is_rotated_on_two_balancers(tmp_path: Path) -> None:
    """Under load on both balancers, each step is refused until it is safe, and then done. No connection is lost."""
    async with (
        stage(tmp_path, may_log_errors=True, **QUIET) as scene,
        another_balancer(tmp_path / "second", scene) as (second, second_service),
    ):
        first = scene.daemon

        async def rotate(verb: str, *more: str) -> tuple[int, str]:
            sockets = [option for daemon in (first, second) for option in ("--balancer", str(daemon.socket))]
            return await first.cli("rotate", verb, str(first.path), *sockets, *more)

        def addresses() -> list[Address]:
            return [*scene.addresses(CALLS), *(scene.nat.port(second_service).address for _ in range(CALLS))]

        async def all_move(*calls: Calls) -> None:
            scene.nat.rebind_all()
            await asyncio.gather(*(each.until_more() for each in calls))

        async def phases() -> list[str]:
            return [(await daemon.status())["rotation"]["phase"] for daemon in (first, second)]

        async with in_progress(addresses()) as new_calls:
            async with in_progress(addresses()) as old_calls:
                assert (await rotate("next", "--diff"))[0] == 0
                assert await phases() == ["idle", "idle"]
                code, output = await rotate("next", "--yes")
                assert (code, "config 2 with a new key is staged" in output) == (0, True), output
                assert await phases() == ["staged", "idle"]
                code, output = await rotate("next", "--yes")
                assert (code, f"{second.socket} does not decode config 2 yet" in output) == (1, True), output

                give_the_same(first, second)
                assert (await second.command("reload"))[0] == 0
                await all_move(old_calls, new_calls)
                code, output = await rotate("next", "--yes")
                assert (code, "config 2 is active, config 1 retires" in output) == (0, True), output
                give_the_same(first, second)
                assert (await second.command("reload"))[0] == 0
                assert await phases() == ["retiring", "retiring"]
                await all_move(old_calls, new_calls)
                code, output = await rotate("next", "--yes")
                assert (code, "no balancer has seen a packet under config 2 yet" in output) == (1, True), output

                for server in scene.servers:
                    await load_server_config(first, server)
            async with in_progress(addresses()) as late_calls:
                await all_move(new_calls, late_calls)
                code, output = await rotate("next", "--yes")
                assert (code, "config 1 has been silent for" in output) == (1, True), output
                assert "not safe yet" in (await rotate("status"))[1]
            # The last clients with IDs of the old key hang up at the end of this block.
        async with in_progress(addresses()) as last_calls:
            code, output = await rotate("run", "--yes")
            assert (code, "config 1 is removed" in output) == (0, True), output
            give_the_same(first, second)
            assert (await second.command("reload"))[0] == 0
            assert await phases() == ["idle", "idle"]
            await all_move(last_calls)
        assert [calls.lost for calls in (old_calls, new_calls, late_calls, last_calls)] == [[]] * 4
        for daemon in (first, second):
            found = await daemon.settled()
            assert found.by("qlb_cid_config_packets_total", "config_id").keys() == {"1", "2"}
            assert found.by("qlb_rotation_phase", "phase") == {"idle": 1}
            assert [row["config_id"] for row in (await daemon.status())["cid_configs"]] == [2]


async def test_a_config_in_use_is_protected(tmp_path: Path) -> None:
    """While packets carry a config ID, its key cannot change, it cannot be removed, and the ID cannot be used again.

    With force, all of this is done. Packets with an ID that is no longer configured are counted by it.
    """
    async with echoes(tmp_path, "127.0.0.1", may_log_errors=True) as on:
        server = on.servers[0]
        question = datagrams.short(on.id_of(server), b"?")
        keyless = {**on.config, "backends": [_without_ids(row) for row in on.config["backends"]], "cid_configs": []}
        changed = {**on.config, "cid_configs": [cid_config(OTHER)]}

        async def reload(config: dict[str, Any], *more: str) -> tuple[int, str]:
            on.daemon.write(config)
            return await on.daemon.command("reload", *more)

        await on.ask(question)
        refused = (await reload(changed), await reload(keyless))
        assert [code for code, _ in refused] == [1, 1]
        assert "its key and lengths cannot change" in refused[0][1]
        assert "it can be removed after 600 s of silence" in refused[1][1]
        assert (await on.daemon.status())["config"]["generation"] == 1

        assert (await reload(keyless, "--force"))[0] == 0
        await on.ask(question)
        (carried,) = (await on.daemon.status())["unconfigured_cids"]
        assert (carried["config_id"], carried["packets"]) == (1, 1)
        code, output = await reload(changed)
        assert (code, "packets still carry config ID 1 as it was before" in output) == (1, True), output
        assert (await reload(on.config))[0] == 0, "the same key is refused"
        found = await on.daemon.settled()
        assert found.by("qlb_unconfigured_cid_packets_total", "config_id") == {}
        assert found.by("qlb_packets_forwarded_total", "route") == {"cid": 1, "fallback": 1}


def _without_ids(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "server_ids"}
