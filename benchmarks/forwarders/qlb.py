"""qlb itself: ``qlb run`` with one worker, on a given plane."""

import json
import sys
from typing import Any

from benchmarks.connection_ids import server_id
from benchmarks.daemon import SOCKET, workers
from benchmarks.forwarders.base import Place
from benchmarks.points import PIECES, SHAPES, Point


class Qlb:
    """``qlb run`` on one plane. Every backend has a server ID for every shape of connection ID."""

    def __init__(self, plane: str, *, pieces: bool = False) -> None:
        """Set the plane, by the name that the installed qlb uses. pieces: switch gso_to_backends on."""
        self.name = PIECES if pieces else f"qlb {plane}"
        self._forwarding = {"plane": plane, "gso_to_backends": str(pieces).lower()}

    def command(self, place: Place, point: Point) -> list[str]:  # noqa: ARG002
        """Write qlb.yaml in JSON, which is YAML too, and return the command."""
        path = place.folder / "qlb.yaml"
        path.touch(mode=0o600)
        path.write_text(json.dumps(self._configuration(place)))
        return [sys.executable, "-m", "qlb", "run", str(path)]

    def pids(self, pid: int, place: Place) -> list[int]:  # noqa: ARG002
        """Return the worker; the supervisor moves no packet."""
        return workers(place.folder)

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
            "admin": {"listen": "none", "socket": SOCKET},
            "logging": {"level": "error"},
        }
