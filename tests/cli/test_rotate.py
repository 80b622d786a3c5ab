"""Tests of `qlb rotate` with a fake daemon: its requests, its edits and its exit codes."""

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from qlb.cli import cli
from qlb.config.load import load


class FakeDaemon:
    """A control socket that answers with a status and records the requests it receives."""

    def __init__(self, folder: Path) -> None:
        """Start to serve. No packet has carried an unconfigured config ID."""
        self.socket = folder / "qlb.sock"
        self.path = folder / "qlb.yaml"
        self.unconfigured: list[dict[str, Any]] = []
        self.configs: list[dict[str, Any]] = []
        self.requests: list[str] = []
        daemon = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({"uptime_s": 1e6, "cid_configs": daemon.configs, "unconfigured_cids": daemon.unconfigured})

            def do_POST(self) -> None:
                daemon.requests.append(self.path)
                self._answer({"ok": True, "generation": 2})

            def address_string(self) -> str:
                return ""

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
                pass

            def _answer(self, document: object) -> None:
                body = json.dumps(document).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = socketserver.ThreadingUnixStreamServer(str(self.socket), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def write(self, states: str = "active") -> None:
        """Write a configuration whose CID configs 1, 2, … have these states."""
        listed = states.split()
        configs = ", ".join(
            f"{{config_id: {n}, server_id_length: 4, nonce_length: 8, key: {n:032x}, state: {state}}}"
            for n, state in enumerate(listed, start=1)
        )
        ids = ", ".join(f'{n}: "0a0a0a0a"' for n in range(1, len(listed) + 1))
        self.path.write_text(
            f'listen: ["127.0.0.1:4433"]\ncid_configs: [{configs}]\n'
            f'backends: [{{name: a, address: "127.0.0.1:5001", server_ids: {{{ids}}}}}]\n'
            f"admin: {{socket: {self.socket}}}\n"
        )
        self.path.chmod(0o600)

    def rotate(self, *arguments: str) -> Result:
        """Run the command on the configuration."""
        return CliRunner().invoke(cli, ["rotate", str(self.path), *arguments])

    @property
    def states(self) -> dict[int, str]:
        """Config ID → state, as in the file."""
        return {one.config_id: one.state for one in load(self.path).config.cid_configs}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[FakeDaemon]:
    """A daemon with one active CID config."""
    found = FakeDaemon(tmp_path)
    found.write()
    yield found
    found.close()


def carried(config_id: int, *, sustained: bool) -> dict[str, Any]:
    """Return the part of /status about packets under a config ID that is not configured."""
    return {
        "config_id": config_id,
        "packets": 9,
        "last_seen_s": 0.1,
        "sustained": sustained,
        "configured_before": False,
    }


def test_stray_packets_are_a_note(daemon: FakeDaemon) -> None:
    """Stray packets under the new config ID give a note; the rotation starts with an ordinary reload."""
    daemon.unconfigured = [carried(n, sustained=False) for n in range(7)]
    result = daemon.rotate()
    assert (result.exit_code, daemon.states, daemon.requests) == (0, {1: "active", 2: "staged"}, ["/reload"])
    assert "9 packets carried config ID 2 before it was configured" in result.output


def test_sustained_packets_need_force(daemon: FakeDaemon) -> None:
    """Sustained packets under the new config ID block the rotation; --force uses the ID and forces the reload."""
    daemon.unconfigured = [carried(n, sustained=True) for n in range(7)]
    refused = daemon.rotate("--new-config-id", "5")
    assert refused.exit_code != 0
    assert "packets keep coming with config ID 5" in str(refused.exception)
    assert (daemon.states, daemon.requests) == ({1: "active"}, [])
    result = daemon.rotate("--new-config-id", "5", "--force")
    assert (result.exit_code, daemon.states, daemon.requests) == (0, {1: "active", 5: "staged"}, ["/reload/force"])


def test_a_retiring_config_in_use_is_removed_by_force(daemon: FakeDaemon) -> None:
    """Without --force, a retiring CID config that packets still carry stays in the file."""
    daemon.write("retiring active")
    daemon.configs = [
        {"config_id": n, "state": state, "fingerprint": "", "packets": 5, "last_seen_s": 0.1}
        for n, state in ((1, "retiring"), (2, "active"))
    ]
    refused = daemon.rotate()
    assert "--force removes it all the same" in str(refused.exception)
    assert daemon.states == {1: "retiring", 2: "active"}
    result = daemon.rotate("--force")
    assert (result.exit_code, daemon.states, daemon.requests) == (0, {2: "active"}, ["/reload/force"])


def test_force_does_one_step(daemon: FakeDaemon) -> None:
    """--force refuses to do all steps at once, because that would lose every connection."""
    result = daemon.rotate("--force", "--wait")
    assert (result.exit_code, daemon.states) == (2, {1: "active"})
    assert "--force does one step" in result.output
