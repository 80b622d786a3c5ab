"""The forwarders that are compared: each a small class that says how it is started and which processes move packets."""

from pathlib import Path

from benchmarks.forwarders.base import Forwarder, Missing, Place, Running, forwarder_running
from benchmarks.forwarders.envoy import Envoy
from benchmarks.forwarders.floor import Floor, Relay
from benchmarks.forwarders.nginx import Nginx
from benchmarks.forwarders.qlb import Qlb
from benchmarks.forwarders.socat import Socat

__all__ = ["Forwarder", "Missing", "Place", "Running", "all_forwarders", "forwarder_running"]


def all_forwarders(folder: Path) -> list[Forwarder]:
    """Return every forwarder there is, installed or not. folder: for what must be compiled."""
    return [Floor(folder), Qlb("batch"), Qlb("batch", pieces=True), Nginx(), Envoy(), Socat(), Qlb("asyncio"), Relay()]
