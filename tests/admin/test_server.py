"""Starting and stopping the listeners."""

import asyncio
import socket
import stat
from pathlib import Path
from typing import Any

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
