"""Network between page and balancer: a NAT that changes its clients' addresses when the page requests it."""

import asyncio
from typing import Final

from lab.nat import NatPort, loopback_hosts

PERIOD_S: Final = 1.0


class Network:
    """A port of the NAT, and the control of its address changes."""

    def __init__(self, port: NatPort) -> None:
        """port: the NAT port that the page calls."""
        self._port = port
        self._hosts = loopback_hosts()
        self._changing: asyncio.Task[None] | None = None

    def change(self) -> None:
        """Change the source address and port of every client now."""
        self._port.rebind(host=next(self._hosts))

    def keep_changing(self, on: bool) -> None:
        """Start or stop to change addresses each second."""
        if self._changing is not None:
            self._changing.cancel()
        self._changing = asyncio.create_task(self._port.rebind_every(PERIOD_S)) if on else None

    def state(self) -> dict[str, object]:
        """Return the address that the balancer sees, the number of changes, and whether it changes each second."""
        newest = self._port.newest
        outside = "{}:{}".format(*newest.outside) if newest else None
        return {"outside": outside, "changes": self._port.changes, "each_second": self._changing is not None}
