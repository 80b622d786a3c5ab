"""The list of planes, and the choice of the one that this machine and this configuration can run.

A new plane is one module and one row here. Its module is imported only if it is chosen, or to find out what it lacks.
"""

import importlib
from typing import Final, NamedTuple, cast

from qlb.dataplane.base import PlaneFactory
from qlb.errors import PlaneUnavailable


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
