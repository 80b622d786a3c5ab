"""qlb itself: the daemon with one worker, on the plane whose name it is given."""

import json
import socket
import sys
from typing import Any

from benchmarks.connection_ids import server_id
from benchmarks.forwarders.base import Place
from benchmarks.points import PIECES, SHAPES, Point


class Qlb:
    """``qlb run`` on one plane. Every backend has a server ID under every shape of connection ID."""

    def __init__(self, plane: str, *, pieces: bool = False) -> None:
        """Name a plane, one of this release or not. pieces: whether backends get many datagrams in one piece."""
        self.name = PIECES if pieces else f"qlb {plane}"
        self._forwarding = {"plane": plane, "gso_to_backends": str(pieces).lower()}

    def command(self, place: Place, point: Point) -> list[str]:  # noqa: ARG002
        """Write qlb.yaml, which JSON is too."""
        path = place.folder / "qlb.yaml"
        path.touch(mode=0o600)
        path.write_text(json.dumps(self._configuration(place)))
        return [sys.executable, "-m", "qlb", "run", str(path)]

    def pids(self, pid: int, place: Place) -> list[int]:  # noqa: ARG002
        """The worker; the supervisor moves no packet."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(place.folder / "qlb.sock"))
            sock.sendall(b"GET /status HTTP/1.0\r\nHost: qlb\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
        return [worker["pid"] for worker in json.loads(answer.partition(b"\r\n\r\n")[2])["workers"]]

    def _configuration(self, place: Place) -> dict[str, Any]:
        return {
            "listen": [f"127.0.0.1:{place.port}"],
            "cid_configs": [
                {
                    "config_id": params.config_id,
                    "server_id_length": params.server_id_length,
                    "nonce_length": params.nonce_length,
                    **({"key": params.key.hex()} if params.key else {}),
                }
                for params in SHAPES.values()
            ],
            "backends": [
                {
                    "name": f"b{number}",
                    "address": f"127.0.0.1:{port}",
                    "server_ids": {str(params.config_id): server_id(number).hex() for params in SHAPES.values()},
                }
                for number, port in enumerate(place.backends)
            ],
            "health": {"probe": "none"},
            "forwarding": self._forwarding,
            "admin": {"listen": "none", "socket": "qlb.sock"},
            "logging": {"level": "error"},
        }
