"""Upgrades and restarts under load, by the daemon itself and by a service manager. No connection is lost."""

import asyncio
import os
import shutil
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from lab import ngtcp2, processes, scrape
from lab.clients import Calls, in_progress
from lab.daemon import Daemon, configuration
from lab.echoes import echoes
from lab.journeys import Journey, aioquic_journey, ngtcp2_journey
from lab.managed import start_managed
from lab.nat import NatPort
from lab.ports import free_port
from lab.service_manager import managing
from lab.stage import PARAMS, Stage, stage
from qlb.cli.client import ask

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no pidfd_open(), which only Linux has"),
]

CALLS: Final = 6
UPGRADES: Final = 5
LIMIT_S: Final = 360.0
LONG_UPLOAD_BYTES: Final = 3_000_000
UPLOAD_DATAGRAMS_PER_S: Final = 20.0
"""At this rate the upload lasts two minutes: longer than the upgrades, even on a busy machine."""
PLANES: Final = ("batch", "asyncio")


@asynccontextmanager
async def talking(scene: Stage) -> AsyncIterator[Calls]:
    """Run calls in the block. None may be lost, and each must continue after the block."""
    async with in_progress(scene.addresses(CALLS)) as calls:
        yield calls
        scene.nat.rebind_all()
        await calls.until_more()
        assert calls.lost == []


def supervisors(daemon: Daemon) -> list[int]:
    """Return the process IDs of a daemon's supervisors."""
    found = processes.with_argument(str(daemon.path))
    return [pid for pid, state in found if state != "Z" and processes.is_daemon(pid)]


async def new_process(daemon: Daemon) -> int:
    """Wait for the new process of an upgrade, and return its process ID."""
    while not (found := [pid for pid in processes.children(daemon.pid) if processes.is_daemon(pid)]):
        await asyncio.sleep(0)
    return found[0]


@pytest.mark.parametrize("plane", PLANES)
async def test_no_connection_is_lost(tmp_path: Path, plane: str) -> None:
    """In five upgrades, calls and transfers that change their addresses stay on one backend each, and none is lost."""
    done = asyncio.Event()

    async def all_the_time(port: NatPort) -> None:
        while not done.is_set():
            port.rebind()
            await port.until_flowing(up=10)

    def journeys(scene: Stage) -> list[Any]:
        travel = [aioquic_journey(port, scene.gates, all_the_time) for port in scene.ports(CALLS)]
        if shutil.which(ngtcp2.PROGRAM):
            mode = ngtcp2.Mode.MIGRATE
            travel += [
                ngtcp2_journey(
                    *(port, scene.gates, all_the_time, tmp_path, mode),
                    upload_bytes=LONG_UPLOAD_BYTES,
                    datagrams_per_s=UPLOAD_DATAGRAMS_PER_S,
                )
                for port in scene.ports(CALLS)
            ]
        return travel

    forwarding = {"workers": "2", "plane": plane}
    async with stage(tmp_path, forwarding=forwarding, limit_s=LIMIT_S) as scene, talking(scene) as calls:
        travels = asyncio.gather(*journeys(scene))
        seen = {scene.daemon.pid}
        for _ in range(UPGRADES):
            await scene.daemon.upgrade()
            seen.add(scene.daemon.pid)
            assert supervisors(scene.daemon) == [scene.daemon.pid]
            await calls.until_more()
        done.set()
        found: list[Journey] = await travels
        assert [journey.lost for journey in found if journey.lost] == []
        assert all(journey.backend for journey in found)
        assert min(journey.changes for journey in found) > UPGRADES
        assert len(seen) == 1 + UPGRADES
        assert not any("+" in name for name in calls.backends)
        assert scene.accepted == CALLS + len(found), "a client has connected a second time"


async def test_another_number_of_workers(tmp_path: Path) -> None:
    """With more workers, and then with fewer, no flow ends in an unread socket."""
    async with stage(tmp_path, forwarding={"workers": "2"}, limit_s=LIMIT_S) as scene, talking(scene) as calls:
        for workers in (4, 1):
            scene.daemon.write(scene.config(forwarding={"workers": str(workers)}))
            await scene.daemon.upgrade()
            assert len((await scene.daemon.status())["workers"]) == workers
            scene.nat.rebind_all()
            await calls.until_more()
    assert calls.lost == []


async def test_drains_survive_an_upgrade(tmp_path: Path) -> None:
    """After an upgrade, a drained backend still gets no new connections, and the node is ready at once."""
    async with stage(tmp_path) as scene:
        name = scene.servers[0].name
        assert (await scene.daemon.command("drain", name))[0] == 0
        await scene.daemon.upgrade()
        assert (await scrape.get(scene.daemon.admin, "/readyz"))[0] == 200
        rows = {row["name"]: row["state"] for row in (await scene.daemon.status())["backends"]}
        assert [one for one, state in rows.items() if state == "draining"] == [name]
        async with in_progress(scene.addresses(CALLS)) as calls:
            assert name not in calls.backends


async def test_a_new_process_that_cannot_start(tmp_path: Path) -> None:
    """An invalid configuration or an address in use is refused with the reason, and the old process continues."""
    async with stage(tmp_path, may_log_errors=True) as scene, talking(scene) as calls:
        daemon, taken = scene.daemon, ("127.0.0.1", free_port())
        old = daemon.pid
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind(taken)
            wrong = configuration([scene.service], [PARAMS], scene.servers, no_such_key={})
            elsewhere = configuration([scene.service, taken], [PARAMS], scene.servers)
            for config, why in (
                (wrong, "no_such_key"),
                (elsewhere, f"{taken[0]}:{taken[1]} is in use by process {os.getpid()}"),
            ):
                daemon.write(config)
                code, output = await daemon.command("upgrade")
                assert (code, why in output, "the old process continues" in output) == (1, True, True), output
                scene.nat.rebind_all()
                await calls.until_more()
                assert supervisors(daemon) == [old]
        assert calls.lost == []


async def test_one_at_a_time(tmp_path: Path) -> None:
    """Of two concurrent upgrades, one is done and the other refused."""
    async with stage(tmp_path, may_log_errors=True) as scene, talking(scene):
        asked = [asyncio.to_thread(ask, scene.daemon.socket, "POST", "/upgrade") for _ in range(2)]
        (done, answer), (refused, why) = sorted(await asyncio.gather(*asked), key=lambda each: each[0])
        assert (done, refused, why["problems"]) == (200, 422, ["another upgrade is under way"])
        await scene.daemon.follow(answer["pid"])


@pytest.mark.parametrize("victim", ["next", "old"])
async def test_a_process_killed_during_an_upgrade(tmp_path: Path, victim: str) -> None:
    """If either process is killed during the handover, the other one serves, and no call is lost."""
    async with stage(tmp_path, may_log_errors=True, forwarding={"workers": "2"}) as scene, talking(scene) as calls:
        daemon, old = scene.daemon, scene.daemon.pid
        upgrading = asyncio.create_task(daemon.command("upgrade"))
        new = await new_process(daemon)
        os.kill(new if victim == "next" else old, signal.SIGKILL)
        code, output = await upgrading
        assert code == 1, output
        if victim == "next":
            assert "by signal 9" in output
        else:
            await daemon.follow(new, code=-signal.SIGKILL)
            await daemon.until_logged('"ready"', times=2)
        scene.nat.rebind_all()
        await calls.until_more()
        assert supervisors(daemon) == [daemon.pid]


async def test_sigterm_during_an_upgrade(tmp_path: Path) -> None:
    """SIGTERM during an upgrade ends both processes."""
    async with stage(tmp_path) as scene:
        upgrading = asyncio.create_task(scene.daemon.command("upgrade"))
        new = await new_process(scene.daemon)
        assert await scene.daemon.stop() == 0
        await upgrading
        assert not processes.is_daemon(new)
        await scene.daemon.start()


@pytest.mark.slow
async def test_nothing_is_left_over(tmp_path: Path) -> None:
    """Repeated upgrades leave no additional descriptor or process, and no zombie."""

    async def resources(daemon: Daemon) -> tuple[int, int]:
        while len(processes.children(daemon.pid)) < 4:  # the spares start after the daemon is ready
            await asyncio.sleep(scrape.POLL_S)
        return processes.descriptors(daemon.pid), len(processes.children(daemon.pid))

    async with stage(tmp_path, forwarding={"workers": "2"}, limit_s=LIMIT_S) as scene:
        await scene.daemon.upgrade()
        before = await resources(scene.daemon)
        for _ in range(UPGRADES):
            await scene.daemon.upgrade()
        assert await resources(scene.daemon) == before
        children = processes.children(scene.daemon.pid)
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


@pytest.mark.parametrize("how", ["SIGTERM", "SIGKILL"])
async def test_restarts_under_a_manager(tmp_path: Path, how: str) -> None:
    """Stopped or killed, then started with the manager's stored sockets: packets wait in them, and no call is lost."""
    with managing(tmp_path) as manager:
        async with stage(tmp_path, forwarding={"workers": "2"}, limit_s=LIMIT_S) as scene:
            daemon = scene.daemon
            assert await daemon.stop() == 0
            await start_managed(daemon, manager)
            assert (await daemon.command("drain", scene.servers[0].name))[0] == 0
            async with talking(scene) as calls:
                for _ in range(3):
                    if how == "SIGTERM":
                        assert await daemon.stop() == 0
                    else:
                        await daemon.kill()
                    await start_managed(daemon, manager)
                    scene.nat.rebind_all()
                    await calls.until_more()
                    assert (await daemon.status())["backends"][0]["state"] == "draining"
                await daemon.upgrade()
                assert manager.values("MAINPID") == [str(daemon.pid)]
            assert scene.servers[0].name not in calls.backends
            kinds = sorted(name.partition(".127")[0] for name in manager.store)
            assert kinds == ["qlb.state", "qlb.tcp", "qlb.udp", "qlb.udp"]
            assert all(len(sockets) == 1 for sockets in manager.store.values())


@pytest.mark.skipif(
    shutil.which("systemd-socket-activate") is None,
    reason="the program systemd-socket-activate is not installed (Debian: systemd)",
)
async def test_socket_activation(tmp_path: Path) -> None:
    """systemd-socket-activate binds the address and starts the daemon, which answers the packet that started it."""
    async with echoes(tmp_path, "127.0.0.1", may_log_errors=True) as on:
        assert await on.daemon.stop() == 0
        host, port = on.service
        started = on.daemon.start(prefix=("systemd-socket-activate", "--datagram", f"--listen={host}:{port}"))
        starting = asyncio.create_task(started)
        while not _is_bound(port):
            await asyncio.sleep(scrape.POLL_S)
        answer, _, source = await on.ask(b"\x40" + on.id_of(on.servers[0]) + b"the first")
        assert (answer[-9:], source) == (b"the first", on.service)
        await starting
        logged = [record for record in on.daemon.log_records if record["level"] != "info"]
        assert {record["level"] for record in logged} <= {"not JSON", "warning"}, "the daemon has logged an error"
        assert not any("not used" in str(record) for record in logged)


def _is_bound(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
        sock.bind(("127.0.0.1", port))
        return False
    return True
