"""The network between page and balancer: a NAT that gives its clients other addresses when the page asks for it."""

import asyncio
from typing import Final

from lab.nat import NatPort, loopback_hosts

PERIOD_S: Final = 1.0


class Network:
    """A way through the NAT, and who may press its buttons."""

    def __init__(self, port: NatPort) -> None:
        """port: that the page's calls go to."""
        self._port = port
        self._hosts = loopback_hosts()
        self._changing: asyncio.Task[None] | None = None

    def change(self) -> None:
        """Give every client another source address and port, now."""
        self._port.rebind(host=next(self._hosts))

    def keep_changing(self, on: bool) -> None:
        """Change addresses each second, or no longer."""
        if self._changing is not None:
            self._changing.cancel()
        self._changing = asyncio.create_task(self._port.rebind_every(PERIOD_S)) if on else None

    def state(self) -> dict[str, object]:
        """Return what the page shows: the address that the balancer sees, how often it changed, whether it goes on."""
        newest = self._port.newest
        outside = "{}:{}".format(*newest.outside) if newest else None
        return {"outside": outside, "changes": self._port.changes, "each_second": self._changing is not None}
