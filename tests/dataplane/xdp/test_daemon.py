"""The daemon on the XDP plane: start, explain, stop with the program left attached, and start again."""

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
    """Return the ID of the program on in0, or 0."""
    output = subprocess.run(["ip", "-d", "link", "show", "in0"], check=True, capture_output=True, text=True).stdout
    return int(output.split("prog/xdp id ")[1].split()[0]) if "prog/xdp id " in output else 0


async def qlb(*arguments: str) -> tuple[int, str]:
    """Run a command of the CLI. Return (exit code, output)."""
    piped = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.STDOUT}
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "qlb", *arguments, **piped)
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def ask(daemon: Daemon, number: int) -> list[str]:
    """Run `qlb explain --live` for a datagram with a backend's ID. Return the words of its last line."""
    datagram = short(cid_of(number)).hex()
    code, output = await qlb("explain", str(daemon.path), datagram, "--client", f"{CLIENTS[4]}:5555", "--live")
    assert code == 0, output
    return output.splitlines()[-1].split()


@pytest.mark.usefixtures("scene")
def test_a_daemon(tmp_path: Path) -> None:
    """Plane auto is xdp in these modes; the daemon is ready, reports its state, and explains live decisions."""

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
    """A stopped or killed daemon leaves its program attached; the next one replaces it; `qlb detach` removes it."""

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
        code, output = await qlb("detach", str(daemon.path))
        assert (code, output) == (0, "in0: detached\n")
        assert not on_the_interface()

    asyncio.run(story())


@pytest.mark.usefixtures("scene")
def test_an_upgrade(tmp_path: Path) -> None:
    """At an upgrade, the new process's program replaces the old one's. Without keep_attached, it is rejected."""

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
            code, output = await daemon.command("upgrade")
            assert (code, "only with forwarding.keep_attached: true" in output) == (1, True), output
            assert on_the_interface() == before

    asyncio.run(story())


@pytest.mark.usefixtures("scene")
def test_a_reload_that_the_kernel_refuses_changes_nothing(tmp_path: Path) -> None:
    """A reload that changes the mode is rejected; a reload of backends is applied."""

    async def story() -> None:
        async with running(tmp_path / "daemon", config(), may_log_errors=True) as daemon:
            daemon.write(config(mode="gue"))
            assert (await daemon.command("reload"))[0] == 2
            assert "forwarding.mode cannot change by a reload" in daemon.log
            changed = config()
            changed["backends"] = changed["backends"][:1]
            daemon.write(changed)
            assert (await daemon.command("reload"))[0] == 0
            assert (await ask(daemon, 1))[3] == "agent-a:"

    asyncio.run(story())


@pytest.mark.usefixtures("scene")
def test_an_exit_that_accepts_no_packets(tmp_path: Path) -> None:
    """A route to an exit that accepts no packets is reported, also by `qlb check`, and the daemon is not ready."""

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
            assert daemon.logged("can reach all backends that have a route") == 1

    asyncio.run(story())


@pytest.mark.usefixtures("scene")
def test_an_interface_that_disappears(tmp_path: Path) -> None:
    """Without its interface the daemon is not ready and logs it once; a new interface of that name makes it ready."""

    async def story() -> None:
        async with running(tmp_path / "daemon", config(), may_log_errors=True) as daemon:
            ip_batch("link del in0\n")
            await daemon.until(lambda found: found.total("qlb_xdp_detached_interfaces") == 1)
            assert (await daemon.status())["ready"] is False
            assert daemon.logged("in0: the program was detached and cannot be attached again") == 1
            ip_batch("link add in0 type veth peer name in1\nlink set in0 up\nlink set in1 up\n")
            await daemon.until_ready()
            assert on_the_interface()
            assert daemon.logged("the XDP program was detached from in0; qlb has attached it again") == 1

    asyncio.run(story())


def _xdp_notices(status: dict[str, Any]) -> list[str]:
    return [notice["text"] for notice in status["notices"] if notice["kind"] == "xdp"]


def ip_batch(commands: str) -> None:
    """Run lines of `ip -batch`."""
    subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True)
