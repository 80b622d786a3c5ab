"""Tests of ``qlb rotate`` with other balancers: how it requests their status."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from qlb.cli import main

TEXT = """
listen: ["127.0.0.1:4433"]
cid_configs:
  - {config_id: 1, server_id_length: 3, nonce_length: 13, key: 000102030405060708090a0b0c0d0e0f}
backends:
  - {name: a, address: "127.0.0.1:5001", server_ids: {1: "0a0a0a"}}
"""


class _Balancer(BaseHTTPRequestHandler):
    """The status of a balancer that has just started and decodes nothing."""

    def do_GET(self) -> None:
        """Answer with the status."""
        body = json.dumps({"uptime_s": 1.0, "cid_configs": [], "unconfigured_cids": []}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Write nothing."""


@pytest.fixture
def balancer() -> Iterator[str]:
    """The URL of a running balancer."""
    with HTTPServer(("127.0.0.1", 0), _Balancer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "https_proxy"])
def test_balancers_are_asked_without_a_proxy(
    balancer: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A proxy in the environment is ignored: it may have no route to the operator's network."""
    path = tmp_path / "qlb.yaml"
    path.write_text(TEXT)
    path.chmod(0o600)
    for no_proxy in ("no_proxy", "NO_PROXY", "REQUEST_METHOD"):
        monkeypatch.delenv(no_proxy, raising=False)
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr("sys.argv", ["qlb", "rotate", str(path), "--status", "--balancer", balancer])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code, err) == (0, "")
    assert f"{balancer}: does not decode it" in out
