"""Which planes there are, and which of them this machine and this configuration can run.

A new plane is one module and one row here; its module is imported only when it is chosen, or asked whether it is
able to run.
"""

import importlib
from typing import Final, NamedTuple, cast

from qlb.dataplane.base import PlaneFactory
from qlb.errors import PlaneUnavailable


class PlaneRow(NamedTuple):
    """Where a plane is, the forwarding modes that it knows, and what it cannot do without.

    lacks: a module and a function in it that says what this machine lacks, empty for nothing; None: it runs everywhere.
    shares_ports: whether one local port serves ways back to several backends. in_kernel: no worker runs it.
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
"""In the order in which ``auto`` tries them."""


def choose(plane: str, mode: str) -> str:
    """Return the name of the plane to run. plane: ``auto`` or a name. mode: a forwarding mode.

    Raises PlaneUnavailable, saying what there is instead.
    """
    able = [name for name, row in PLANES.items() if mode in row.modes]
    if not able:
        known = ", ".join(sorted({mode for row in PLANES.values() for mode in row.modes}))
        raise PlaneUnavailable(f"no plane of this release forwards in mode {mode}; there is: {known}")
    if plane == "auto":
        plane = next((name for name in able if not what_lacks(name)), able[0])
    if plane not in PLANES:
        raise PlaneUnavailable(f"this release has no plane {plane}; there is: {', '.join(PLANES)}, or auto")
    if plane not in able:
        known = ", ".join(sorted(PLANES[plane].modes))
        raise PlaneUnavailable(
            f"plane {plane} does not forward in mode {mode} (it does in {known}); {', '.join(able)} does"
        )
    if lack := what_lacks(plane):
        instead = "; `plane: auto` takes what can" if len(able) > 1 else f", and no other plane forwards in mode {mode}"
        raise PlaneUnavailable(f"plane {plane} cannot run here: {lack}{instead}")
    return plane


def passed_over(chosen: str, mode: str) -> str:
    """Return what ``auto`` would rather have taken and why it has not; empty where it took its first choice."""
    for name, row in PLANES.items():
        if name == chosen:
            return ""
        if mode in row.modes and (lack := what_lacks(name)):
            return f"plane {name} cannot run here: {lack}; {chosen} forwards instead"
    return ""


def what_lacks(plane: str) -> str:
    """Return what a plane of PLANES would need and does not have on this machine; empty where it can run."""
    lacks = PLANES[plane].lacks
    if lacks is None:
        return ""
    module, name = lacks
    return cast(str, getattr(importlib.import_module(module), name)())


def factory(plane: str) -> PlaneFactory:
    """Import a plane that choose() has named."""
    row = PLANES[plane]
    return cast(PlaneFactory, getattr(importlib.import_module(row.module), row.factory))
