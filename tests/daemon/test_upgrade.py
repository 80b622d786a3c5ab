"""The handover from the old process to the new one: through a service manager that stores sockets, or directly."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lab.service_manager import Manager, managing
from lab.stopped import standing_still
from qlb.config.load import load
from qlb.daemon import upgrade as module
from qlb.daemon.reload import probe_targets
from qlb.daemon.supervisor import Supervisor
from qlb.handover.memory import Memory
from qlb.handover.protocol import Origin
from qlb.handover.sockets import Inherited, Named
from qlb.handover.systemd import Notifier
from qlb.routing.backends import BackendState

pytestmark = pytest.mark.e2e

CONFIG = {
    "listen": ["127.0.0.1:0"],
    "health": {"probe": "none"},
    "forwarding": {"plane": "asyncio", "workers": 2},
    "admin": {"listen": "127.0.0.1:0", "socket": "qlb.sock"},
}

STUB = """
import asyncio, os, sys
from qlb.handover.protocol import OldProcess
one = OldProcess.find(os.environ)
"""


@pytest.fixture
def backend() -> Iterator[socket.socket]:
    """Yield a backend's socket, at which packets must arrive."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        yield sock


@pytest.fixture
def config(tmp_path: Path, backend: socket.socket) -> Path:
    """Write a configuration with two backends and return its path. The second one has weight 0: all go to the first."""
    path = tmp_path / "qlb.yaml"
    _write(path, backend)
    return path


def _write(path: Path, backend: socket.socket, **changes: object) -> None:
    first = {"name": "a", "address": f"127.0.0.1:{backend.getsockname()[1]}"}
    second = {"name": "b", "address": "127.0.0.1:9", "weight": "0"}
    path.write_text(json.dumps(CONFIG | {"backends": [first, second]} | changes))


@asynccontextmanager
async def _running(path: Path, origin: Origin) -> AsyncIterator[Supervisor]:
    """Run a supervisor until the end of the block, unless it ends by itself. Its exit code must be 0."""
    ready = asyncio.Event()
    supervisor = Supervisor(path, load(path), lambda _: ready.set(), origin)
    running = asyncio.create_task(supervisor.run())
    async with asyncio.timeout(90):
        await ready.wait()
    try:
        yield supervisor
    finally:
        supervisor.end()
        async with asyncio.timeout(90):
            assert await running == 0


def _managed(manager: Manager, **environ: str) -> Origin:
    """Return the origin of a process that a manager starts. It gets the stored descriptors."""
    inherited = Inherited(Named(*each) for each in manager.descriptors())
    notifier = Notifier({"NOTIFY_SOCKET": manager.name, **environ})
    return Origin(inherited, Memory(inherited.state), notifier)


async def _until_sent(manager: Manager, field: str, text: str) -> None:
    async with asyncio.timeout(90):
        while text not in manager.values(field):
            await asyncio.sleep(0.01)


async def _forwards(supervisor: Supervisor, backend: socket.socket, flows: int = 8) -> None:
    """Send from several new addresses, so that every worker's socket gets some packets. All must arrive."""
    _send(supervisor.parts.listen[0], flows)
    await _received(backend, flows)


def _send(service: tuple[str, int], flows: int) -> None:
    for _ in range(flows):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"\x40" + bytes(30), service)


async def _received(backend: socket.socket, count: int) -> None:
    async with asyncio.timeout(90):
        for _ in range(count):
            await asyncio.get_running_loop().sock_recv(backend, 2000)


async def test_the_manager_is_notified(tmp_path: Path, config: Path) -> None:
    """The manager is notified of start, status, watchdog, reload and stop, and it gets all sockets."""
    with managing(tmp_path) as manager:
        async with _running(config, _managed(manager, WATCHDOG_USEC="20000")) as supervisor:
            await _until_sent(manager, "STATUS", "forwarding on asyncio; 2 of 2 backends healthy; generation 1")
            await _until_sent(manager, "WATCHDOG", "1")
            assert manager.values("READY") == ["1"]
            config.write_text(json.dumps(json.loads(config.read_text()) | {"drain": {"quiet_period": "59s"}}))
            assert (await supervisor.reload()).ok
            assert manager.values("READY") == ["1", "1"]
            reloading = next(message for message in manager.receive() if "RELOADING" in message)
            assert int(reloading["MONOTONIC_USEC"]) > 0
            await _until_sent(manager, "STATUS", "forwarding on asyncio; 2 of 2 backends healthy; generation 2")
            port = supervisor.parts.listen[0].port
            admin = supervisor.parts.admin.address
            assert admin is not None
        assert manager.values("STOPPING") == ["1"]
        assert int(manager.values("EXTEND_TIMEOUT_USEC")[0]) > 0
        assert sorted(manager.store) == [
            "qlb.state",
            f"qlb.tcp.127.0.0.1.{admin.port}",
            f"qlb.udp.127.0.0.1.{port}.0",
            f"qlb.udp.127.0.0.1.{port}.1",
        ]


async def test_packets_wait_during_a_restart(tmp_path: Path, config: Path, backend: socket.socket) -> None:
    """After a restart the ports are the same, waiting packets are forwarded, and a drained backend is still drained."""
    with managing(tmp_path) as manager:
        async with _running(config, _managed(manager)) as first:
            await _forwards(first, backend)
            await first.drain("b")
            where = first.parts.listen, first.parts.admin.address
        _send(where[0][0], 8)
        async with _running(config, _managed(manager)) as second:
            assert (second.parts.listen, second.parts.admin.address) == where
            await _received(backend, 8)
            states = {one.name: one.state for one in second.parts.desired.backends if one}
            assert states == {"a": BackendState.ACTIVE, "b": BackendState.DRAINING}
            await _forwards(second, backend)
        assert all(len(stored) == 1 for stored in manager.store.values())
        assert "FDSTOREREMOVE" not in str(manager.receive())


async def test_a_health_verdict_survives_a_restart(tmp_path: Path, backend: socket.socket) -> None:
    """A dead backend gets no new connection before its next probe, and the node is ready at once."""
    path = tmp_path / "qlb.yaml"
    _write(path, backend, health={"probe": "quic", "interval": "1h", "timeout": "10s", "fall": "1"})
    with managing(tmp_path) as manager:
        async with _running(path, _managed(manager)) as first:
            async with asyncio.timeout(90):
                while first.parts.health.is_up("b"):  # no server listens at its port
                    await asyncio.sleep(0.01)
            first.parts.remember()
        origin = _managed(manager)
        remembered = origin.memory.read()
        assert remembered.healthy == {"b": False}
        supervisor = Supervisor(path, load(path), origin=origin)
        supervisor.parts.desired.recall(remembered)
        supervisor.parts.health.apply(supervisor.parts.desired.config.health, probe_targets(supervisor.parts.desired))
        supervisor.parts.health.recall(remembered.healthy)
        assert {one.name: one.healthy for one in supervisor.parts.desired.backends if one} == {"a": True, "b": False}
        assert ("b" in supervisor.parts.health.judged, supervisor.parts.health.is_up("b")) == (True, False)
        assert "a" not in supervisor.parts.health.judged
        await supervisor.parts.stop()


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3)])
async def test_another_number_of_workers(
    tmp_path: Path, config: Path, backend: socket.socket, before: int, after: int
) -> None:
    """With another number of workers, no unread socket remains in the process or in the manager's store."""
    with managing(tmp_path) as manager:
        _write(config, backend, forwarding={"plane": "asyncio", "workers": before})
        async with _running(config, _managed(manager)) as first:
            await _forwards(first, backend, 20)
        _write(config, backend, forwarding={"plane": "asyncio", "workers": after})
        async with _running(config, _managed(manager)) as second:
            manager.receive()
            assert sum("udp" in name for name in manager.store) == after
            await _forwards(second, backend, 40)


async def test_another_listen_address(tmp_path: Path, config: Path, backend: socket.socket) -> None:
    """With another listen address, the old sockets are closed and leave the store, and the new ones are stored."""
    with managing(tmp_path) as manager:
        async with _running(config, _managed(manager)):
            pass
        _write(config, backend, listen=["127.0.0.2:0"])
        async with _running(config, _managed(manager)) as second:
            await _forwards(second, backend)
            manager.receive()
            found = {name.rpartition(".")[0] for name in manager.store if "udp" in name}
            assert found == {f"qlb.udp.127.0.0.2.{second.parts.listen[0].port}"}


def _followed_by(*command: str) -> Origin:
    return Origin(command=command)


FAILURES: Sequence[tuple[str, str]] = (
    ("import sys; print('Ouch', file=sys.stderr); sys.exit(3)", "has ended with exit code 3: Ouch"),
    ("import os; os.kill(os.getpid(), 9)", "has ended by signal 9"),
    (STUB + "one.report_failure('no\\nport')", "cannot take over: no port"),
    (STUB + "asyncio.run(asyncio.sleep(60))", "has not answered within 1 s"),
    (STUB + "one._send('ready'); asyncio.run(one._receive())", "has ended"),
    (STUB + "asyncio.run(one.wait_for_go()); asyncio.run(asyncio.sleep(60))", "has not answered within 0.5 s"),
)


@pytest.mark.parametrize(("program", "why"), FAILURES)
async def test_a_new_process_that_fails(
    monkeypatch: pytest.MonkeyPatch, config: Path, backend: socket.socket, program: str, why: str
) -> None:
    """If the new process fails, it is ended and the reason returned. The old process and its control socket stay."""
    if "within 1 s" in why:  # the other programs may take the time that they need
        monkeypatch.setattr(module, "_NEXT_START_S", 1.0)
    monkeypatch.setattr(module, "_NEXT_FORWARDS_S", 0.5)
    async with _running(config, _followed_by(sys.executable, "-c", program)) as supervisor:
        descriptors = len(list(Path("/dev/fd").iterdir()))
        outcome = await supervisor.upgrade()
        assert (outcome.ok, outcome.pid) == (False, os.getpid())
        assert why in outcome.problems[0]
        assert supervisor.parts.is_ready()
        await _forwards(supervisor, backend)
        async with asyncio.timeout(90):
            reader, writer = await asyncio.open_unix_connection(config.with_name("qlb.sock"))
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 200")
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(90):  # the other end of that connection is closed a turn of the loop later
            while len(list(Path("/dev/fd").iterdir())) > descriptors:
                await asyncio.sleep(0.01)
        assert (await supervisor.reload()).ok


async def test_a_command_that_does_not_exist(config: Path) -> None:
    """If the command does not exist, the upgrade is refused."""
    async with _running(config, _followed_by("/nowhere/qlb")) as supervisor:
        outcome = await supervisor.upgrade()
        assert "No such file" in outcome.problems[0]


async def test_one_at_a_time(config: Path) -> None:
    """During an upgrade, a second upgrade and a reload are refused: the new process reads the configuration itself."""
    async with _running(config, _followed_by(sys.executable, "-c", STUB + "asyncio.run(one._receive())")) as supervisor:
        first = asyncio.create_task(supervisor.upgrade())
        await asyncio.sleep(0)
        assert (await supervisor.upgrade()).problems == ("another upgrade is under way",)
        assert "an upgrade is under way" in (await supervisor.reload()).problems[0]
        supervisor.end()  # the end of this process also ends the new one
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_a_caller_that_disconnects(config: Path) -> None:
    """If the caller disconnects, the upgrade continues, and a second one is still refused."""
    async with _running(config, _followed_by(sys.executable, "-c", STUB + "asyncio.run(one._receive())")) as supervisor:
        first = asyncio.create_task(supervisor.upgrade())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        assert supervisor.parts.upgrade.is_under_way
        assert (await supervisor.upgrade()).problems == ("another upgrade is under way",)
        assert "an upgrade is under way" in (await supervisor.reload()).problems[0]


@pytest.mark.parametrize(
    ("pid", "command", "why"),
    [(1, ("true",), "process 1 of a container"), (2, (), "the demo servers end with this process")],
)
async def test_processes_that_cannot_be_upgraded(
    monkeypatch: pytest.MonkeyPatch, config: Path, pid: int, command: Sequence[str], why: str
) -> None:
    """An upgrade is refused for process 1 of a container, for one with demo servers, and for one that is ending."""
    async with _running(config, _followed_by(*command)) as supervisor:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: pid)
            (problem,) = (await supervisor.upgrade()).problems
        assert why in problem
        supervisor.end()
        assert (await supervisor.upgrade()).problems == ("this process is starting or ending",)


def test_an_upgrade_that_changes_source_ports_warns() -> None:
    """A warning about new source ports appears in modes with sessions, if there are sessions."""
    (warning,) = module.upgrade_warnings("proxy", 12)
    assert warning.startswith("12 sessions get new source ports")
    assert "docs/upgrading.md" in warning
    assert module.upgrade_warnings("proxy-protocol", 1)
    assert module.upgrade_warnings("proxy", 0) == module.upgrade_warnings("ipip", 12) == ()


async def test_a_worker_that_hangs_does_not_delay_an_upgrade(config: Path) -> None:
    """A worker that hangs cannot confirm its pause. Since it does not read, the upgrade continues after a second."""
    program = STUB + "asyncio.run(one.wait_for_go()); one._send('forwards all'); asyncio.run(one._receive())"
    async with _running(config, _followed_by(sys.executable, "-c", program)) as supervisor:
        assert supervisor.parts.engine is not None
        process = supervisor.parts.engine.slots[0].process
        assert process is not None
        with standing_still(process.pid):
            async with asyncio.timeout(60):
                assert (await supervisor.upgrade()).ok
