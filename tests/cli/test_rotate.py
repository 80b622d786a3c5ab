"""`qlb rotate` beside an imitated daemon: its requests, its changes of files, and its exit codes."""

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lab.command_line import TEXT, Run
from qlb.cli import cli, rotate
from qlb.config.load import load


class FakeDaemon:
    """A control socket that returns a status and records the commands that it receives."""

    def __init__(self, folder: Path) -> None:
        """Listen. No packet carries any config ID."""
        self.socket = folder / "qlb.sock"
        self.path = folder / "qlb.yaml"
        self.unconfigured: list[dict[str, Any]] = []
        self.configs: list[dict[str, Any]] = []
        self.received: list[str] = []
        daemon = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({"uptime_s": 1e6, "cid_configs": daemon.configs, "unconfigured_cids": daemon.unconfigured})

            def do_POST(self) -> None:
                daemon.received.append(self.path)
                self._answer({"ok": True, "generation": 2})

            def address_string(self) -> str:
                return ""

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
                pass

            def _answer(self, answer: object) -> None:
                body = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingUnixStreamServer(str(self.socket), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def write(self, states: str = "active", *, key: str = "key", socket: bool = True) -> None:
        """Write a configuration whose CID configs 1, 2, … have these states. key: the name of the key, in YAML."""
        listed = states.split()
        configs = ", ".join(
            f"{{config_id: {n}, server_id_length: 4, nonce_length: 8, {key}: {n:032x}, state: {state}}}"
            for n, state in enumerate(listed, start=1)
        )
        ids = ", ".join(f'{n}: "0a0a0a0a"' for n in range(1, len(listed) + 1))
        self.path.write_text(
            f'listen: ["127.0.0.1:4433"]\ncid_configs: [{configs}]\n'
            f'backends: [{{name: a, address: "127.0.0.1:5001", server_ids: {{{ids}}}}}]\n'
            + (f"admin: {{socket: {self.socket}}}\n" if socket else "")
        )
        self.path.chmod(0o600)

    def see(self, *configs: tuple[int, str], packets: int = 5, last_seen_s: float = 0.1) -> None:
        """Return these CID configs, each as (config ID, state), in the status."""
        self.configs = [
            {"config_id": n, "state": state, "fingerprint": "", "packets": packets, "last_seen_s": last_seen_s}
            for n, state in configs
        ]

    def rotate(self, verb: str, *arguments: str, answer: str | None = None) -> Result:
        """Run a subcommand. answer: what the operator types."""
        return CliRunner().invoke(cli, ["rotate", verb, str(self.path), *arguments], input=answer)

    @property
    def states(self) -> dict[int, str]:
        """Return the states in the file by config ID."""
        return {one.config_id: one.state for one in load(self.path).config.cid_configs}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    """Run a daemon with one active CID config."""
    found = FakeDaemon(tmp_path)
    found.write()
    yield found
    found.close()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the commands believe that an operator can answer."""
    monkeypatch.setattr(rotate, "_is_terminal", lambda: True)


def carried(config_id: int, *, sustained: bool) -> dict[str, Any]:
    """Return the row of /status for packets with a config ID that is not configured."""
    return {
        "config_id": config_id,
        "packets": 9,
        "last_seen_s": 0.1,
        "sustained": sustained,
        "configured_before": False,
    }


def test_stray_packets_are_a_note(daemon: FakeDaemon) -> None:
    """Stray packets cause a note. The step is done, and the reload is not forced."""
    daemon.unconfigured = [carried(n, sustained=False) for n in range(7)]
    result = daemon.rotate("next", "--yes")
    assert (result.exit_code, daemon.states, daemon.received) == (0, {1: "active", 2: "staged"}, ["/reload"])
    assert "9 packets carried config ID 2 before it was configured" in result.output


def test_sustained_packets_need_force(daemon: FakeDaemon) -> None:
    """Sustained packets with the chosen config ID refuse the step. --force does it, and forces the reload."""
    daemon.unconfigured = [carried(n, sustained=True) for n in range(7)]
    refused = daemon.rotate("next", "--yes", "--new-config-id", "5")
    assert refused.exit_code == 1
    assert "packets keep coming with config ID 5" in str(refused.exception)
    assert (daemon.states, daemon.received) == ({1: "active"}, [])
    result = daemon.rotate("next", "--yes", "--new-config-id", "5", "--force")
    assert (result.exit_code, daemon.states, daemon.received) == (0, {1: "active", 5: "staged"}, ["/reload/force"])


def test_a_retiring_config_that_packets_still_carry_needs_force(daemon: FakeDaemon) -> None:
    """A retiring CID config that packets still carry is removed only with --force."""
    daemon.write("retiring active")
    daemon.see((1, "retiring"), (2, "active"))
    refused = daemon.rotate("next", "--yes")
    assert "--force removes it anyway" in str(refused.exception)
    assert daemon.states == {1: "retiring", 2: "active"}
    result = daemon.rotate("next", "--yes", "--force")
    assert (result.exit_code, daemon.states, daemon.received) == (0, {2: "active"}, ["/reload/force"])


def test_run_has_no_force(daemon: FakeDaemon) -> None:
    """`run` does not accept --force: to force all steps would break every connection."""
    result = daemon.rotate("run", "--yes", "--force")
    assert (result.exit_code, daemon.states) == (2, {1: "active"})
    assert "--force" in result.output


@pytest.mark.parametrize("words", [("--wait",), ("--abort", "--wait"), ("--new-config-id", "5")])
def test_abort_never_goes_forward(daemon: FakeDaemon, words: tuple[str, ...]) -> None:
    """An option of another subcommand makes `abort` fail. It never does the next step instead."""
    daemon.write("active staged")
    result = daemon.rotate("abort", "--yes", *words)
    assert (result.exit_code, daemon.states, daemon.received) == (2, {1: "active", 2: "staged"}, [])


@pytest.mark.parametrize("words", [(), ("--abort", "--wait"), ("--status",), ("--wait",), ("--yes",)])
def test_rotate_needs_a_subcommand(daemon: FakeDaemon, words: tuple[str, ...]) -> None:
    """Without a subcommand, nothing is done, with any options."""
    result = CliRunner().invoke(cli, ["rotate", str(daemon.path), *words])
    assert (result.exit_code, daemon.states, daemon.received) == (2, {1: "active"}, [])
    assert "use qlb rotate status|next|abort|run CONFIG" in result.output


def test_abort_undoes(daemon: FakeDaemon) -> None:
    """`abort` removes a staged CID config, and reactivates a retiring one."""
    before = daemon.path.read_text()
    assert daemon.rotate("next", "--yes").exit_code == 0
    assert daemon.states == {1: "active", 2: "staged"}
    assert daemon.rotate("abort", "--yes").exit_code == 0
    assert daemon.path.read_text() == before
    daemon.write("retiring active")
    assert daemon.rotate("abort", "--yes").exit_code == 0
    assert daemon.states == {1: "active", 2: "retiring"}


def test_abort_without_a_rotation(daemon: FakeDaemon) -> None:
    """`abort` without a rotation is an error."""
    result = daemon.rotate("abort", "--yes")
    assert (result.exit_code, daemon.states) == (1, {1: "active"})
    assert "no rotation is under way" in str(result.exception)


def test_run_does_all_steps(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """`run` waits before each step until it is safe, reads CONFIG again then, and ends after the removal."""

    def elapse(_: float) -> None:
        """Let the daemon load the file, and let servers issue from an active CID config."""
        rows = [
            (one["config_id"], one["fingerprint"], one["state"])
            for one in json.loads(daemon.rotate("status", "--json").output)["cid_configs"]
        ]
        daemon.configs = [
            {"config_id": n, "state": state, "fingerprint": fingerprint, "packets": 1, "last_seen_s": 1e6}
            for n, fingerprint, state in rows
        ]

    monkeypatch.setattr(rotate.time, "sleep", elapse)
    result = daemon.rotate("run", "--yes")
    assert (result.exit_code, daemon.states) == (0, {2: "active"})
    assert daemon.received == ["/reload"] * 3
    assert "waiting: " in result.output


def test_status(daemon: FakeDaemon) -> None:
    """`status` changes nothing, and shows every CID config on every balancer and why the next step is not safe."""
    assert "no rotation is under way" in daemon.rotate("status").output
    daemon.write("active staged")
    daemon.see((1, "active"))
    output = daemon.rotate("status").output
    assert f"{daemon.socket}: 5 packets, silent for 0.1 s" in output
    assert f"{daemon.socket}: does not decode it" in output
    assert "the next step is not safe yet:\n" in output
    answer = json.loads(daemon.rotate("status", "--json").output)
    assert [row["state"] for row in answer["cid_configs"]] == ["active", "staged"]
    assert answer["cid_configs"][1]["balancers"] == {str(daemon.socket): None}
    assert "does not decode config 2 yet" in answer["not_safe_because"][0]
    assert (daemon.states, daemon.received) == ({1: "active", 2: "staged"}, [])


@pytest.mark.parametrize("verb", ["next", "abort", "run"])
def test_without_a_terminal_nothing_is_edited(daemon: FakeDaemon, verb: str) -> None:
    """If no operator can answer, the command fails with 2, changes nothing, and names --yes and --print."""
    daemon.write("active staged")
    result = daemon.rotate(verb, answer="y\n")
    assert (result.exit_code, daemon.states, daemon.received) == (2, {1: "active", 2: "staged"}, [])
    assert "not a terminal" in result.output
    assert "--yes" in result.output
    assert "--print" in result.output


@pytest.mark.usefixtures("terminal")
def test_the_operator_is_asked(daemon: FakeDaemon) -> None:
    """The diff comes before the question. Only the answer yes edits the file."""
    before = daemon.path.read_text()
    for answer in ("n\n", "\n", ""):
        result = daemon.rotate("next", answer=answer)
        assert (result.exit_code, daemon.path.read_text(), daemon.received) == (1, before, [])
    result = daemon.rotate("next", answer="y\n")
    assert (result.exit_code, daemon.states, daemon.received) == (0, {1: "active", 2: "staged"}, ["/reload"])
    diff, _, rest = result.output.partition("Write these changes to")
    assert diff.startswith(f"--- {daemon.path}\n+++ {daemon.path}\n")
    assert "config 2 with a new key is staged" in rest


def test_a_question_on_a_terminal(daemon: FakeDaemon) -> None:
    """On a real terminal, the command shows the question and waits for the answer."""
    controller, controlled = pty.openpty()
    command = (sys.executable, "-m", "qlb", "rotate", "next", str(daemon.path))
    with subprocess.Popen(command, stdin=controlled, stdout=controlled, stderr=controlled) as process:
        os.close(controlled)
        output = b""
        while b"[y/N]" not in output:
            output += os.read(controller, 4096)
        os.write(controller, b"n\n")
        assert process.wait(60) == 1
    os.close(controller)
    assert (daemon.states, daemon.received) == ({1: "active"}, [])


@pytest.mark.usefixtures("terminal")
def test_a_change_during_the_question(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """If another program changes the file or the safety of the step during the question, the step is not done."""

    def answer_after(change: Any) -> Result:
        def confirm(_: str) -> bool:
            change()
            return True

        monkeypatch.setattr(rotate.click, "confirm", confirm)
        return daemon.rotate("next")

    result = answer_after(lambda: daemon.path.write_text(daemon.path.read_text() + "# a remark\n"))
    assert (result.exit_code, "has changed since it was read" in str(result.exception)) == (1, True)
    result = answer_after(lambda: setattr(daemon, "unconfigured", [carried(2, sustained=True)]))
    assert (result.exit_code, "no longer the one above" in str(result.exception)) == (1, True)
    assert (daemon.states, daemon.received) == ({1: "active"}, [])


@pytest.mark.parametrize("key", ["key", '"key"', "key "])
def test_no_diff_shows_a_key(daemon: FakeDaemon, key: str) -> None:
    """No key is in a diff, in any YAML style."""
    daemon.write(key=key)
    result = daemon.rotate("next", "--diff")
    assert result.exit_code == 0
    assert f"{1:032x}" not in result.output
    assert result.output.count("(not shown)") == 3
    assert daemon.rotate("next", "--yes").exit_code == 0
    for one in load(daemon.path).config.cid_configs:
        assert one.key is not None
        assert one.key.hex() not in result.output


@pytest.mark.parametrize("mode", ["--print", "--diff"])
def test_print_writes_nothing(daemon: FakeDaemon, mode: str, tmp_path: Path) -> None:
    """--print and --diff need no terminal, and no permission to write. They change nothing and reload no daemon."""
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/1.hex").write_text(f"{1:032x}\n")
    (tmp_path / "keys/1.hex").chmod(0o600)
    daemon.write()
    daemon.path.write_text(daemon.path.read_text().replace(f"key: {1:032x}", "key_file: keys/1.hex"))
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.rglob("*")}
    result = daemon.rotate("next", mode)
    assert result.exit_code == 0, result.output
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in tmp_path.rglob("*")} == before
    assert daemon.received == []
    assert 'key_file: "keys/2.hex"' in result.output
    assert f"qlb keygen {tmp_path / 'keys/2.hex'}" in result.stderr
    assert "nothing was written\nplan: config 2 with a new key is staged" in result.stderr
    assert ("+++" in result.stdout) == (mode == "--diff") == ("+++" not in result.stderr)


def test_the_operator_chooses_the_key_file(daemon: FakeDaemon, tmp_path: Path) -> None:
    """--key-file names the file of the new key, and --key-name what CONFIG names."""
    (tmp_path / "secrets").mkdir()
    printed = daemon.rotate("next", "--diff", "--key-file", str(tmp_path / "2.hex"), "--key-name", "keys/2.hex")
    assert 'key_file: "keys/2.hex"' in printed.stdout
    assert daemon.rotate("next", "--yes", "--key-file", str(tmp_path / "secrets/2.hex")).exit_code == 0
    assert (daemon.states, daemon.received) == ({1: "active", 2: "staged"}, ["/reload"])
    assert load(daemon.path).config.cid_configs[1].key_file == tmp_path / "secrets/2.hex"


def test_a_credential_is_not_reloaded(daemon: FakeDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new credential is not reloaded: the output asks for a restart. The next step shows that it has not happened."""
    folder = tmp_path / "run/qlb.service"
    folder.mkdir(parents=True)
    for file in (folder / "keys_1.hex", tmp_path / "keys/1.hex"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"{1:032x}\n")
        file.chmod(0o600)
    monkeypatch.setattr("qlb.config.credentials.FOLDERS", folder.parent)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    daemon.path.write_text(daemon.path.read_text().replace(f"key: {1:032x}", "key_file: credential:keys_1.hex"))
    result = daemon.rotate("next", "--yes")
    assert (result.exit_code, daemon.received) == (0, [])
    assert "  systemctl restart qlb\n" in result.output
    assert (tmp_path / "keys/2.hex").exists()
    status = daemon.rotate("status")
    assert "config 1: active, fingerprint unknown" in status.output
    assert "keys_2.hex' is not among the credentials of qlb.service" in status.output
    undone = daemon.rotate("abort", "--yes")
    assert (undone.exit_code, daemon.states, daemon.received) == (0, {1: "active"}, ["/reload"])


def test_print_is_the_changed_configuration(daemon: FakeDaemon) -> None:
    """The output of --print is a valid configuration: the file that the same step would write."""
    daemon.write("active staged")
    fingerprints = json.loads(daemon.rotate("status", "--json").output)["cid_configs"]
    daemon.see((1, "active"), (2, "staged"))
    for row, one in zip(daemon.configs, fingerprints, strict=True):
        row["fingerprint"] = one["fingerprint"]
    printed = daemon.rotate("next", "--print").stdout
    assert daemon.states == {1: "active", 2: "staged"}
    assert daemon.rotate("next", "--yes").exit_code == 0
    assert daemon.path.read_text() == printed
    assert daemon.states == {1: "retiring", 2: "active"}


def test_print_makes_the_same_checks(daemon: FakeDaemon) -> None:
    """A step that is not safe is not printed either."""
    daemon.write("active staged")
    result = daemon.rotate("next", "--print")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "does not decode config 2 yet" in str(result.exception)


def test_the_socket_of_the_command_line(daemon: FakeDaemon) -> None:
    """--socket replaces admin.socket: that daemon is asked and reloaded. --config replaces the argument."""
    daemon.write(socket=False)
    arguments = ["rotate", "next", "--yes", "--config", str(daemon.path), "--socket", str(daemon.socket)]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    assert (daemon.states, daemon.received) == ({1: "active", 2: "staged"}, ["/reload"])


def test_two_configurations(daemon: FakeDaemon) -> None:
    """CONFIG and --config together are a usage error."""
    result = daemon.rotate("next", "--yes", "--config", "other.yaml")
    assert (result.exit_code, daemon.states) == (2, {1: "active"})


class _Balancer(BaseHTTPRequestHandler):
    """The status of a balancer that has just started and decodes nothing."""

    def do_GET(self) -> None:
        """Send the status."""
        body = json.dumps({"uptime_s": 1.0, "cid_configs": [], "unconfigured_cids": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Write nothing."""


@pytest.fixture
def balancer() -> Iterator[str]:
    """Run a balancer; return its URL."""
    with HTTPServer(("127.0.0.1", 0), _Balancer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"])
def test_balancers_are_asked_without_a_proxy(
    balancer: str, name: str, qlb: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy of the environment is not used, because it does not lead into the operator's network."""
    config.write_text(TEXT)
    for no_proxy in ("no_proxy", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(no_proxy, raising=False)
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    code, out, err = qlb("rotate", "status", config, "--config-id", 1, "--balancer", balancer)
    assert (code, err) == (0, "")
    assert f"{balancer}: does not decode it" in out
