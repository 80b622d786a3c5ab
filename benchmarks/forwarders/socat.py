"""socat as the simplest forwarder: one client, one target, one process.

With ``fork`` it would start a process per client, which is not a realistic forwarder for a thousand clients.
"""

import shutil

from benchmarks.forwarders.base import Missing, Place
from benchmarks.points import Point


class Socat:
    """socat, between the first client that sends and the first backend."""

    name = "socat"

    def command(self, place: Place, point: Point) -> list[str]:
        """Return the command. Raises Missing if there is more than one flow."""
        program = shutil.which("socat")
        if program is None:
            raise Missing("socat is not installed")
        if point.flows > 1:
            raise Missing("one flow only")
        listener = f"UDP4-LISTEN:{place.port},bind=127.0.0.1,rcvbuf=4194304"
        return [program, "-T", "120", listener, f"UDP4:127.0.0.1:{place.backends[0]},rcvbuf=4194304"]

    def pids(self, pid: int, place: Place) -> list[int]:  # noqa: ARG002
        """Return the only process."""
        return [pid]
