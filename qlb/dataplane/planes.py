"""The interface of a data plane, the list of planes, and the choice of the one that can run here.

A new plane is one module and one row of PLANES. Its module is imported only if it is chosen, or to find out what it
lacks.
"""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, cast

from qlb.errors import PlaneUnavailable
from qlb.routing.snapshot import Snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaneSettings:
    """Bounds of a plane's own state, which may be lost at any time. They may change with every reload.

    session_timeout_s: the plane closes an idle session after it, if no routable packet has used the session.
    routable_session_timeout_s: the same for the other sessions; at least session_timeout_s applies.
    max_sessions: of one worker; the plane opens fewer if the system grants fewer.
    workers: processes that share the machine's local ports.
    flow_table_size: entries of each flow table, 0 = none. flow_timeout_s: life of an entry.
    dscp: of all sent packets, 0 to 63; None = as received.
    gso_to_backends: allow one call to send several datagrams to a backend (UDP GSO).
    """

    session_timeout_s: float
    routable_session_timeout_s: float
    workers: int
    dscp: int | None
    max_sessions: int
    flow_table_size: int
    flow_timeout_s: float
    gso_to_backends: bool


@dataclass(frozen=True, slots=True)
class Orders:
    """A snapshot and the settings that came with it. A plane forwards by the orders that it applied last."""

    snapshot: Snapshot
    settings: PlaneSettings


class Plane(Protocol):
    """One data plane, in the process of one worker."""

    def start(self) -> None:
        """Start to forward."""
        ...

    def pause(self) -> None:
        """Stop reading from clients; replies still go to clients. Return when it has taken effect.

        A plane that is paused before start() forwards only replies at first.
        """
        ...

    def resume(self) -> None:
        """Read from clients again. Return when it has taken effect."""
        ...

    def apply(self, orders: Orders) -> None:
        """Apply new orders between two packets, without dropping any."""
        ...

    def stop(self) -> None:
        """Stop forwarding. Close the listeners' descriptors and everything that the plane has opened."""
        ...


class PlaneFactory(Protocol):
    """The call that makes a plane, in the worker's process and inside its event loop."""

    def __call__(self, listeners: Sequence[int], orders: Orders, counters_memory: memoryview) -> Plane:
        """Return a plane. listeners: descriptors of bound UDP sockets. counters_memory: counters.SIZE_BYTES octets."""
        ...


class PlaneRow(NamedTuple):
    """A plane: its module, its class, its forwarding modes and its needs.

    lacks: module and name of a function that returns what this machine lacks; None: the plane runs on every machine.
    shares_ports: one local port serves sessions to several backends. in_kernel: the kernel runs it, not a worker.
    """

    module: str
    factory: str
    modes: frozenset[str]
    lacks: tuple[str, str] | None = None
    shares_ports: bool = False
    in_kernel: bool = False


PLANES: Final[dict[str, PlaneRow]] = {
    "batch": PlaneRow(
        "qlb.dataplane.batch.plane",
        "BatchPlane",
        frozenset({"proxy"}),
        ("qlb.dataplane.batch", "what_lacks"),
        shares_ports=True,
    ),
    "asyncio": PlaneRow("qlb.dataplane.portable.plane", "AsyncioPlane", frozenset({"proxy"})),
    "xdp": PlaneRow(
        "qlb.dataplane.xdp.plane",
        "XdpPlane",
        frozenset({"l2", "ipip", "gue"}),
        ("qlb.dataplane.xdp.libbpf", "what_lacks"),
        in_kernel=True,
    ),
}
"""``auto`` tries them in this order."""


def choose(plane: str, mode: str) -> str:
    """Return the name of the plane to run. plane: ``auto`` or a name. mode: a forwarding mode.

    Raises PlaneUnavailable with the available choices.
    """
    suitable = [name for name, row in PLANES.items() if mode in row.modes]
    if not suitable:
        known = ", ".join(sorted({mode for row in PLANES.values() for mode in row.modes}))
        raise PlaneUnavailable(f"no plane of this release supports mode {mode}; available: {known}")
    if plane == "auto":
        plane = next((name for name in suitable if not what_lacks(name)), suitable[0])
    if plane not in PLANES:
        raise PlaneUnavailable(f"this release has no plane {plane}; available: {', '.join(PLANES)}, auto")
    if plane not in suitable:
        known = ", ".join(sorted(PLANES[plane].modes))
        raise PlaneUnavailable(
            f"plane {plane} does not support mode {mode}, only {known}; planes for this mode: {', '.join(suitable)}"
        )
    if lack := what_lacks(plane):
        instead = (
            "; `plane: auto` chooses one that can"
            if len(suitable) > 1
            else f", and no other plane supports mode {mode}"
        )
        raise PlaneUnavailable(f"plane {plane} cannot run here: {lack}{instead}")
    return plane


def passed_over(chosen: str, mode: str) -> str:
    """Return why ``auto`` did not choose an earlier plane; empty if it chose its first one."""
    for name, row in PLANES.items():
        if name == chosen:
            return ""
        if mode in row.modes and (lack := what_lacks(name)):
            return f"plane {name} cannot run here: {lack}; {chosen} forwards instead"
    return ""


def what_lacks(plane: str) -> str:
    """Return what this machine lacks to run a plane of PLANES; empty if it lacks nothing."""
    lacks = PLANES[plane].lacks
    if lacks is None:
        return ""
    module, name = lacks
    return cast(str, getattr(importlib.import_module(module), name)())


def factory(plane: str) -> PlaneFactory:
    """Import a plane that choose() returned, and return the call that makes it."""
    row = PLANES[plane]
    return cast(PlaneFactory, getattr(importlib.import_module(row.module), row.factory))
