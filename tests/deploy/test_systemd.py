"""Tests of deploy/systemd/: systemd accepts, confines and runs the units; restarts lose no connection."""

import asyncio
import json
import re
import shlex
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from lab import scrape
from lab.clients import Calls, in_progress
from lab.daemon import configuration, written
from lab.deploy import runbooks
from lab.deploy.systemd import Systemd, systemd
from lab.deploy.tools import DEPLOY, REPOSITORY, run, tool
from lab.direct import PORT, direct_configuration, direct_servers
from lab.hosts import CLIENT_ADDRESSES, SERVICES, hosts
from lab.nat import Address, Nat
from lab.ports import free_port
from lab.quic_servers import QuicServerBehind, generator_of, quic_servers
from lab.stage import NAMES, PARAMS
from lab.stories import Gates
from qlb.dataplane.xdp import libbpf

FOLDER: Final = DEPLOY / "systemd"
UNITS: Final = ("qlb.service", "qlb-check.service", "qlb.socket")
MOST_EXPOSURE: Final = 2.0
CALLS: Final = 12
LIMIT_S: Final = 360.0
CAPABILITIES: Final = "000000c000001400"
"""BPF, PERFMON and NET_ADMIN, and NET_BIND_SERVICE, which the unit has without the drop-in too."""
WITH_XDP: Final = (
    "qlb.service",
    "qlb-check.service",
    "qlb.service.d/xdp.conf",
    "qlb.sysusers.conf",
    "qlb.tmpfiles.conf",
)


def units(folder: Path, *, drop_in: bool = False) -> list[Path]:
    """Copy the units, with an existing program, so that systemd-analyze reports only faults of the units."""
    for name in UNITS:
        text = (FOLDER / name).read_text().replace("/opt/qlb/bin/qlb", "/bin/true")
        (folder / name).write_text(text)
    if drop_in:
        (folder / "qlb.service.d").mkdir()
        (folder / "qlb.service.d/xdp.conf").write_text((FOLDER / "qlb.service.d/xdp.conf").read_text())
    return [folder / name for name in UNITS]


@pytest.mark.parametrize("drop_in", [False, True])
def test_systemd_understands_every_line(tmp_path: Path, drop_in: bool) -> None:
    """systemd-analyze verify prints nothing."""
    assert run(tool("systemd-analyze", "systemd"), "verify", *units(tmp_path, drop_in=drop_in)) == ""


def test_the_unit_matches_the_documentation() -> None:
    """The unit contains every line of the example in docs/upgrading.md."""
    (block,) = re.findall(r"```ini\n\[Service\]\n(.*?)```", (REPOSITORY / "docs/upgrading.md").read_text(), re.DOTALL)
    lines = (FOLDER / "qlb.service").read_text().splitlines()
    assert len(block.split()) >= 6
    assert [line for line in block.split() if line not in lines] == []


def exposures(folder: Path, *, drop_in: bool) -> list[float]:
    """Return systemd-analyze's rating of each service: 0 = confined, 10 = exposed."""
    services = [path for path in units(folder, drop_in=drop_in) if path.suffix == ".service"]
    found = run(tool("systemd-analyze", "systemd"), "security", "--offline=yes", "--no-pager", *services)
    ratings = re.findall(r"Overall exposure level for \S+: ([\d.]+)", found)
    assert len(ratings) == len(services), found
    return [float(rating) for rating in ratings]


def test_the_services_are_confined(tmp_path: Path) -> None:
    """The exposure of the daemon, and of its check, is below 2.0 of 10."""
    assert max(exposures(tmp_path, drop_in=False)) < MOST_EXPOSURE


def test_xdp_exposes_little_more(tmp_path: Path) -> None:
    """With the drop-in's capabilities and BPF file system, the exposure stays below 4.0 of 10."""
    assert max(exposures(tmp_path, drop_in=True)) < 2 * MOST_EXPOSURE


def test_the_check_sees_the_credentials_of_the_daemon() -> None:
    """Both units get the same credentials for the same configuration."""
    daemon, check = ((FOLDER / name).read_text().splitlines() for name in ("qlb.service", "qlb-check.service"))
    for start in ("LoadCredential=", "User=", "DynamicUser="):
        wanted = [line for line in daemon if line.startswith(start)]
        assert wanted
        assert [line for line in check if line.startswith(start)] == wanted


def test_the_user_of_the_drop_in_is_created(tmp_path: Path) -> None:
    """The sysusers file creates the user of the drop-in, which systemd-analyze verify does not check."""
    drop_in = (FOLDER / "qlb.service.d/xdp.conf").read_text()
    assert "DynamicUser=no" in drop_in
    user = re.search(r"^User=(\w+)$", drop_in, re.MULTILINE)
    assert user
    (tmp_path / "etc").mkdir()
    run(tool("systemd-sysusers", "systemd"), f"--root={tmp_path}", FOLDER / "qlb.sysusers.conf")
    made = {line.split(":")[0] for line in (tmp_path / "etc/passwd").read_text().splitlines()}
    assert made == {user[1]}


@dataclass
class Scene:
    """The manager, servers and NAT of a test. admin: the address at which the daemon is scraped."""

    manager: Systemd
    service: Address
    admin: Address
    servers: list[QuicServerBehind]
    nat: Nat

    async def main_pid(self) -> str:
        """Return the process ID that systemd regards as the daemon's."""
        return (await self.manager.show("qlb.service", "MainPID"))[0]

    async def ready(self) -> None:
        """Wait until the daemon is ready."""
        while True:
            try:
                if (await scrape.get(self.admin, "/readyz"))[0] == 200:
                    return
            except OSError:
                pass
            await asyncio.sleep(scrape.POLL_S)


def write_etc(folder: Path, config: dict[str, Any]) -> None:
    """Write /etc/qlb for the unit: the key is in its own file, and the configuration names its credential."""
    del config["cid_configs"][0]["key"]
    config["cid_configs"][0]["key_file"] = "credential:keys_1.hex"
    (folder / "etc/qlb/keys").mkdir(parents=True)
    (folder / "etc/qlb/qlb.yaml").write_text(yaml.safe_dump(config))
    (folder / "etc/qlb/keys/1.hex").write_text((PARAMS.key or b"").hex())
    (folder / "etc/qlb/keys/1.hex").chmod(0o600)


@asynccontextmanager
async def under_systemd(folder: Path, **sections: Any) -> AsyncIterator[Scene]:
    """Run three real servers and the daemon before them, started by the unit, with its key as a credential.

    sections: of the daemon's configuration.
    """
    service, admin = ("127.0.0.1", free_port()), ("127.0.0.1", free_port())
    async with asyncio.timeout(LIMIT_S), quic_servers(NAMES, PARAMS, Gates()) as servers:
        config = configuration([service], [PARAMS], servers, forwarding={"workers": "2"}, **sections)
        config["admin"] = {"listen": written(admin), "socket": "/run/qlb/qlb.sock"}
        write_etc(folder, config)
        async with systemd(folder, "qlb.service", "qlb-check.service") as manager:
            await manager.run("systemctl", "start", "qlb.service")
            with Nat() as nat:
                scene = Scene(manager, service, admin, servers, nat)
                await scene.ready()
                yield scene


@pytest.mark.e2e
async def test_restarts_under_systemd_lose_nothing(tmp_path: Path) -> None:
    """Restart, kill -9, reload and upgrade of the service lose no call while clients change their addresses."""
    async with under_systemd(tmp_path) as scene:
        addresses = [scene.nat.port(scene.service).address for _ in range(CALLS)]
        async with in_progress(addresses) as calls:
            first = await scene.main_pid()
            await scene.manager.run("systemctl", "restart", "qlb.service")
            await scene.ready()
            second = await scene.main_pid()
            assert first != second
            scene.nat.rebind_all()
            await calls.until_more()
            await scene.manager.run("systemctl", "kill", "--signal=KILL", "--kill-whom=main", "qlb.service")
            while await scene.main_pid() in {second, "0"}:
                await asyncio.sleep(scrape.POLL_S)
            await scene.ready()
            scene.nat.rebind_all()
            await calls.until_more()
            await scene.manager.run("systemctl", "reload", "qlb.service")
            await calls.until_more()
            third = await scene.main_pid()
            await scene.manager.run("/opt/qlb/bin/qlb", "upgrade")
            while await scene.main_pid() == third:
                await asyncio.sleep(scrape.POLL_S)
            scene.nat.rebind_all()
            await calls.until_more()
        assert calls.lost == [], scene.manager.log
        assert sum(server.accepted for server in scene.servers) == CALLS, "no client has connected a second time"
        stored, text, state = await scene.manager.show(
            "qlb.service", "NFileDescriptorStore", "StatusText", "ActiveState"
        )
        assert int(stored) > 0
        assert "3 of 3 backends" in text
        assert state == "active"
        assert " error" not in scene.manager.log.lower()
        await scene.manager.run("systemctl", "stop", "qlb.service")
        assert (await scene.manager.show("qlb.service", "Result"))[0] == "success"
        assert scene.manager.log.rstrip().endswith("INFO qlb stopped"), "the daemon had time to stop"


class Walk:
    """The commands of a runbook, run one after the other in the order of the page."""

    def __init__(self, scene: Scene, page: str, heading: str = "") -> None:
        """page: its name. heading: of the only section to walk."""
        self._lines = [
            line
            for line in runbooks.lines(runbooks.RUNBOOKS / f"{page}.md", heading)
            if not any(line.startswith(start) for start in NOT_HERE)
        ]
        self._scene = scene

    async def do(self, line: str) -> str:
        """Run the page's next command, which must be this one. Return its output."""
        assert self._lines.pop(0) == line
        return await self.again(line)

    async def again(self, line: str) -> str:
        """Run a command of the page once more, as an operator does who waits."""
        program, *arguments = runbooks.words(line)
        return await self._scene.manager.run({"qlb": "/opt/qlb/bin/qlb"}.get(program, program), *arguments)

    def is_complete(self) -> bool:
        """Return whether the page has no further command."""
        return not self._lines


NOT_HERE: Final = {
    "journalctl ": "the test's systemd has no journal",
    "nft ": "tests/deploy/test_host.py loads the table in a network of its own",
    "qlb top": "it needs a terminal; tests/e2e/test_terminal.py has one",
}
"""The start of commands that are not walked → the reason."""
CONFIG: Final = runbooks.CONFIG
SAFE: Final = "the next step is safe"


@pytest.mark.e2e
async def test_a_key_is_rotated_under_systemd(tmp_path: Path) -> None:
    """The runbook's commands rotate a key that is a credential, while calls change their addresses. No call is lost."""
    quiet = {"quiet_period": "2s"}
    async with under_systemd(tmp_path, rotation=quiet, drain=dict(quiet)) as scene:
        walk, run = Walk(scene, "rotation", "## Under systemd"), scene.manager.run
        async with in_progress([scene.nat.port(scene.service).address for _ in range(CALLS)]) as old_calls:
            assert "no daemon was reloaded" in await walk.do(f"qlb rotate next {CONFIG}")
            assert (await run("stat", "--format=%a %U", "/etc/qlb/keys/2.hex")).split() == ["600", "root"]
            assert "is not among the credentials of qlb.service" in await fails(scene, "qlb", "check", CONFIG)
            assert "is not among the credentials of qlb.service" in await fails(scene, "qlb", "reload")
            assert "is not among the credentials of qlb.service" in await fails(scene, "qlb", "upgrade")
            await walk.do("systemctl start qlb-check")
            await walk.do("systemctl restart qlb")
            await scene.ready()
            scene.nat.rebind_all()
            await old_calls.until_more()
            assert SAFE in await walk.do(f"qlb rotate status {CONFIG}")

            assert "config 2 is active, config 1 retires" in await walk.do(f"qlb rotate next {CONFIG}")
            await walk.do("systemctl reload qlb")
            for server in scene.servers:
                printed = await run("/opt/qlb/bin/qlb", "server-config", CONFIG, server.name)
                assert server.rotation is not None
                server.rotation.rotate(generator_of(printed))
            assert "config_id: 2" in await walk.do(f"qlb server-config {CONFIG} agent-a")
            scene.nat.rebind_all()
            await old_calls.until_more()
        async with in_progress([scene.nat.port(scene.service).address for _ in range(CALLS)]) as new_calls:
            while SAFE not in await walk.again(f"qlb rotate status {CONFIG}"):
                await asyncio.sleep(scrape.POLL_S)
            assert "config 1 is removed" in await walk.do(f"qlb rotate next {CONFIG}")
            await walk.do("rm /etc/qlb/keys/1.hex")
            assert walk.is_complete()
            scene.nat.rebind_all()
            await new_calls.until_more()
            await walk.again("systemctl restart qlb")
            await scene.ready()
            scene.nat.rebind_all()
            await new_calls.until_more()
        assert old_calls.lost == new_calls.lost == [], scene.manager.log
        assert sum(server.accepted for server in scene.servers) == 2 * CALLS, "a client has connected a second time"
        status = json.loads(await run("/opt/qlb/bin/qlb", "status", "--json"))
        assert [row["config_id"] for row in status["cid_configs"]] == [2]

        await run("systemctl", "stop", "qlb")
        reason = await fails(scene, "qlb", "check", CONFIG)
        assert "is a credential of qlb.service, which is not running" in reason
        await run("systemctl", "start", "qlb-check")
        await run("cp", "/dev/null", "/etc/qlb/keys/2.hex")
        await fails(scene, "systemctl", "start", "qlb-check")
        assert "credential:keys_2.hex' is empty" in scene.manager.log


@pytest.mark.e2e
async def test_the_other_runbooks_under_systemd(tmp_path: Path) -> None:
    """The commands of the runbooks for drain, upgrade, lost node and flood do what the pages describe, during calls."""
    async with under_systemd(tmp_path, drain={"quiet_period": "1s"}) as scene:
        await walk_drain(scene)
        async with in_progress([scene.nat.port(scene.service).address for _ in range(CALLS)]) as calls:
            await walk_upgrade(scene, calls)
            await walk_flood(scene, calls)
        assert calls.lost == [], scene.manager.log
        await walk_loss_of_a_node(scene)


async def walk_drain(scene: Scene) -> None:
    """Take a backend out while calls are on it, wait for their end, and put it back."""
    walk, server = Walk(scene, "drain"), scene.servers[0]
    async with in_progress([scene.nat.port(scene.service).address for _ in range(CALLS)]) as old_calls:
        await walk.do("qlb drain agent-a")
        before = server.accepted
        async with in_progress([scene.nat.port(scene.service).address for _ in range(CALLS)]) as new_calls:
            await old_calls.until_more()
        assert "agent-a" not in new_calls.backends
        assert server.accepted == before
    assert old_calls.lost == new_calls.lost == [], scene.manager.log
    assert "agent-a: drained" in await walk.do("qlb drain agent-a --wait")
    await walk.do("qlb undrain agent-a")
    assert "good" in await walk.do(f"qlb check {CONFIG}")
    assert "reloaded, no changes" in await walk.do("qlb reload")
    assert walk.is_complete()


async def walk_upgrade(scene: Scene, calls: Calls) -> None:
    """Replace the process, both by systemd and by qlb."""
    walk = Walk(scene, "upgrade")
    assert "good" in await walk.do(f"qlb check {CONFIG}")
    assert "agent-a" in await walk.do("qlb status")
    first = await scene.main_pid()
    await walk.do("systemctl restart qlb")
    await scene.ready()
    scene.nat.rebind_all()
    await calls.until_more()
    second = await scene.main_pid()
    await walk.do("qlb upgrade")
    while await scene.main_pid() in (first, second):
        await asyncio.sleep(scrape.POLL_S)
    scene.nat.rebind_all()
    await calls.until_more()
    assert walk.is_complete()


async def walk_flood(scene: Scene, calls: Calls) -> None:
    """Look at a flood, and restart with larger buffers."""
    walk = Walk(scene, "flood")
    assert "cid_config_1" in await walk.do("qlb status")
    assert "fallback_no_config: to agent-" in await walk.do(f"qlb explain {CONFIG} c00000000108aabbccddeeff001100")
    await walk.do("systemctl restart qlb")
    await scene.ready()
    await calls.until_more()
    assert walk.is_complete()


async def walk_loss_of_a_node(scene: Scene) -> None:
    """Find out why a daemon does not run, and start it as on a new machine."""
    walk = Walk(scene, "loss-of-a-node")
    assert "active (running)" in await walk.do("systemctl status qlb")
    assert "good" in await walk.do(f"qlb check {CONFIG}")
    await scene.manager.run("systemctl", "stop", "qlb")
    assert "is a credential of qlb.service, which is not running" in await fails(scene, "qlb", "check", CONFIG)
    await walk.do("systemctl start qlb-check")
    await walk.do("systemctl start qlb")
    await scene.ready()
    assert "reloaded, no changes" in await walk.do("qlb reload")
    assert walk.is_complete()


async def fails(scene: Scene, *words: str) -> str:
    """Run a command that must fail. Return its output."""
    program = {"qlb": "/opt/qlb/bin/qlb"}.get(words[0], words[0])
    command = shlex.join((program, *words[1:]))
    return await scene.manager.run("sh", "-c", f"if {command}; then exit 1; fi")


@dataclass
class KernelScene:
    """The hosts of a test with the drop-in; one is the balancer. nat: the clients'; the test runs in its network."""

    manager: Systemd
    servers: list[QuicServerBehind]
    nat: Nat

    def ports(self, count: int) -> list[Address]:
        """Open client ports at the NAT; return their addresses."""
        service = SERVICES[4], PORT
        return [self.nat.port(service, host=CLIENT_ADDRESSES[4][0]).address for _ in range(count)]

    def rebind_all(self, host: str) -> None:
        """Give every client another port of another address."""
        for port in self.nat.ports:
            port.rebind(host=host)

    async def status(self) -> dict[str, Any]:
        """Return the daemon's status, requested as root."""
        found: dict[str, Any] = json.loads(await self.manager.run("/opt/qlb/bin/qlb", "status", "--json"))
        return found


@asynccontextmanager
async def xdp_under_systemd(folder: Path) -> AsyncIterator[KernelScene]:
    """Run two servers that answer for the service, and the daemon on the host before them, with the drop-in."""
    with hosts() as made, made.client.inside():
        async with asyncio.timeout(LIMIT_S), AsyncExitStack() as stack:
            servers = await stack.enter_async_context(direct_servers(made, Gates(), 4, 4))
            keep = {"keep_attached": "true"}
            config = direct_configuration(servers, [PARAMS], 4, 4, "l2", forwarding=keep)
            config["admin"] = {"socket": "/run/qlb/qlb.sock"}
            write_etc(folder, config)
            manager = await stack.enter_async_context(systemd(folder, *WITH_XDP, prefix=made.balancer.prefix))
            await manager.run("mkdir", "/sys/fs/bpf/another")
            await manager.run("systemctl", "start", "qlb.service")
            yield KernelScene(manager, servers, stack.enter_context(Nat()))


@pytest.mark.e2e
async def test_the_kernel_plane_under_systemd(tmp_path: Path) -> None:
    """With the drop-in the daemon needs no root, four capabilities and one bpffs folder; restarts lose no call."""
    if lack := libbpf.what_lacks():
        pytest.skip(f"the xdp plane: {lack}")
    async with xdp_under_systemd(tmp_path) as scene:
        async with in_progress(scene.ports(CALLS)) as calls:
            (pid,) = await scene.manager.show("qlb.service", "MainPID")
            process_status = dict(
                line.split(":\t") for line in (await scene.manager.run("cat", f"/proc/{pid}/status")).splitlines()
            )
            assert process_status["CapEff"] == process_status["CapBnd"] == CAPABILITIES
            assert "0" not in process_status["Uid"].split()
            seen = await scene.manager.run("ls", f"/proc/{pid}/root/sys/fs/bpf")
            assert seen.split() == ["qlb"]
            assert (await scene.status())["plane"] == "xdp"
            await scene.manager.run("cp", "/opt/units/qlb.service.d/xdp.conf", "/opt/units/qlb-check.service.d")
            await scene.manager.run("systemctl", "daemon-reload")
            await scene.manager.run("systemctl", "start", "qlb-check")
            await scene.manager.run("systemctl", "restart", "qlb.service")
            scene.rebind_all(CLIENT_ADDRESSES[4][1])
            await calls.until_more()
            await scene.manager.run("systemctl", "stop", "qlb.service")
            scene.rebind_all(CLIENT_ADDRESSES[4][2])
            await calls.until_more()  # the kernel forwards without the daemon
            await scene.manager.run("systemctl", "start", "qlb.service")
            scene.rebind_all(CLIENT_ADDRESSES[4][0])
            await calls.until_more()
            await scene.manager.run("/opt/qlb/bin/qlb", "upgrade")
            scene.rebind_all(CLIENT_ADDRESSES[4][1])
            await calls.until_more()
        assert calls.lost == [], scene.manager.log
        assert sum(server.accepted for server in scene.servers) == CALLS
        assert " error" not in scene.manager.log.lower()
        await scene.manager.run("systemctl", "stop", "qlb.service")
        assert await scene.manager.run("/opt/qlb/bin/qlb", "detach", "/etc/qlb/qlb.yaml") == "in0: detached\n"
