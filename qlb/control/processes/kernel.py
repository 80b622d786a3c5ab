"""The engine that has no workers: the XDP plane's program in the kernel, loaded and told from here."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final

from qlb.config.model import Config
from qlb.control.processes.workers import Place
from qlb.dataplane.base import Orders
from qlb.dataplane.xdp.frames import frame_of, read_frame
from qlb.dataplane.xdp.libbpf import XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX
from qlb.dataplane.xdp.plane import XdpPlane, XdpSettings
from qlb.dataplane.xdp.routes import wake_neighbours
from qlb.errors import QlbError
from qlb.routing.backends import Endpoint
from qlb.routing.counters import Counters
from qlb.routing.outcomes import OUTCOMES

log = logging.getLogger("qlb")

_WAKE_S: Final = 10.0
_ACTIONS: Final = {XDP_DROP: "drop", XDP_PASS: "pass to the kernel", XDP_TX: "transmit", XDP_REDIRECT: "redirect"}


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
        self.applied = 0
        self._attached = False
        self._refused = ""
        self._waking: asyncio.Task[None] | None = None

    @property
    def counters(self) -> Sequence[Counters]:
        """The sums of all CPUs."""
        return (self._plane.read_counters(),) if self._plane is not None else ()

    @property
    def forwards(self) -> bool:
        """Whether the program is attached."""
        return self._attached

    async def start(self, *, held: bool = False) -> None:
        """Load the program and attach it. held: only load it; resume() attaches it."""
        orders = self._orders()
        self._plane = await asyncio.to_thread(XdpPlane, self._settings, orders)
        self.applied = orders.snapshot.generation
        self._waking = asyncio.create_task(self._wake_neighbours())
        if not held:
            await self.resume()

    async def hold(self) -> None:
        """Nothing to do: another process's program takes this one's place between two packets."""

    async def resume(self) -> None:
        """Put the program on the interfaces, in place of whatever qlb has put there."""
        assert self._plane is not None, "it has started"
        await asyncio.to_thread(self._plane.start)
        self._attached = True

    async def apply(self, orders: Orders, frame: bytes | None = None) -> None:  # noqa: ARG002 (an Engine)
        """Write new orders. Where the kernel refuses them, the ones before stay in force and the log tells, once."""
        if self._plane is None:
            return
        try:
            await asyncio.to_thread(self._plane.apply, orders)
            self.applied = orders.snapshot.generation
            self._refused = ""
        except (OSError, QlbError) as error:
            if str(error) != self._refused:
                log.error("the kernel refuses new orders; it forwards by those before: %s", error)
            self._refused = str(error)

    async def stop(self) -> None:
        """Detach the program, unless it is to be kept."""
        if self._waking is not None:
            self._waking.cancel()
        if self._plane is not None:
            await asyncio.to_thread(self._plane.stop)

    async def _wake_neighbours(self) -> None:
        """Have the system look for the next hops' MAC addresses: what the program sends does not make it look.

        Health's probes do the same where there are any.
        """
        while True:
            backends = [backend.endpoint for backend in self._orders().snapshot.backends if backend is not None]
            await asyncio.to_thread(wake_neighbours, backends)
            await asyncio.sleep(_WAKE_S)

    async def explain(self, datagram: bytes, client: Endpoint) -> dict[str, object]:
        """Ask the program in the kernel what it would do with a client's datagram. Raises QlbError, OSError."""
        assert self._plane is not None, "it has started"
        version = ipaddress.ip_address(client.host).version
        services = [service for service in self._settings.services if _version(service) == version]
        if not services:
            raise QlbError(f"no service address is of IPv{version}, as {client} is")
        found = await asyncio.to_thread(self._plane.explain, frame_of(datagram, client, services[0]))
        told: dict[str, object] = {
            "decision": _name(found.decision),
            "outcome": _name(found.outcome),
            "backend": self._backend_name(found.backend),
            "action": _ACTIONS.get(found.action, str(found.action)),
        }
        if found.interface:
            told |= {"interface": socket.if_indextoname(found.interface), **read_frame(found.packet)._asdict()}
        return told

    def _backend_name(self, index: int) -> str | None:
        backend = self._orders().snapshot.backends[index] if index >= 0 else None
        return backend.name if backend is not None else None


def _version(endpoint: Endpoint) -> int:
    return ipaddress.ip_address(endpoint.host).version


def _name(outcome: int | None) -> str | None:
    return None if outcome is None else OUTCOMES[outcome].name
