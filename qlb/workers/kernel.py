"""The engine without workers: it controls the XDP plane's program in the kernel."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from typing import Final

from qlb.addresses import Endpoint
from qlb.config.model import Config
from qlb.dataplane.base import Orders
from qlb.dataplane.xdp.destinations import frame_of, read_frame, wake_neighbours
from qlb.dataplane.xdp.interfaces import Watched
from qlb.dataplane.xdp.libbpf import XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX
from qlb.dataplane.xdp.plane import XdpPlane
from qlb.dataplane.xdp.program import XdpSettings
from qlb.errors import QlbError
from qlb.routing.counters import Counters
from qlb.routing.outcomes import OUTCOMES
from qlb.workers.engine import Findings
from qlb.workers.slots import Slot

log = logging.getLogger("qlb")

_MAX_NOTICES: Final = 20


class InterfaceWatch:
    """The current findings, and the faults that are in the log already."""

    def __init__(self) -> None:
        """Start without findings."""
        self.findings = Findings()
        self._failure = ""
        self._logged: frozenset[str] = frozenset()

    def note(self, found: Watched) -> None:
        """Store the result of a check of the interfaces, and log what is new in it."""
        self._failure = ""
        notices = (*found.losses, *found.idle, *map(str, found.refusals))
        if len(notices) > _MAX_NOTICES:
            more = len(notices) - _MAX_NOTICES
            notices = (*notices[:_MAX_NOTICES], f"{more} more faults of interfaces")
        for name in found.restored:
            log.warning("the XDP program was detached from %s; qlb has attached it again", name)
        self._log(found)
        if self.findings.notices and not notices:
            log.info("the XDP program is attached to all interfaces and can reach all backends that have a route")
        refused = {name for refusal in found.refusals for name in refusal.backends}
        is_cut_off = bool(found.losses) or found.is_isolated or found.unreached
        self.findings = Findings(notices, len(found.losses), len(refused), is_cut_off)

    def _log(self, found: Watched) -> None:
        """Log new faults. A fault is not new if only the backends behind its interface have changed."""
        for loss in found.losses:
            if loss not in self._logged:
                log.error(loss)
        for idle in found.idle:
            if idle not in self._logged:
                log.warning(idle)
        for refusal in found.refusals[:_MAX_NOTICES]:
            if refusal.reason not in self._logged:
                log.warning(str(refusal))
        self._logged = frozenset((*found.losses, *found.idle, *(refusal.reason for refusal in found.refusals)))

    def note_failure(self, error: str) -> None:
        """Log once that a check has failed. The previous findings stay."""
        if error != self._failure:
            log.error("cannot check the interfaces of the XDP program: %s", error)
        self._failure = error


_WAKE_S: Final = 10.0
_WATCH_S: Final = 1.0
_ACTIONS: Final = {XDP_DROP: "drop", XDP_PASS: "pass to the kernel", XDP_TX: "transmit", XDP_REDIRECT: "redirect"}


class KernelEngine:
    """The XDP plane. It makes calls to the kernel on another thread, because they may block."""

    slots: Sequence[Slot] = ()

    def __init__(self, config: Config, orders: Callable[[], Orders]) -> None:
        """Prepare without loading anything. orders: returns the current ones."""
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
        self._paused = False
        self._refused = ""
        self._watch = InterfaceWatch()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def counters(self) -> Sequence[Counters]:
        """The sums of all CPUs."""
        return (self._plane.read_counters(),) if self._plane is not None else ()

    @property
    def forwards(self) -> bool:
        """True if the program is attached."""
        return self._attached

    @property
    def findings(self) -> Findings:
        """The faults of the interfaces at the last check."""
        return self._watch.findings

    @property
    def is_fresh(self) -> bool:
        """True if the program is attached: it runs in the kernel and cannot hang."""
        return self._attached

    @property
    def behind(self) -> Sequence[str]:
        """A sentence if the kernel has refused the latest orders; else empty."""
        return (
            f"the kernel refuses the configuration and still forwards by the previous one: {self._refused}",
        ) * bool(self._refused)

    async def start(self, *, paused: bool = False) -> None:
        """Load the program and attach it. paused: only load it; resume() attaches it."""
        orders = self._orders()
        self._plane = await asyncio.to_thread(XdpPlane, self._settings, orders)
        self.applied = orders.snapshot.generation
        self._tasks = [asyncio.create_task(self._wake_neighbours()), asyncio.create_task(self._follow_interfaces())]
        if not paused:
            await self.resume()

    async def pause(self) -> None:
        """Let another process replace the program, which happens between two packets."""
        self._paused = True

    async def resume(self) -> None:
        """Attach the program to the interfaces, in place of any earlier program of qlb."""
        assert self._plane is not None, "it has started"
        await asyncio.to_thread(self._plane.start)
        self._attached, self._paused = True, False
        if self._plane.prefers_generic:
            log.warning(
                "the XDP program runs after the driver (generic), which is slower: only there it reaches all backends"
            )
        await self._look()

    async def apply(self, orders: Orders, frame: bytes | None = None) -> Sequence[str]:  # noqa: ARG002 (an Engine)
        """Write new orders. If the kernel refuses them, log it once; the previous orders stay in force."""
        if self._plane is None:
            return ()
        try:
            await asyncio.to_thread(self._plane.apply, orders)
            self.applied = orders.snapshot.generation
            self._refused = ""
        except (OSError, QlbError) as error:
            if str(error) != self._refused:
                log.error("the kernel refuses new orders and still forwards by the previous ones: %s", error)
            self._refused = str(error)
        return self.behind

    async def stop(self) -> None:
        """Detach the program, unless forwarding.keep_attached is set."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._plane is not None:
            await asyncio.to_thread(self._plane.stop)

    async def _wake_neighbours(self) -> None:
        """Make the system look up the next hops' MAC addresses: packets that the program sends do not.

        Probes of health have the same effect, if they are configured.
        """
        while True:
            backends = [backend.endpoint for backend in self._orders().snapshot.backends if backend is not None]
            await asyncio.to_thread(wake_neighbours, backends)
            await asyncio.sleep(_WAKE_S)

    async def _follow_interfaces(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_S)
            if self._attached and not self._paused:
                await self._look()

    async def _look(self) -> None:
        assert self._plane is not None, "it has started"
        try:
            found = await asyncio.to_thread(self._plane.watch)
        except (OSError, QlbError) as error:
            self._watch.note_failure(str(error))
            return
        if not self._paused:  # else another process may have attached its program
            self._watch.note(found)

    async def explain(self, datagram: bytes, client: Endpoint) -> dict[str, object]:
        """Ask the program in the kernel for its decision about a client's datagram. Raises QlbError, OSError."""
        assert self._plane is not None, "it has started"
        version = ipaddress.ip_address(client.host).version
        services = [service for service in self._settings.services if _version(service) == version]
        if not services:
            raise QlbError(f"{client} is an IPv{version} address, but no service address is")
        found = await asyncio.to_thread(self._plane.explain, frame_of(datagram, client, services[0]))
        answer: dict[str, object] = {
            "decision": _name(found.decision),
            "outcome": _name(found.outcome),
            "backend": self._backend_name(found.backend),
            "action": _ACTIONS.get(found.action, str(found.action)),
        }
        if found.interface:
            answer |= {"interface": socket.if_indextoname(found.interface), **read_frame(found.packet)._asdict()}
        return answer

    def _backend_name(self, index: int) -> str | None:
        backend = self._orders().snapshot.backends[index] if index >= 0 else None
        return backend.name if backend is not None else None


def _version(endpoint: Endpoint) -> int:
    return ipaddress.ip_address(endpoint.host).version


def _name(outcome: int | None) -> str | None:
    return None if outcome is None else OUTCOMES[outcome].name
