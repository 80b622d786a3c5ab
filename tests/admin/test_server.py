"""Starting and stopping the listeners."""

import asyncio
import os
import socket
import stat
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import uvloop

from qlb.addresses import Endpoint
from qlb.admin import AdminServer
from qlb.errors import QlbError
from tests.admin.conftest import PATIENCE_S, FakeDaemon, Stage


def new_server() -> AdminServer:
    """Return a server that does not listen yet."""
    daemon = FakeDaemon()
    return AdminServer(daemon.read, daemon.is_ready, daemon)


async def test_port_zero_is_a_real_port(stage: Stage) -> None:
    """With port 0, the server reports the port that the system chose."""
    assert stage.address.host == "127.0.0.1"
    assert stage.address.port > 0


async def test_ipv6(tmp_path: Path) -> None:
    """An IPv6 address is reported in the notation of the configuration."""
    server = new_server()
    await server.start(("::1", 0), None)
    try:
        assert str(server.address).startswith("[::1]:")
        stage = Stage(server, FakeDaemon(), tmp_path)
        assert (await stage.ask("GET", "/healthz")).status == 200
        await stage.close()
    finally:
        await server.stop()


async def test_names_are_not_checked_beyond_loopback(tmp_path: Path) -> None:
    """Beyond loopback, any Host name is accepted, because only the users know a service's names."""
    server = new_server()
    await server.start(("0.0.0.0", 0), None)
    stage = Stage(server, FakeDaemon(), tmp_path)
    peer = await stage.tcp()
    peer.send(b"GET /healthz HTTP/1.1\r\nHost: qlb.service.example\r\n\r\n")
    assert (await peer.answer()).status == 200
    await stage.close()
    await server.stop()


async def test_a_port_in_use(tmp_path: Path) -> None:
    """The error names the key and the address. No listener and no file remain."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = new_server()
        with pytest.raises(QlbError, match=rf"127\.0\.0\.1:{port} \(admin\.listen\): .*in use"):
            await server.start(("127.0.0.1", port), tmp_path / "qlb.sock")
    assert server.address is None
    assert list(tmp_path.iterdir()) == []


async def test_a_control_socket_in_use(stage: Stage) -> None:
    """The second daemon does not start and frees its TCP port. The first daemon continues."""
    second = new_server()
    with pytest.raises(QlbError, match=r"a daemon already answers at .*"):
        await second.start(("127.0.0.1", 0), stage.socket)
    assert second.address is None
    assert (await stage.ask("GET", "/healthz", control=True)).status == 200


async def test_a_control_socket_that_is_not_needed(
    stage: Stage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A second daemon that needs no control socket starts without one, and logs the reason."""
    second = new_server()
    await second.open(("127.0.0.1", 0), stage.socket, needs_socket=False)
    assert (second.address is None, second.control_path) == (False, None)
    (record,) = (one for one in caplog.records if one.msg == "no control socket")
    assert vars(record)["reason"].startswith("a daemon already answers at ")
    await second.stop()
    await second.open(None, tmp_path / "other.sock", needs_socket=False)
    assert second.control_path == tmp_path / "other.sock"
    await second.stop()
    assert second.control_path is None


async def test_requests_for_the_daemon_of_one_file(tmp_path: Path) -> None:
    """A request for the daemon of another configuration is rejected; the path may be a link and have any characters."""
    configuration = tmp_path / "edge ü\udc80.yaml"
    (tmp_path / "link.yaml").symlink_to(configuration)
    daemon = FakeDaemon()
    server = AdminServer(daemon.read, daemon.is_ready, daemon, configuration=tmp_path / "link.yaml")
    await server.start(None, tmp_path / "qlb.sock")
    stage = Stage(server, daemon, tmp_path / "qlb.sock")
    for path, status in ((os.path.realpath(configuration), 200), (str(tmp_path / "other.yaml"), 421)):
        peer = await stage.unix()
        header = f"Qlb-Configuration: {quote(os.fsencode(path))}"
        peer.send(f"GET /healthz HTTP/1.1\r\nHost: x\r\n{header}\r\n\r\n".encode())
        answer = await peer.answer()
        assert answer.status == status
        assert (status == 200) or answer.body.startswith(b"the daemon here runs ")
    await stage.close()
    await server.stop()


async def test_only_the_control_socket(tmp_path: Path) -> None:
    """With `admin.listen: none`, the server does not listen on TCP."""
    server = new_server()
    await server.start(None, tmp_path / "qlb.sock")
    assert server.address is None
    stage = Stage(server, FakeDaemon(), tmp_path / "qlb.sock")
    assert (await stage.ask("GET", "/healthz", control=True)).status == 200
    await stage.close()
    await server.stop()


async def test_stop_ends_everything(stage: Stage) -> None:
    """stop() closes connections and listeners and removes the file. A second stop() does nothing."""
    address, peer, control = stage.address, await stage.tcp(), await stage.unix()
    peer.send(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await peer.answer()).status == 200
    await stage.server.stop()
    assert await peer.rest() == b""
    assert await control.rest() == b""
    assert not stage.socket.exists()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
    await stage.server.stop()


async def test_stop_waits_for_a_running_command(stage: Stage) -> None:
    """stop() waits for a command that is running, and its response is sent."""
    called, finish = asyncio.Event(), asyncio.Event()

    async def slow(_name: str) -> None:
        called.set()
        await finish.wait()

    stage.daemon.drain = slow  # type: ignore[method-assign, assignment]
    peer = await stage.unix()
    peer.send(b"POST /drain/a HTTP/1.1\r\nHost: x\r\n\r\n")
    await called.wait()
    stopping = asyncio.create_task(stage.server.stop())
    await asyncio.sleep(0)
    finish.set()
    assert (await peer.answer()).status == 200
    await asyncio.wait_for(stopping, PATIENCE_S)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_on_both_loops(loop: Any, tmp_path: Path) -> None:
    """On asyncio's loop and on uvloop, the files, modes and responses are the same."""
    path = tmp_path / "run" / "qlb.sock"

    async def main() -> None:
        server = new_server()
        stage = Stage(server, FakeDaemon(), path)
        for _ in range(2):
            await server.start(Endpoint("127.0.0.1", 0), path)
            assert stat.S_IMODE(path.lstat().st_mode) == 0o600
            assert (await stage.ask("GET", "/status")).status == 200
            assert (await stage.ask("POST", "/reload", control=True)).status == 200
            await server.stop()
            assert not path.exists()
        await stage.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
