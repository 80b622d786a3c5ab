"""Other processes on the service's addresses: told from own sockets, named, refused or warned of."""

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
from qlb.dataplane.sockets import bound_endpoint, open_listener, open_upstream
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

only_where_it_is_told = pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists sockets in /proc/net")


@pytest.fixture(autouse=True)
def _no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody here is about to end."""
    monkeypatch.setattr(strangers, "_PATIENCE_S", 0.0)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """Close what a test opens."""
    with ExitStack() as stack:
        yield stack


def _other_daemon(stack: ExitStack, host: str = "127.0.0.1", port: int = 0) -> tuple[int, int]:
    """Start a process that has a socket on an address; return its process ID and its port."""
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
    """Nobody is there; port 0 and an address of another machine are nobody's either."""
    with open_listener(ANY) as sock:
        free = bound_endpoint(sock)
    await check_addresses([ANY, free, Endpoint("192.0.2.1", 4433)], (), shared=False)


@only_where_it_is_told
async def test_another_daemon_is_refused_and_named(stack: ExitStack) -> None:
    """Its process ID and its command stand in the error, and the setting that allows it."""
    pid, port = _other_daemon(stack)
    with pytest.raises(
        QlbError, match=rf"^127\.0\.0\.1:{port} is in use by process {pid} \(.*open_listener.*\), and "
    ) as found:
        await check_addresses([Endpoint("127.0.0.1", port)], (), shared=False)
    assert "forwarding.shared_listen: true" in str(found.value)
    assert "\n" not in str(found.value)


@only_where_it_is_told
@pytest.mark.parametrize(("theirs", "ours"), [("0.0.0.0", "127.0.0.1"), ("127.0.0.1", "0.0.0.0"), ("::", "::1")])
async def test_wildcards_overlap(stack: ExitStack, theirs: str, ours: str) -> None:
    """A socket on every address takes packets of this one, or this one takes some of its."""
    _, port = _other_daemon(stack, theirs)
    with pytest.raises(QlbError, match="is in use by process"):
        await check_addresses([Endpoint(ours, port)], (), shared=False)


@only_where_it_is_told
async def test_ipv6_that_takes_ipv4_too(stack: ExitStack) -> None:
    """It stands in the other table; the kernel says that it is in the way."""
    sock = stack.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_DGRAM))
    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(("::", 0))
    endpoint = Endpoint("127.0.0.1", sock.getsockname()[1])
    with pytest.raises(QlbError, match=f"process {os.getpid()} "):
        await check_addresses([endpoint], (), shared=False)


async def test_where_the_system_tells_nothing(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address is not free, and that is all there is to say."""
    sock = stack.enter_context(open_listener(ANY))
    monkeypatch.setattr(strangers, "find_strangers", lambda *_: [])
    with pytest.raises(QlbError, match="is in use by another process"):
        await check_addresses([bound_endpoint(sock)], (), shared=False)


async def test_sharing_on_purpose_is_warned_of(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    """The setting lets it start; the log says with whom."""
    sock = stack.enter_context(open_listener(ANY))
    await check_addresses([bound_endpoint(sock)], (), shared=True)
    assert "(forwarding.shared_listen)" in caplog.text


@only_where_it_is_told
async def test_own_sockets_are_no_strangers(stack: ExitStack) -> None:
    """Those that were passed: from the process before, or from a service manager; also beside a stranger's."""
    sock = stack.enter_context(open_listener(ANY))
    endpoint = bound_endpoint(sock)
    await check_addresses([endpoint], {_inode(sock)}, shared=False)
    pid, _ = _other_daemon(stack, *endpoint)
    with pytest.raises(QlbError, match=f"process {pid} "):
        await check_addresses([endpoint], {_inode(sock)}, shared=False)


@only_where_it_is_told
async def test_an_address_that_is_not_here_yet(stack: ExitStack) -> None:
    """Another process waits for it, too (IP_FREEBIND)."""
    absent = Endpoint("192.0.2.1", 0)
    sock = stack.enter_context(open_listener(absent))
    with pytest.raises(QlbError, match=f"process {os.getpid()} "):
        await check_addresses([bound_endpoint(sock)], (), shared=False)
    await check_addresses([bound_endpoint(sock)], {_inode(sock)}, shared=False)


@only_where_it_is_told
async def test_connected_sockets_are_no_strangers(stack: ExitStack) -> None:
    """A session's socket may have the same port by chance: it receives from its backend alone."""
    session = stack.enter_context(open_upstream(Endpoint("127.0.0.1", 9)))
    assert find_strangers(bound_endpoint(session), ()) == []


async def test_who_is_about_to_end_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of a daemon that was killed have the address for a moment."""
    monkeypatch.setattr(strangers, "_PATIENCE_S", 60.0)
    sock = open_listener(ANY)
    asyncio.get_running_loop().call_soon(sock.close)
    await check_addresses([bound_endpoint(sock)], (), shared=False)


@only_where_it_is_told
async def test_who_comes_later_is_warned_of_once(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    """And counted as long as it is there."""
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


def test_what_cannot_be_seen(tmp_path: Path) -> None:
    """Another user's process: its user is all that is known; no /proc: not even that."""
    assert holder_of(5, 33, tmp_path) == "a process of user 33"
    assert holder_of(0, None, tmp_path / "nowhere") == "another process"
    (tmp_path / "7" / "fd").mkdir(parents=True)
    (tmp_path / "7" / "fd" / "3").symlink_to("socket:[5]")
    assert holder_of(5, 33, tmp_path) == "process 7 (its command is not known)"
    (tmp_path / "7" / "cmdline").write_bytes(b"evil\n\x1b[31m\0" + b"x" * 1000)
    assert holder_of(5, 33, tmp_path) == f"process 7 (evil??[31m {'x' * 109}…)"


def test_tables_that_are_none(tmp_path: Path) -> None:
    """Lines that are too short or no numbers are passed over."""
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "udp").write_text("head\n\n1: x\n1: 0100007F:1151 00000000:0000 07 0:0 0:0 0 33 0 77\n")
    expected = [Stranger("127.0.0.1", 77, 33)] if sys.byteorder == "little" else []
    assert find_strangers(Endpoint("127.0.0.1", 4433), (), tmp_path) == expected
    assert find_strangers(Endpoint("127.0.0.1", 4433), {77}, tmp_path) == []
    assert find_strangers(Endpoint("::1", 4433), (), tmp_path) == []
