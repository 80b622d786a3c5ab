"""The daemon on the kernel plane: started, asked, stopped with its program left behind, started again."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.daemon import Daemon, cid_config, running
from lab.xdp.scene import CLIENTS, FOUR_PASS, PORT, SERVICES, cid_of, server_id, short

pytestmark = [pytest.mark.toolchain, pytest.mark.e2e]


def config(**forwarding: Any) -> dict[str, Any]:
    """Return a configuration for the scene's network."""
    return {
        "listen": [f"{SERVICES[4]}:{PORT}"],
        "cid_configs": [cid_config(FOUR_PASS)],
        "backends": [
            {"name": name, "address": f"10.0.0.{2 + n}:{PORT}", "server_ids": {"1": server_id(n, FOUR_PASS).hex()}}
            for n, name in enumerate(("agent-a", "agent-b"))
        ],
        "forwarding": {"mode": "ipip", "interfaces": ["in0"], **forwarding},
        "health": {"probe": "none"},
    }


def on_the_interface() -> int:
    """Return the number of the program on in0, or 0."""
    told = subprocess.run(["ip", "-d", "link", "show", "in0"], check=True, capture_output=True, text=True).stdout
    return int(told.split("prog/xdp id ")[1].split()[0]) if "prog/xdp id " in told else 0


async def qlb(*arguments: str) -> tuple[int, str]:
    """Run a command of the CLI; return (exit code, all that it printed)."""
    piped = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "qlb", *arguments, **piped)
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def ask(daemon: Daemon, number: int) -> list[str]:
    """Let `qlb explain --live` ask where a datagram with an ID of a backend goes; return its last line, in words."""
    datagram = short(cid_of(number)).hex()
    code, told = await qlb("explain", str(daemon.path), datagram, "--client", f"{CLIENTS[4]}:5555", "--live")
    assert code == 0, told
    return told.splitlines()[-1].split()


@pytest.mark.usefixtures("scene")
def test_a_daemon(tmp_path: Path) -> None:
    """Plane auto is xdp in these modes; it is ready, tells of itself, and answers where a datagram would go."""

    async def story() -> None:
        async with running(tmp_path / "daemon", config()) as daemon:
            assert on_the_interface()
            status = await daemon.status()
            assert (status["plane"], status["mode"], status["workers"]) == ("xdp", "ipip", [])
            (await daemon.metrics()).check_sums()
            words = await ask(daemon, 1)
            assert words[:4] == ["live:", "cid_config_1,", "backend", "agent-b:"]
            assert {"redirect", "out0", "02:00:00:00:00:03,", "10.0.0.1", "10.0.0.3,"} <= set(words)
            assert (await daemon.command("drain", "agent-a"))[0] == 0
            assert (await ask(daemon, 0))[3] == "agent-a:"
        assert not on_the_interface()

    asyncio.run(story())


@pytest.mark.usefixtures("scene")
def test_the_program_outlives_the_daemon(tmp_path: Path) -> None:
    """Stopped, even killed, it leaves its program; the next one takes over; `qlb detach` ends it."""

    async def story() -> None:
        async with running(tmp_path / "daemon", config(keep_attached="true")) as daemon:
            seen = [on_the_interface()]
            assert await daemon.stop() == 0
            seen.append(on_the_interface())
            await daemon.start()
            seen.append(on_the_interface())
            await daemon.kill()
            seen.append(on_the_interface())
            await daemon.start()
            seen.append(on_the_interface())
            assert seen[0] == seen[1] != seen[2] == seen[3] != seen[4]
        assert on_the_interface() == seen[4]
        code, told = await qlb("detach", str(daemon.path))
        assert (code, told) == (0, "in0: detached\n")
        assert not on_the_interface()

    asyncio.run(story())


@pytest.mark.usefixtures("scene")
def test_an_upgrade(tmp_path: Path) -> None:
    """The next one's program takes the place of the first one's; where that would end with its process: refused."""

    async def story() -> None:
        async with running(tmp_path / "daemon", config(keep_attached="true")) as daemon:
            assert (await daemon.command("drain", "agent-a"))[0] == 0
            before = on_the_interface()
            await daemon.upgrade()
            assert 0 != on_the_interface() != before
            assert (await daemon.status())["backends"][0]["state"] == "draining"
            assert (await ask(daemon, 1))[3] == "agent-b:"
        assert (await qlb("detach", str(daemon.path)))[0] == 0
        async with running(tmp_path / "another", config(), may_log_errors=True) as daemon:
            before = on_the_interface()
            code, told = await daemon.command("upgrade")
            assert (code, "only with forwarding.keep_attached: true" in told) == (1, True), told
            assert on_the_interface() == before

    asyncio.run(story())


@pytest.mark.usefixtures("scene")
def test_a_reload_that_the_kernel_refuses_changes_nothing(tmp_path: Path) -> None:
    """A mode or interfaces need a restart: refused with the place; the rest is taken over while packets flow."""

    async def story() -> None:
        async with running(tmp_path / "daemon", config(), may_log_errors=True) as daemon:
            daemon.write(config(mode="gue"))
            assert (await daemon.command("reload"))[0] == 2
            assert "forwarding.mode cannot change while qlb runs" in daemon.log
            changed = config()
            changed["backends"] = changed["backends"][:1]
            daemon.write(changed)
            assert (await daemon.command("reload"))[0] == 0
            assert (await ask(daemon, 1))[3] == "agent-a:"

    asyncio.run(story())


@pytest.mark.usefixtures("scene")
def test_an_exit_that_accepts_no_packets(tmp_path: Path) -> None:
    """A route moves to one: reported, also by `qlb check`, and not ready; ready once the route leads elsewhere."""

    async def story() -> None:
        ip_batch("link add x0 link out0 type macvlan mode bridge\nroute add 10.7.0.0/24 via 10.0.0.3\n")
        native = config(attach="native")
        native["backends"] = [{**native["backends"][0], "address": f"10.7.0.2:{PORT}"}]
        async with running(tmp_path / "daemon", native) as daemon:
            assert _xdp_notices(await daemon.status()) == []
            ip_batch("route del 10.7.0.0/24 via 10.0.0.3\nlink set x0 up\nroute add 10.7.0.0/24 dev x0\n")
            await daemon.until(lambda found: found.total("qlb_xdp_refused_backends") == 1)
            status = await daemon.status()
            assert status["ready"] is False
            (notice,) = _xdp_notices(status)
            assert "backends cannot be reached by x0: it is a macvlan interface" in notice
            assert notice.endswith("are dropped as no_route: agent-a")
            assert status["xdp"] == {"detached_interfaces": 0, "refused_backends": 1}
            assert daemon.logged(notice) == 1
            assert notice in (await qlb("check", str(daemon.path)))[1]
            ip_batch("link set x0 down\nroute add 10.7.0.0/24 via 10.0.0.3\n")
            await daemon.until(lambda found: found.total("qlb_xdp_refused_backends") == 0)
            await daemon.until_ready()
            assert daemon.logged("can reach every backend that has a route") == 1

    asyncio.run(story())


@pytest.mark.usefixtures("scene")
def test_an_interface_that_goes(tmp_path: Path) -> None:
    """Not ready without it, in the log once; attached again and ready when there is one of that name."""

    async def story() -> None:
        async with running(tmp_path / "daemon", config(), may_log_errors=True) as daemon:
            ip_batch("link del in0\n")
            await daemon.until(lambda found: found.total("qlb_xdp_detached_interfaces") == 1)
            assert (await daemon.status())["ready"] is False
            assert daemon.logged("in0: the program was detached, and cannot be attached again") == 1
            ip_batch("link add in0 type veth peer name in1\nlink set in0 up\nlink set in1 up\n")
            await daemon.until_ready()
            assert on_the_interface()
            assert daemon.logged("the XDP program was detached from in0, and has been attached again") == 1

    asyncio.run(story())


def _xdp_notices(status: dict[str, Any]) -> list[str]:
    return [notice["text"] for notice in status["notices"] if notice["kind"] == "xdp"]


def ip_batch(commands: str) -> None:
    """Run lines of `ip -batch`."""
    subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True)
