"""The first steps of a new user, as they are printed: qlb init, the minimal server, and qlb demo beside a daemon."""

import asyncio
import re
import socket
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import pytest
import yaml

from lab.ports import free_port
from lab.programs import LIMIT_S, run, started, until
from qlb.config.load import load
from qlb.config.server_config import server_config_yaml

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("usual_ports")]

ROOT: Final = Path(__file__).parents[2]


def servers_that_answered(output: str) -> list[str]:
    """Return the names in the output of `qlb demo get`, one for each answer."""
    return re.findall(r"^200 from (\S+), to port \d+$", output, re.MULTILINE)


async def test_every_printed_command_works(tmp_path: Path) -> None:
    """All commands that `qlb init` prints can be pasted at once. One server answers from four client addresses."""
    code, printed, errors = await run("qlb", "init", "edge", folder=tmp_path)
    assert (code, errors) == (0, "")
    commands = "\n".join(re.findall(r"^  (.+)$", printed, re.MULTILINE))
    assert commands.count("&\n") == 3
    code, out, errors = await run("bash", "-ec", f"{commands}\nwait", folder=tmp_path)
    assert code == 0, errors
    answers = servers_that_answered(out)
    assert (len(answers), len(set(answers))) == (4, 1), out + errors
    assert answers[0] in ("agent-a", "agent-b")
    assert "edge.yaml: good; 2 backends" in out
    assert "cid_config_1" in out, "packets were routed by the IDs of the servers"
    assert "Traceback" not in errors


async def test_the_minimal_server_follows_a_rotation(tmp_path: Path) -> None:
    """The server of `qlb init` issues from a new key when its file changes, without a restart."""
    assert (await run("qlb", "init", ".", folder=tmp_path))[0] == 0
    path, file = tmp_path / "edge.yaml", tmp_path / "agent-a.yaml"
    document = yaml.safe_load(path.read_text())
    document["backends"] = document["backends"][:1]
    document["admin"]["listen"] = "none"
    port = document["backends"][0]["address"].rpartition(":")[2]
    url = f"https://{document['listen'][0]}/"

    def save() -> None:
        path.write_text(yaml.safe_dump(document))
        file.write_text(server_config_yaml(load(path).config, "agent-a"))

    save()
    async with (
        started(sys.executable, "server.py", file.name, port, folder=tmp_path) as server,
        started("qlb", "run", path.name, folder=tmp_path) as daemon,
    ):
        await until(daemon.stderr, " ready ")
        assert servers_that_answered((await run("qlb", "demo", "get", url, folder=tmp_path))[1]) == ["agent-a"]
        assert (await run("qlb", "keygen", "keys/2.hex", folder=tmp_path))[0] == 0
        old = document["cid_configs"][0]
        document["cid_configs"] = [{**old, "state": "retiring"}, {**old, "config_id": 2, "key_file": "keys/2.hex"}]
        document["backends"][0]["server_ids"] = {1: "c0ffee01", 2: "c0ffee01"}
        save()
        code, _, errors = await run("qlb", "reload", "--config", path.name, folder=tmp_path)
        assert code == 0, errors
        await until(server.stderr, "config 2 (")
        code, out, errors = await run("qlb", "demo", "get", url, "--rebind", 3, folder=tmp_path)
        assert servers_that_answered(out) == ["agent-a"] * 4, out + errors
        code, out, errors = await run("qlb", "status", "--config", path.name, "--json", folder=tmp_path)
        rows = {row["config_id"]: row for row in yaml.safe_load(out)["cid_configs"]}
        assert rows[2]["packets"] > 0
        assert rows[2]["state"] == "active"


async def test_the_example_without_arguments(tmp_path: Path) -> None:
    """A file that does not exist is an error that names it."""
    example = ROOT / "examples/minimal_server.py"
    code, _, errors = await run(sys.executable, example, "agent-a.yaml", free_port(), folder=tmp_path)
    assert code == 1
    assert errors.splitlines()[-1].endswith("agent-a.yaml: cannot be read: No such file or directory")


async def test_the_demo_beside_a_daemon(tmp_path: Path) -> None:
    """`qlb demo` needs none of the ports of its configuration, so it works while `make run` runs."""
    path = ROOT / "configs/quickstart.yaml"
    config = load(path).config
    with ExitStack() as stack:
        for address in (*config.listen, *(backend.address for backend in config.backends)):
            _take(stack, address.host, address.port)
        code, out, errors = await run("qlb", "demo", path, "--connections", 3, "--rebinds", 1, folder=tmp_path)
    assert code == 0, errors
    assert out.splitlines()[-1].split() == ["total", "3", "9", "3", "3", "0"]


def _take(stack: ExitStack, host: str, port: int) -> None:
    """Bind a UDP port until the end of the stack. If another program has it, that is as good."""
    sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with suppress(OSError):
        sock.bind((host, port))


async def test_what_a_demo_daemon_prints(tmp_path: Path) -> None:
    """The commands that `qlb run --demo-backends` prints work when they are pasted into another shell."""
    text = (ROOT / "configs/quickstart.yaml").read_text()
    for port in ("4433", "5001", "5002", "5003", "9464"):
        text = text.replace(f":{port}", f":{free_port()}")
    (tmp_path / "demo.yaml").write_text(text.replace("../.qlb/quickstart.sock", "demo.sock"))
    async with started("qlb", "run", "demo.yaml", "--demo-backends", folder=tmp_path) as daemon:
        assert daemon.stdout is not None
        lines = []
        async with asyncio.timeout(LIMIT_S):
            while "Ctrl-C ends" not in (line := (await daemon.stdout.readline()).decode()):
                assert line, "the daemon has ended"
                lines.append(line)
        commands = [line.strip() for line in lines if line.startswith("  ") and "curl" not in line]
        assert len(commands) == 4
        for command in commands:
            code, out, errors = await run("bash", "-ec", command, folder=tmp_path)
            assert code == 0, (command, out, errors)
