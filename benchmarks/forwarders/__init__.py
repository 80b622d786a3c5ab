"""The compared forwarders. Each class provides a command, and the processes that move packets."""

from pathlib import Path

from benchmarks.forwarders.base import Forwarder, Missing, Place, Running, forwarder_running
from benchmarks.forwarders.envoy import Envoy
from benchmarks.forwarders.floor import Floor, Relay
from benchmarks.forwarders.nginx import Nginx
from benchmarks.forwarders.qlb import Qlb
from benchmarks.forwarders.socat import Socat

__all__ = ["Forwarder", "Missing", "Place", "Running", "all_forwarders", "forwarder_running"]


def all_forwarders(folder: Path) -> list[Forwarder]:
    """Return every forwarder, also those that are not installed. folder: for programs to compile."""
    return [Floor(folder), Qlb("batch"), Qlb("batch", pieces=True), Nginx(), Envoy(), Socat(), Qlb("asyncio"), Relay()]
