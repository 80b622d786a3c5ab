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

    requires: a module and a name in it. shares_ports: whether one local port serves ways back to several backends.
    """

    module: str
    factory: str
    modes: frozenset[str]
    requires: tuple[str, str] | None = None
    shares_ports: bool = False


PLANES: Final[dict[str, PlaneRow]] = {
    "batch": PlaneRow(
        "qlb.dataplane.batch.plane",
        "BatchPlane",
        frozenset({"proxy"}),
        ("qlb.dataplane._core", "Forwarder"),
        shares_ports=True,
    ),
    "asyncio": PlaneRow("qlb.dataplane.asyncio", "AsyncioPlane", frozenset({"proxy"})),
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
        return next(name for name in able if not what_lacks(name))
    if plane not in PLANES:
        raise PlaneUnavailable(f"this release has no plane {plane}; there is: {', '.join(PLANES)}, or auto")
    if plane not in able:
        raise PlaneUnavailable(f"plane {plane} does not forward in mode {mode}; {', '.join(able)} does")
    if lack := what_lacks(plane):
        raise PlaneUnavailable(f"plane {plane} cannot run here: {lack}; `plane: auto` takes what can")
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
    requires = PLANES[plane].requires
    if requires is None:
        return ""
    module, name = requires
    try:
        found = importlib.import_module(module)
    except ImportError:
        return "the C extension was not built when qlb was installed (it wants a C compiler and Python's headers)"
    return "" if hasattr(found, name) else "this system is not Linux"


def factory(plane: str) -> PlaneFactory:
    """Import a plane that choose() has named."""
    row = PLANES[plane]
    return cast(PlaneFactory, getattr(importlib.import_module(row.module), row.factory))
