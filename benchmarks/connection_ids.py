"""Connection IDs for the load program, written to files.

A file holds one or more laps. A lap has one ID for each flow, and a flow's IDs all name the same backend.
"""

from pathlib import Path
from typing import Final

from benchmarks.points import SHAPES, Point
from qlb.cid import CidGenerator

FRESH: Final = 300_000
"""IDs in a file of fresh IDs. The rounds are shortened so that the load repeats none of them."""


def server_id(backend: int) -> bytes:
    """Return the server ID of a backend. It is the same for every shape of connection ID."""
    return (backend + 1).to_bytes(4, "big")


def laps(point: Point) -> int:
    """Return how many IDs each flow has."""
    return max(1, FRESH // point.flows) if point.fresh else 1


def write_cids(point: Point, folder: Path) -> Path:
    """Write the file of connection IDs for a point, unless it exists, and return its path."""
    path = folder / f"{point.shape}-{point.flows}-{point.backends}-{laps(point)}.cids"
    if not path.exists():
        params = SHAPES[point.shape]
        makers = [CidGenerator(params, server_id(backend)).generate for backend in range(point.backends)]
        lap = [makers[flow % point.backends] for flow in range(point.flows)]
        path.write_bytes(b"".join(make() for _ in range(laps(point)) for make in lap))
    return path
