"""The demo backends: the CID config that they issue from, and their process."""

import asyncio
import signal
import socket
import sys
from pathlib import Path

import pytest

from qlb.addresses import Endpoint
from qlb.cid import CidCodec, CidParams
from qlb.config.load import load_text
from qlb.config.model import Config
from qlb.demo.backends import Rotations, id_source, main, served_here, serving
from qlb.demo.client import connect, get
from qlb.demo.http3 import Certificate
from qlb.errors import BackendError, ConfigError
from qlb.routing.backends import Backend

OLD = CidParams(config_id=5, server_id_length=3, nonce_length=9, key=bytes(16))
NEW = CidParams(config_id=2, server_id_length=3, nonce_length=9, key=bytes(range(16)))
ANYWHERE = Endpoint("127.0.0.1", 0)
TIMEOUT_S = 90.0


def test_the_last_listed_configuration_is_issued_from() -> None:
    """A backend issues from the last CID config in which it has server IDs, with the first of them."""
    both = id_source(Backend("both", ANYWHERE, {5: (b"old",), 2: (b"new", b"alt")}), [OLD, NEW])
    assert both is not None
    assert (both.params, both.server_id) == (NEW, b"new")
    only_old = id_source(Backend("only old", ANYWHERE, {5: (b"old",)}), [OLD, NEW])
    assert only_old is not None
    assert only_old.params == OLD
    assert id_source(Backend("neither", ANYWHERE), [OLD, NEW]) is None


async def test_with_and_without_server_ids(certificate: Certificate) -> None:
    """A backend with server IDs issues routable IDs. One without is a plain aioquic server with 8 random octets."""
    wanted = [Backend("routable", ANYWHERE, {2: (b"new",)}), Backend("plain", ANYWHERE)]
    async with serving(wanted, [OLD, NEW], certificate) as running:
        assert [backend.name for backend in running] == ["routable", "plain"]
        ids = {}
        for backend in running:
            async with connect("127.0.0.1", backend.endpoint.port, timeout_s=TIMEOUT_S) as client:
                assert (await client.get("/")).backend == backend.name
                ids[backend.name] = client.server_connection_id
    assert CidCodec(NEW).decode(ids["routable"]) == b"new"
    assert len(ids["plain"]) == 8


async def test_an_address_that_is_taken(certificate: Certificate, taken: socket.socket) -> None:
    """If an address is taken, the error names the backend, and the backends that had started are closed."""
    port = taken.getsockname()[1]
    with pytest.raises(BackendError, match=f"cannot serve second on 127.0.0.1:{port}: "):
        async with serving(
            [Backend("first", ANYWHERE), Backend("second", Endpoint("127.0.0.1", port))], [], certificate
        ):
            pytest.fail("bound")


@pytest.mark.parametrize(
    "end", ["stdin", *(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGTERM", "SIGINT"))]
)
async def test_the_process(end: str, config_file: Path, taken: socket.socket) -> None:
    """It writes ready when it can be reached. At the end of stdin or on a signal it ends with 0, without output."""
    port = taken.getsockname()[1]
    taken.close()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qlb.demo.backends", str(config_file)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            assert await process.stdout.readline() == b"ready\n"
            assert (await get("127.0.0.1", port, timeout_s=TIMEOUT_S)).backend == "agent-a"
            if end == "stdin":
                process.stdin.close()
            else:
                process.send_signal(signal.Signals[end])
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
        rest = await process.communicate()
    assert rest == (b"", b"")


def test_a_wrong_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong configuration gives exit code 2, and the problems are on stderr."""
    path = tmp_path / "bad.yaml"
    path.write_text("listen: []\n")
    assert main([str(path)]) == 2
    assert f"{path}:1:" in capsys.readouterr().err


def test_the_wrong_number_of_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong number of arguments gives exit code 2 and the usage."""
    for arguments in ([], ["a", "b", "c"]):
        assert main(arguments) == 2
        assert capsys.readouterr().err == "usage: python -m qlb.demo.backends CONFIG [NAME]\n"


@pytest.mark.parametrize(
    ("forwarding", "name", "served"),
    [
        ("{}", None, ["a 10.0.0.2:1", "b 10.0.0.3:2"]),
        ("{}", "b", ["b 10.0.0.3:2"]),
        ("{mode: gue, interfaces: [eth0]}", "b", ["b 10.0.0.3:2", "b 192.0.2.1:4433", "b [2001:db8::1]:4433"]),
    ],
)
def test_the_backends_of_one_host(forwarding: str, name: str | None, served: list[str]) -> None:
    """One host serves all backends or the named one, and in direct return also the addresses of the service."""
    assert [f"{b.name} {b.endpoint}" for b in served_here(config_of(forwarding), name)] == served


@pytest.mark.parametrize(
    ("forwarding", "name", "text"),
    [("{}", "c", "no backend c"), ("{mode: l2, interfaces: [eth0]}", None, "has its own host")],
)
def test_a_wrong_backend_name(forwarding: str, name: str | None, text: str) -> None:
    """An unknown name is an error, and so is a missing name in direct return."""
    with pytest.raises(ConfigError, match=text):
        served_here(config_of(forwarding), name)


def config_of(forwarding: str) -> Config:
    """Return a configuration with two backends and two service addresses."""
    backends = "[{name: a, address: '10.0.0.2:1'}, {name: b, address: '10.0.0.3:2'}]"
    listen = "['192.0.2.1:4433', '[2001:db8::1]:4433']"
    return load_text(f"listen: {listen}\nbackends: {backends}\nforwarding: {forwarding}\n", Path("qlb.yaml")).config


def test_a_taken_port_ends_the_process(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If a port is taken, the exit code is 1, the error names the backend, and ready is never written."""
    assert main([str(config_file)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("demo backends: cannot serve agent-a on 127.0.0.1:")


ROTATED = """\
listen: ["127.0.0.1:0"]
cid_configs:
  - {{config_id: 5, server_id_length: 3, nonce_length: 9, key: "{old}", state: {state}}}
  - {{config_id: 2, server_id_length: 3, nonce_length: {nonce}, key_file: new.hex, state: {new_state}}}
backends:
  - {{name: both, address: "127.0.0.1:5001", server_ids: {{5: "010203", 2: "040506"}}}}
  - {{name: later, address: "127.0.0.1:5002"}}
"""


def write_phase(path: Path, state: str, new_state: str, nonce: int = 9) -> None:
    """Write the configuration of one phase of a rotation."""
    path.write_text(ROTATED.format(old="00" * 16, state=state, new_state=new_state, nonce=nonce))


async def test_a_rotation_is_followed(tmp_path: Path, certificate: Certificate) -> None:
    """Servers issue from a new CID config when it is active, and not before. A fault is reported once."""
    path, reports = tmp_path / "qlb.yaml", list[str]()
    (tmp_path / "new.hex").touch(mode=0o600)
    (tmp_path / "new.hex").write_text(bytes(range(16)).hex())
    wanted = [Backend("both", ANYWHERE, {5: (b"\1\2\3",)}), Backend("plain", ANYWHERE), Backend("gone", ANYWHERE)]
    write_phase(path, "active", "staged")
    async with serving(wanted, [OLD], certificate) as running:
        source = running[0].source
        assert source is not None
        assert running[1].source is None
        rotations = Rotations(path, running, reports.append)

        async def settle() -> None:
            for _ in range(3):
                await rotations.look()

        await settle()
        assert (source.params, reports) == (OLD, [])
        write_phase(path, "retiring", "active")
        await settle()
        assert (source.params, source.server_id) == (NEW, b"\4\5\6")
        assert reports == ["both issues connection IDs of config 2 now"]
        await settle()
        write_phase(path, "nonsense", "active")
        await settle()
        path.write_text(path.read_text() + "# touched\n")
        await settle()
        assert len(reports) == 2
        assert reports[1].startswith("the demo servers keep their connection IDs: ")
        assert "nonsense" in reports[1]
        write_phase(path, "retiring", "active", nonce=10)
        await settle()
        assert reports[2:] == ["both cannot change to another cid_length: restart the demo servers"]
        assert source.params == NEW
        write_phase(path, "retiring", "active")
        await settle()
        (tmp_path / "new.hex").write_text("ab" * 16)
        await settle()
        assert source.params.key == b"\xab" * 16
        path.unlink()
        await settle()
        assert "cannot be read" in reports[-1]


async def test_the_process_follows_a_rotation(config_file: Path, taken: socket.socket) -> None:
    """The process itself looks at its configuration, and prints the change to stderr."""
    taken.close()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qlb.demo.backends", str(config_file)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            assert await process.stdout.readline() == b"ready\n"
            text = config_file.read_text()
            config_file.write_text(text.replace("nonce_length: 9", f"nonce_length: 9, key: {'ff' * 16}"))
            assert await process.stderr.readline() == b"agent-a issues connection IDs of config 1 now\n"
    finally:
        process.kill()
        await process.communicate()
