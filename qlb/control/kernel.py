"""The engine that has no workers: the XDP plane's program in the kernel, loaded and told from here."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from qlb.config.model import Config
from qlb.control.workers import Place
from qlb.dataplane.base import Orders
from qlb.dataplane.xdp.plane import Explained, XdpPlane, XdpSettings
from qlb.errors import QlbError
from qlb.routing.counters import Counters

log = logging.getLogger("qlb")


class KernelEngine:
    """The XDP plane. Its calls into the kernel may wait, so they are made on another thread."""

    places: Sequence[Place] = ()

    def __init__(self, config: Config, orders: Callable[[], Orders]) -> None:
        """orders: asked for the current ones when it starts."""
        forwarding = config.forwarding
        self._settings = XdpSettings(
            services=config.listen,
            interfaces=forwarding.interfaces,
            mode=forwarding.mode,
            attach=forwarding.attach,
            keep=forwarding.keep_attached,
        )
        self._orders = orders
        self._plane: XdpPlane | None = None
        self._refused = ""

    @property
    def counters(self) -> Sequence[Counters]:
        """The sums of all CPUs."""
        return (self._plane.read_counters(),) if self._plane is not None else ()

    @property
    def forwards(self) -> bool:
        """Whether the program is attached."""
        return self._plane is not None

    async def start(self) -> None:
        """Load and attach the program."""
        plane = await asyncio.to_thread(XdpPlane, self._settings, self._orders())
        try:
            await asyncio.to_thread(plane.start)
        except QlbError:
            plane.stop()
            raise
        self._plane = plane

    async def apply(self, orders: Orders) -> None:
        """Write new orders. Where the kernel refuses them, the ones before stay in force and the log tells, once."""
        if self._plane is None:
            return
        try:
            await asyncio.to_thread(self._plane.apply, orders)
            self._refused = ""
        except (OSError, QlbError) as error:
            if str(error) != self._refused:
                log.error("the kernel refuses new orders; it forwards by those before: %s", error)
            self._refused = str(error)

    async def stop(self) -> None:
        """Detach the program, unless it is to be kept."""
        if self._plane is not None:
            await asyncio.to_thread(self._plane.stop)

    async def explain(self, packet: bytes) -> Explained:
        """Ask the program what it would do with a packet, from its Ethernet header on. Raises OSError."""
        assert self._plane is not None, "it has started"
        return await asyncio.to_thread(self._plane.explain, packet)
