"""Which planes there are, and which of them this machine and this configuration can run.

A new plane is one module and one row here; its module is imported only when it is chosen.
"""

import importlib
from typing import Final, NamedTuple, cast

from qlb.dataplane.base import PlaneFactory
from qlb.errors import PlaneUnavailable


class PlaneRow(NamedTuple):
    """Where a plane is, and the forwarding modes that it knows."""

    module: str
    factory: str
    modes: frozenset[str]


PLANES: Final[dict[str, PlaneRow]] = {
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
        return able[0]
    if plane not in PLANES:
        raise PlaneUnavailable(f"this release has no plane {plane}; there is: {', '.join(PLANES)}, or auto")
    if plane not in able:
        raise PlaneUnavailable(f"plane {plane} does not forward in mode {mode}; {', '.join(able)} does")
    return plane


def factory(plane: str) -> PlaneFactory:
    """Import a plane that choose() has named."""
    row = PLANES[plane]
    return cast(PlaneFactory, getattr(importlib.import_module(row.module), row.factory))
