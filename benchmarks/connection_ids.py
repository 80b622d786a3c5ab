"""Files of connection IDs for the load: lap by lap, one for each flow, always of the flow's own backend."""

from pathlib import Path
from typing import Final

from benchmarks.points import SHAPES, Point
from qlb.cid import CidGenerator

FRESH: Final = 300_000
"""IDs in a file of those never seen before; the load stops before it would repeat one."""


def server_id(backend: int) -> bytes:
    """The server ID of a backend, the same under every shape."""
    return (backend + 1).to_bytes(4, "big")


def laps(point: Point) -> int:
    """How many IDs each flow has."""
    return max(1, FRESH // point.flows) if point.fresh else 1


def write_cids(point: Point, folder: Path) -> Path:
    """Write what the load reads for a point, unless it is there already; return the file."""
    path = folder / f"{point.shape}-{point.flows}-{point.backends}-{laps(point)}.cids"
    if not path.exists():
        params = SHAPES[point.shape]
        makers = [CidGenerator(params, server_id(backend)).generate for backend in range(point.backends)]
        lap = [makers[flow % point.backends] for flow in range(point.flows)]
        path.write_bytes(b"".join(make() for _ in range(laps(point)) for make in lap))
    return path
