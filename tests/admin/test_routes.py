"""Methods, paths and hosts: which requests are refused, and with which status."""

import logging

import pytest

from qlb.admin.routes import is_local_name
from tests.admin.conftest import Stage

PAGES = ["/", "/status", "/metrics", "/healthz", "/readyz"]
COMMANDS = ["/reload", "/upgrade", "/drain/a", "/undrain/a", "/config", "/config/effective"]


@pytest.mark.parametrize("target", [*PAGES, *COMMANDS, "/nothing"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND"])
async def test_tcp_is_read_only(stage: Stage, method: str, target: str) -> None:
    """Over TCP, every method but GET and HEAD is refused, and no command reaches the daemon."""
    answer = await stage.ask(method, target)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert "control socket" in answer.text
    assert stage.daemon.calls == []


@pytest.mark.parametrize("target", COMMANDS)
async def test_commands_do_not_exist_on_tcp(stage: Stage, target: str) -> None:
    """Over TCP, the path of a command is not found."""
    assert (await stage.ask("GET", target)).status == 404


@pytest.mark.parametrize("target", COMMANDS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT"])
async def test_commands_must_be_posted(stage: Stage, method: str, target: str) -> None:
    """A command must be a POST, so that a crawler or a prefetch changes nothing."""
    answer = await stage.ask(method, target, control=True)
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert stage.daemon.calls == []


@pytest.mark.parametrize("target", PAGES)
async def test_pages_are_not_posted_to(stage: Stage, target: str) -> None:
    """On the control socket, a POST to a page gets 405 with the methods that are allowed."""
    answer = await stage.ask("POST", target, control=True)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize(
    "target",
    [
        "/nothing",
        "//",
        "/status/",
        "//status",
        "/STATUS",
        "/status/../status",
        "/..%2f..%2fetc%2fpasswd",
        "/../../etc/passwd",
        "/drain",
        "/drain/a/b",
        "/reload/",
        "/%",
    ],
)
@pytest.mark.parametrize("control", [False, True], ids=["tcp", "unix"])
async def test_unknown_paths(stage: Stage, target: str, control: bool) -> None:
    """An unknown path gets 404. Paths are not files, and similar paths do not match."""
    assert (await stage.ask("GET", target, control=control)).status == 404
    if control:
        assert (await stage.ask("POST", target, control=control)).status == 404
    assert stage.daemon.calls == []


async def test_encoded_paths_are_the_same_paths(stage: Stage) -> None:
    """A percent-encoded path and an absolute target lead to the same page."""
    assert (await stage.ask("GET", "/%73tatus")).status == 200
    assert (await stage.ask("GET", "http://localhost/status")).status == 200


@pytest.mark.parametrize("target", ["/status", "/metrics", "/readyz"])
async def test_a_fault_is_logged_and_not_shown(stage: Stage, target: str, caplog: pytest.LogCaptureFixture) -> None:
    """The client gets 500 without details, the log gets the exception, and the next request works."""
    stage.daemon.error = ZeroDivisionError("secret detail")
    answer = await stage.ask("GET", target)
    assert answer.status == 500
    assert "secret" not in answer.text
    assert [record.name for record in caplog.records] == ["qlb.admin"]
    assert caplog.records[0].exc_info is not None
    stage.daemon.error = None
    assert (await stage.ask("GET", target)).status == 200


async def test_a_command_that_fails_is_a_fault_too(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a command is a 500, even one that could be confused with a missing key."""
    stage.daemon.error = ZeroDivisionError("oh")
    assert (await stage.ask("POST", "/reload", control=True)).status == 500
    assert caplog.records[0].levelno == logging.ERROR


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9464", "localhost.evil.example", "127.0.0.1.evil.example"]
)
async def test_a_foreign_name_for_loopback_is_refused(stage: Stage, host: str) -> None:
    """A web page whose own host name points to loopback gets 421 and no data (DNS rebinding)."""
    peer = await stage.tcp()
    peer.send(f"GET /status HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    answer = await peer.answer()
    assert answer.status == 421
    assert b"backends" not in answer.body


async def test_a_request_without_a_host_is_served(stage: Stage) -> None:
    """A request without a Host header is served, because a simple probe may not send one."""
    peer = await stage.tcp()
    peer.send(b"GET /healthz HTTP/1.0\r\n\r\n")
    assert (await peer.answer()).status == 200
    assert await peer.rest() == b""


async def test_the_control_socket_ignores_the_host(stage: Stage) -> None:
    """The control socket ignores the Host header, because no browser can reach it."""
    peer = await stage.unix()
    peer.send(b"GET /healthz HTTP/1.1\r\nHost: %2Frun%2Fqlb.sock\r\n\r\n")
    assert (await peer.answer()).status == 200


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("localhost", True),
        ("LocalHost:9464", True),
        ("127.0.0.1", True),
        ("127.0.0.1:9464", True),
        ("[::1]:9464", True),
        ("[::1]", True),
        ("192.0.2.1:80", True),
        ("", False),
        (":80", False),
        ("localhost:", False),
        ("localhost:80:80", False),
        ("local", False),
        ("a.localhost.example:1", False),
        ("[::1", False),
        ("[localhost]", False),
        ("127.1", False),
    ],
)
def test_local_names(host: str, local: bool) -> None:
    """Address literals and localhost are local names, because no name server controls them."""
    assert is_local_name(host) is local


@pytest.mark.parametrize("control", [False, True], ids=["tcp", "unix"])
@pytest.mark.parametrize(
    "framing", ["Content-Length: 4097", "Content-Length: 99999999999", "Transfer-Encoding: chunked"]
)
async def test_large_bodies_are_refused(stage: Stage, control: bool, framing: str) -> None:
    """A large or chunked body is refused before it is read, and the connection is closed."""
    peer = await (stage.unix() if control else stage.tcp())
    peer.send(f"POST /reload HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode())
    answer = await peer.answer()
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    assert stage.daemon.calls == []


async def test_small_bodies_are_ignored(stage: Stage) -> None:
    """A small body is ignored, because some clients send an empty object. The connection stays usable."""
    peer = await stage.unix()
    for _ in range(2):
        peer.send(b"POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
        assert (await peer.answer()).status == 200
    assert stage.daemon.calls == ["reload", "reload"]
