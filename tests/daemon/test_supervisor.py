"""The supervisor in this process: start, change and end in any order, and its readings in between."""

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lab.stopped import standing_still
from qlb import default_socket
from qlb.admin import Incomplete
from qlb.config.load import load
from qlb.config.model import Config
from qlb.daemon import reload_requests
from qlb.daemon.files import FilesRead
from qlb.daemon.supervisor import State, Supervisor
from qlb.dataplane.limits import Limits

CONFIG = {
    "listen": ["127.0.0.1:0", "[::1]:0"],
    "backends": [{"name": "a", "address": "127.0.0.1:9"}],
    "health": {"probe": "none"},
    "admin": {"listen": "127.0.0.1:0"},
}


def _supervisor(folder: Path, **changes: object) -> Supervisor:
    path = folder / "qlb.yaml"
    path.write_text(json.dumps(CONFIG | changes))
    return Supervisor(path, load(path))


@asynccontextmanager
async def _running(supervisor: Supervisor) -> AsyncIterator[None]:
    """Run a supervisor until the end of the block. Its exit code must be 0."""
    ready = asyncio.Event()
    supervisor._on_ready = lambda _: ready.set()
    running = asyncio.create_task(supervisor.run())
    async with asyncio.timeout(90):
        await ready.wait()
        try:
            yield
        finally:
            supervisor.end()
            assert await running == 0


async def test_ready_while_it_runs(tmp_path: Path) -> None:
    """The daemon is ready only while it runs, workers forward, and a backend has been judged."""
    supervisor = _supervisor(tmp_path)
    assert not supervisor.parts.is_ready()
    async with _running(supervisor):
        async with asyncio.timeout(90):
            while not supervisor.parts.is_ready():
                await asyncio.sleep(0)
        assert [endpoint.host for endpoint in supervisor.parts.listen] == ["127.0.0.1", "::1"]
        assert all(endpoint.port for endpoint in supervisor.parts.listen)
    assert not supervisor.parts.is_ready()


async def test_it_returns_its_configuration(tmp_path: Path) -> None:
    """The configuration is the one in force, not the file's content, with or without the defaults."""
    supervisor = _supervisor(tmp_path)
    (tmp_path / "qlb.yaml").write_text("not in force")
    answer = await supervisor.configuration(with_defaults=False)
    assert answer == {"generation": 1, "config": CONFIG}
    every = (await supervisor.configuration(with_defaults=True))["config"]
    assert isinstance(every, dict)
    assert every["forwarding"]["workers"] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts the drops of a socket")
async def test_kernel_drops_are_summed_over_workers(tmp_path: Path) -> None:
    """A listener's drops are the sum over all workers' sockets, and count for their own service address only."""
    supervisor = _supervisor(tmp_path, forwarding={"workers": 2, "plane": "asyncio"})
    async with _running(supervisor):
        assert supervisor.parts.engine is not None
        slots = supervisor.parts.engine.slots
        with standing_still(*(slot.process.pid for slot in slots if slot.process)):
            for slot in slots:
                slot.listeners[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            for _ in range(100):  # each client is another flow, so that both sockets get packets
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                    for _ in range(10):
                        client.sendto(bytes(100), supervisor.parts.listen[0])
            dropped = [slot.drops[0].read() or 0 for slot in slots]
            assert min(dropped) > 0
            assert [row.kernel_dropped for row in supervisor.parts.read().listeners] == [sum(dropped), 0]
    assert [row.kernel_dropped for row in supervisor.parts.read().listeners] == [sum(dropped), 0]


async def test_receive_buffers_have_the_configured_size(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The reading contains the size that the system grants. If that is enough, no warning is logged."""
    supervisor = _supervisor(tmp_path, forwarding={"receive_buffer": "64KiB"})
    async with _running(supervisor):
        assert [row.receive_buffer_bytes for row in supervisor.parts.read().listeners] == [64 << 10] * 2
    assert "receive_buffer" not in caplog.text


@pytest.mark.slow
async def test_a_smaller_receive_buffer_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the system grants less, one warning covers all sockets of all workers."""
    monkeypatch.setattr("qlb.workers.slots.granted_receive_buffer", lambda _: 4096)
    async with _running(_supervisor(tmp_path, forwarding={"workers": 2})):
        pass
    assert caplog.text.count("forwarding.receive_buffer is 4,194,304 octets, but the system grants 4,096") == 1
    assert " to 4194304" in caplog.text, "the warning lacks the plain number for sysctl"


@pytest.mark.slow
async def test_limits_are_logged_once_and_again_when_they_change(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Low limits are logged at the start, and again only after a reload that changes the configured number."""
    monkeypatch.setattr("qlb.daemon.preflight.read_limits", lambda: Limits(1064, 1500))
    supervisor = _supervisor(tmp_path, forwarding={"workers": 2, "max_sessions": 2000})

    def warned(*texts: str) -> list[int]:
        lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        return [sum(text in line for line in lines) for text in texts]

    async with _running(supervisor):
        assert warned("1,000 sessions at most", "1,500 local ports") == [1, 1]
        assert supervisor.parts.read().totals["sessions_max"] == 2 * 675, "not what the ports of both workers allow"
        assert (await supervisor.reload()).ok
        assert warned("1,000 sessions at most", "1,500 local ports") == [1, 1]
        path = tmp_path / "qlb.yaml"
        path.write_text(path.read_text().replace("2000", "900"))
        assert (await supervisor.reload()).ok
        assert warned("is 2,000", "is 900") == [2, 1]
        assert supervisor.parts.read().totals["sessions_max"] == 2 * 675


@pytest.mark.parametrize(
    ("limits", "sessions"),
    [(Limits(1_048_576, 28_232), 25_408), (Limits(20_000, 28_232), 19_936), (Limits(None, None), 65_536)],
)
async def test_auto_sessions_are_what_the_system_grants(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    limits: Limits,
    sessions: int,
) -> None:
    """By default the system's limits decide, and the log has no line about them."""
    monkeypatch.setattr("qlb.daemon.preflight.read_limits", lambda: limits)
    caplog.set_level(logging.INFO)
    supervisor = _supervisor(tmp_path)
    async with _running(supervisor):
        assert supervisor.parts.read().totals["sessions_max"] == sessions
    assert not [line for record in caplog.records if "max_sessions" in (line := record.getMessage())]


async def test_a_signal_before_the_start(tmp_path: Path) -> None:
    """A signal that arrives before the start ends the daemon."""
    supervisor = _supervisor(tmp_path)
    supervisor.end()
    async with asyncio.timeout(90):
        assert await supervisor.run() == 0


async def test_changes_during_the_start_wait_for_it(tmp_path: Path) -> None:
    """A reload and a drain during the start are executed, and nothing blocks."""
    supervisor = _supervisor(tmp_path)
    ready = asyncio.Event()
    supervisor._on_ready = lambda _: ready.set()
    running = asyncio.create_task(supervisor.run())
    await asyncio.sleep(0)  # run() has begun
    async with asyncio.timeout(90):
        outcome, _ = await asyncio.gather(supervisor.reload(), supervisor.drain("a"))
        assert outcome.ok
        assert outcome.generation == supervisor.parts.read().generation == 1
        assert supervisor.parts.read().backends[0].state == "draining"
        await ready.wait()
        supervisor.end()
        assert await running == 0


async def test_shutdown_delay_is_unready_and_cut_short_by_a_second_signal(tmp_path: Path) -> None:
    """During the shutdown delay the daemon is unready and still forwards. A second signal ends the delay."""
    supervisor = _supervisor(tmp_path, shutdown_delay="1h")
    async with _running(supervisor):
        supervisor.end()
        assert not supervisor.parts.is_ready()
        assert supervisor.parts.read().workers[0].alive


@pytest.mark.parametrize("changes", [{"listen": ["192.0.2.1:4433"]}, {"admin": {"listen": "192.0.2.1:1"}}])
async def test_an_address_of_another_machine(tmp_path: Path, changes: dict, capfd: pytest.CaptureFixture[str]) -> None:
    """With freebind off, an address of another machine ends the start with code 1 and one line that names it."""
    async with asyncio.timeout(90):
        assert await _supervisor(tmp_path, forwarding={"freebind": False}, **changes).run() == 1
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "192.0.2.1" in lines[0]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds addresses in advance")
@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("listen", {"listen": ["192.0.2.1:0"], "forwarding": {"workers": 2}}),
        ("admin.listen", {"admin": {"listen": "192.0.2.1:0"}}),
    ],
)
async def test_an_address_that_may_come_later(
    tmp_path: Path, key: str, changes: dict, caplog: pytest.LogCaptureFixture
) -> None:
    """With freebind on, the daemon starts and one warning names the address and its key, because it may be a typo."""
    async with _running(_supervisor(tmp_path, **changes)):
        pass
    warned = [line.getMessage() for line in caplog.records if "is not an address of this machine now" in line.message]
    assert len(warned) == 1
    assert warned[0].startswith(f"{key}: 192.0.2.1:")


async def test_a_refused_reload_is_reported(tmp_path: Path) -> None:
    """After a refused reload the old configuration stays in force. The reading shows the failure until one succeeds."""
    supervisor = _supervisor(tmp_path)
    async with _running(supervisor):
        path = tmp_path / "qlb.yaml"
        good = path.read_text()
        path.write_text(good.replace("127.0.0.1:9", "nowhere"))
        outcome = await supervisor.reload()
        assert not outcome.ok
        assert any("nowhere" in problem for problem in outcome.problems)
        assert (supervisor.parts.read().last_reload_ok, supervisor.parts.read().generation) == (False, 1)
        path.write_text(good)
        assert (await supervisor.reload()).ok
        assert (supervisor.parts.read().last_reload_ok, supervisor.parts.read().generation) == (True, 1)


async def test_a_change_that_a_worker_has_not_applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that a worker has not applied is reported as incomplete, by answer and reading, until it is applied."""
    monkeypatch.setattr("qlb.workers.heartbeat.INTERVAL_S", 3600)
    monkeypatch.setattr("qlb.workers.pool._APPLY_TIMEOUT_S", 0.1)
    monkeypatch.setattr("qlb.daemon.periodic.INTERVAL_S", 0.05)
    supervisor = _supervisor(tmp_path, forwarding={"plane": "asyncio"})
    async with _running(supervisor), asyncio.timeout(60):
        assert supervisor.parts.engine is not None
        while supervisor.parts.engine.behind:
            await asyncio.sleep(0.01)
        (slot,) = supervisor.parts.engine.slots
        assert slot.process is not None
        with standing_still(slot.process.pid):
            path = tmp_path / "qlb.yaml"
            path.write_text(path.read_text().replace("127.0.0.1:9", "127.0.0.1:10"))
            outcome = await supervisor.reload()
            assert (outcome.ok, outcome.incomplete, outcome.generation) == (False, True, 2)
            assert "worker 0" in outcome.problems[0]
            with pytest.raises(Incomplete, match="backend a is draining, but not everywhere: worker 0"):
                await supervisor.drain("a")
            reading = supervisor.parts.read()
            assert (reading.last_reload_ok, reading.generation, reading.workers[0].up_to_date) == (False, 1, False)
        while not supervisor.parts.read().last_reload_ok:
            await asyncio.sleep(0.01)
        reading = supervisor.parts.read()
        assert (reading.generation, reading.workers[0].up_to_date, reading.backends[0].state) == (2, True, "draining")


async def test_a_worker_without_a_stamp_makes_it_unready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker without a recent stamp makes the daemon unready, although its process is alive."""
    supervisor = _supervisor(tmp_path)
    async with _running(supervisor), asyncio.timeout(60):
        while not supervisor.parts.is_ready():
            await asyncio.sleep(0.01)
        monkeypatch.setattr("qlb.workers.slots._FRESH_MS", 0)
        assert not supervisor.parts.is_ready()
        assert supervisor.parts.read().workers[0].alive


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists sockets in /proc/net")
@pytest.mark.parametrize("used", ["listen", "admin"])
async def test_a_second_daemon_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], used: str
) -> None:
    """A second daemon on the same service or admin address exits with code 1 and names the first one."""
    monkeypatch.setattr("qlb.handover.processes._PATIENCE_S", 0.0)
    first = _supervisor(tmp_path)
    async with _running(first), asyncio.timeout(60):
        assert first.parts.admin.address is not None
        address = first.parts.listen[0] if used == "listen" else first.parts.admin.address
        (tmp_path / "second").mkdir()
        changes = {"listen": [str(address)]} if used == "listen" else {"admin": {"listen": str(address)}}
        assert await _supervisor(tmp_path / "second", **changes).run() == 1
        (line,) = [line for line in capfd.readouterr().err.splitlines() if "cannot start" in line]
        assert str(address) in line
        assert f"process {os.getpid()} (" in line


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists sockets in /proc/net")
async def test_daemons_that_share_an_address_on_purpose(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With shared_listen, the second daemon starts, and a warning names the first one."""
    first = _supervisor(tmp_path)
    async with _running(first):
        (tmp_path / "second").mkdir()
        changes = {"listen": [str(first.parts.listen[0])], "forwarding": {"shared_listen": True}}
        async with _running(_supervisor(tmp_path / "second", **changes)):
            assert f"is shared with process {os.getpid()} (" in caplog.text


async def test_drains_and_verdicts_during_a_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """During a slow reload a drain is executed. Neither the drain nor a health verdict is lost."""
    gate, read_aside = asyncio.Event(), reload_requests.read_aside

    async def slow(path: Path, running: Config) -> FilesRead:
        result = await read_aside(path, running)
        await gate.wait()
        return result

    monkeypatch.setattr(reload_requests, "read_aside", slow)
    backends = [{"name": name, "address": f"127.0.0.1:{port}"} for port, name in enumerate("abc", 9)]
    supervisor = _supervisor(tmp_path, backends=backends)
    async with _running(supervisor):
        path = tmp_path / "qlb.yaml"
        path.write_text(path.read_text().replace('"c"', '"d"'))
        reloading = asyncio.create_task(supervisor.reload())
        await supervisor.drain("a")
        supervisor.parts.changes.note_verdict("b", False, "no answer")
        assert not reloading.done()
        assert supervisor.parts.desired.current.orders.snapshot.backends[0].state == "draining"  # type: ignore[union-attr]
        gate.set()
        assert (await reloading).changes == ("- backend c", "+ backend d")
        found = {one.name: (one.state, one.healthy) for one in supervisor.parts.desired.backends if one}
        assert found == {"a": ("draining", True), "b": ("active", False), "d": ("active", True)}
        await supervisor.undrain("a")
        assert supervisor.parts.desired.is_compiled
        assert supervisor.parts.desired.current.orders.snapshot.backends == tuple(supervisor.parts.desired.backends)


async def test_a_reload_without_changes_compiles_nothing(tmp_path: Path) -> None:
    """A reload without changes retains the workers' snapshot and the generation."""
    supervisor = _supervisor(tmp_path)
    async with _running(supervisor):
        before = supervisor.parts.desired.current
        outcome = await supervisor.reload()
        assert (outcome.ok, outcome.unchanged, outcome.generation) == (True, True, 1)
        assert supervisor.parts.desired.current is before


async def test_a_pipe_in_the_place_of_the_configuration(tmp_path: Path) -> None:
    """If the configuration is a named pipe, a reload is refused at once instead of blocking."""
    supervisor = _supervisor(tmp_path)
    async with _running(supervisor):
        path = tmp_path / "qlb.yaml"
        path.unlink()
        os.mkfifo(path)
        outcome = await supervisor.reload()
        assert "not a regular file" in outcome.problems[0]


def test_transitions_are_enforced(tmp_path: Path) -> None:
    """A daemon changes its state only as the supervisor's docstring shows. A drain cannot be taken back."""
    supervisor = _supervisor(tmp_path, shutdown_delay="1h")
    supervisor._enter(State.SERVING)
    assert (supervisor.is_serving, supervisor.is_ending) == (True, False)
    supervisor.handover_begins()
    assert (supervisor.is_serving, supervisor.is_ending) == (False, False)
    supervisor.handover_ends(is_replaced=False)
    assert supervisor.is_serving
    supervisor._enter(State.DRAINING)
    assert supervisor.is_ending
    for state in (State.STARTING, State.SERVING, State.HANDING_OVER, State.STOPPED):
        with pytest.raises(RuntimeError, match=f"cannot go from DRAINING to {state.name}"):
            supervisor._enter(state)
    supervisor.handover_ends(is_replaced=True)
    assert supervisor.state is State.STOPPING


async def test_the_states_of_a_life(tmp_path: Path) -> None:
    """A daemon starts, serves, drains for its delay, and stops."""
    supervisor = _supervisor(tmp_path, shutdown_delay="1h")
    assert supervisor.state is State.STARTING
    async with _running(supervisor):
        assert supervisor.state is State.SERVING
        supervisor.end()
        assert supervisor.state is State.DRAINING
    assert supervisor.state is State.STOPPED


@pytest.mark.slow
async def test_two_daemons_without_a_control_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first one has the default control socket. The second one says so and runs; `none` turns the socket off."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    folders = [tmp_path / name for name in "abc"]
    for folder in folders:
        folder.mkdir()
    first, second = (_supervisor(folder) for folder in folders[:2])
    third = _supervisor(folders[2], admin={"listen": "127.0.0.1:0", "socket": "none"})
    async with _running(first), _running(second), _running(third):
        assert first.parts.admin.control_path == tmp_path / "qlb.sock"
        assert second.parts.admin.control_path is None
        assert third.parts.admin.control_path is None
        reader, writer = await asyncio.open_unix_connection(tmp_path / "qlb.sock")
        writer.write(b"POST /reload HTTP/1.0\r\n\r\n")
        assert b" 200 " in await reader.readline()
        writer.close()
    assert not (tmp_path / "qlb.sock").exists()
    assert 'no control socket reason="a daemon already answers at' in capfd.readouterr().err


async def test_a_daemon_that_can_write_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A daemon that can create no default control socket runs without, and the log names the key."""
    monkeypatch.setattr(default_socket, "choose", lambda _: None)
    supervisor = _supervisor(tmp_path)
    async with _running(supervisor):
        assert supervisor.parts.admin.control_path is None
    text = 'no control socket reason="neither /run/qlb nor $XDG_RUNTIME_DIR can be written; set admin.socket"'
    assert text in capfd.readouterr().err
