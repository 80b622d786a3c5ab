"""Other processes on the service's addresses: they are found, named, and refused or reported."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from qlb.addresses import Endpoint
from qlb.dataplane.sockets import bound_endpoint, open_connected, open_listener
from qlb.errors import QlbError
from qlb.handover import processes as strangers
from qlb.handover.processes import AddressWatch, Stranger, check_addresses, find_strangers, holder_of

ANY = Endpoint("127.0.0.1", 0)
OTHER_DAEMON = """
import sys
from qlb.dataplane.sockets import open_listener
from qlb.routing.backends import Endpoint
sock = open_listener(Endpoint(sys.argv[1], int(sys.argv[2])))
print(sock.getsockname()[1], flush=True)
sys.stdin.read()
"""

needs_socket_lists = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists sockets in /proc/net")


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for other processes to end."""
    monkeypatch.setattr(strangers, "_PATIENCE_S", 0.0)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close the resources of a test at its end."""
    with ExitStack() as stack:
        yield stack


def _other_daemon(stack: ExitStack, host: str = "127.0.0.1", port: int = 0) -> tuple[int, int]:
    """Start a process that opens a socket on an address. Return its process ID and its port."""
    process = stack.enter_context(
        subprocess.Popen(
            [sys.executable, "-c", OTHER_DAEMON, host, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    assert process.stdout is not None
    return process.pid, int(process.stdout.readline())


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


async def test_free_addresses() -> None:
    """Free addresses, port 0 and an address of another machine raise no error."""
    with open_listener(ANY) as sock:
        free = bound_endpoint(sock)
    await check_addresses([ANY, free, Endpoint("192.0.2.1", 4433)], (), shared=False)


@needs_socket_lists
async def test_another_daemon_is_refused_and_named(stack: ExitStack) -> None:
    """The error contains the other process's ID and command, and the setting that allows sharing."""
    pid, port = _other_daemon(stack)
    with pytest.raises(
        QlbError, match=rf"^127\.0\.0\.1:{port} is in use by process {pid} \(.*open_listener.*\), and "
    ) as found:
        await check_addresses([Endpoint("127.0.0.1", port)], (), shared=False)
    assert "forwarding.shared_listen: true" in str(found.value)
    assert "\n" not in str(found.value)


@needs_socket_lists
@pytest.mark.parametrize(("theirs", "ours"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("::", "::1")])
async def test_wildcards_overlap(stack: ExitStack, theirs: str, ours: str) -> None:
    """A wildcard address conflicts with a specific one, because the two sockets would share packets."""
    _, port = _other_daemon(stack, theirs)
    with pytest.raises(QlbError, match="is in use by process"):
        await check_addresses([Endpoint(ours, port)], (), shared=False)


@needs_socket_lists
async def test_a_dual_stack_socket(stack: ExitStack) -> None:
    """A dual-stack IPv6 socket is listed only in the IPv6 table. It is still found to block an IPv4 address."""
    sock = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    endpoint = Endpoint("127.0.0.1", sock.getsockname()[1])
    with pytest.raises(QlbError, match=f"process {os.getpid()} "):
        await check_addresses([endpoint], (), shared=False)


async def test_a_system_that_lists_no_sockets(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the system does not list sockets, the error says only that another process uses the address."""
    sock = stack.enter_context(open_listener(ANY))
    monkeypatch.setattr(strangers, "find_strangers", lambda *_: [])
    with pytest.raises(QlbError, match="is in use by another process"):
        await check_addresses([bound_endpoint(sock)], (), shared=False)


async def test_intended_sharing_is_logged(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    """With forwarding.shared_listen the daemon starts, and the log names the other process."""
    sock = stack.enter_context(open_listener(ANY))
    await check_addresses([bound_endpoint(sock)], (), shared=True)
    assert "(forwarding.shared_listen)" in caplog.text


@needs_socket_lists
async def test_own_sockets_are_no_strangers(stack: ExitStack) -> None:
    """Sockets that this process has inherited are not reported, even beside a socket of another process."""
    sock = stack.enter_context(open_listener(ANY))
    endpoint = bound_endpoint(sock)
    await check_addresses([endpoint], {_inode(sock)}, shared=False)
    pid, _ = _other_daemon(stack, *endpoint)
    with pytest.raises(QlbError, match=f"process {pid} "):
        await check_addresses([endpoint], {_inode(sock)}, shared=False)


@needs_socket_lists
async def test_an_address_that_is_not_here_yet(stack: ExitStack) -> None:
    """Another process's socket on an address that this machine does not have yet is found too (IP_FREEBIND)."""
    absent = Endpoint("192.0.2.1", 0)
    sock = stack.enter_context(open_listener(absent))
    with pytest.raises(QlbError, match=f"process {os.getpid()} "):
        await check_addresses([bound_endpoint(sock)], (), shared=False)
    await check_addresses([bound_endpoint(sock)], {_inode(sock)}, shared=False)


@needs_socket_lists
async def test_connected_sockets_are_no_strangers(stack: ExitStack) -> None:
    """A session's socket with the same port is ignored, because it receives from its backend only."""
    session = stack.enter_context(open_connected(Endpoint("127.0.0.1", 9)))
    assert find_strangers(bound_endpoint(session), ()) == []


async def test_a_process_that_is_about_to_end_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check waits for a process that is about to end, such as a worker of a killed daemon."""
    monkeypatch.setattr(strangers, "_PATIENCE_S", 60.0)
    sock = open_listener(ANY)
    asyncio.get_running_loop().call_soon(sock.close)
    await check_addresses([bound_endpoint(sock)], (), shared=False)


@needs_socket_lists
async def test_a_later_process_is_logged_once(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    """A process that opens the address later is logged once, and is counted as long as its socket exists."""
    sock = stack.enter_context(open_listener(ANY))
    endpoint = bound_endpoint(sock)
    watch = AddressWatch()
    await watch.look([endpoint], {_inode(sock)})
    assert watch.counts == {endpoint: 0}
    with ExitStack() as visit:
        pid, _ = _other_daemon(visit, *endpoint)
        await watch.look([endpoint], {_inode(sock)})
        await watch.look([endpoint], {_inode(sock)})
        assert watch.counts == {endpoint: 1}
        assert caplog.text.count(f"is in use by process {pid} ") == 1
    await watch.look([endpoint], {_inode(sock)})
    assert watch.counts == {endpoint: 0}


def test_processes_that_cannot_be_read(tmp_path: Path) -> None:
    """Without access to the process, its user is named. Without /proc, not even that. Commands are made printable."""
    assert holder_of(5, 33, tmp_path) == "a process of user 33"
    assert holder_of(0, None, tmp_path / "nowhere") == "another process"
    (tmp_path / "7" / "fd").mkdir(parents=True)
    (tmp_path / "7" / "fd" / "3").symlink_to("socket:[5]")
    assert holder_of(5, 33, tmp_path) == "process 7 (its command is not known)"
    (tmp_path / "7" / "cmdline").write_bytes(b"evil\n\x1b[31m\0" + b"x" * 1000)
    assert holder_of(5, 33, tmp_path) == f"process 7 (evil??[31m {'x' * 109}…)"


def test_invalid_socket_tables(tmp_path: Path) -> None:
    """Lines of the socket table that are too short or not numeric are ignored."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "udp").write_text("head\n\n1: x\n1: 0100007F:1151 00000000:0000 07 0:0 0:0 0 33 0 77\n")
    expected = [Stranger("127.0.0.1", 77, 33)] if sys.byteorder == "little" else []
    assert find_strangers(Endpoint("127.0.0.1", 4433), (), tmp_path) == expected
    assert find_strangers(Endpoint("127.0.0.1", 4433), {77}, tmp_path) == []
    assert find_strangers(Endpoint("::1", 4433), (), tmp_path) == []
