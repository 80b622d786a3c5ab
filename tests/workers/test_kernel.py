"""The engine that forwards in the kernel, without workers: which orders are applied."""

from pathlib import Path
from typing import Any

from lab.dataplane.settings import DEFAULTS
from qlb.config.load import load_text
from qlb.dataplane.base import Orders
from qlb.errors import PlaneUnavailable
from qlb.routing.snapshot import compile_snapshot
from qlb.workers.kernel import KernelEngine

TEXT = """
listen: ["192.0.2.1:4433"]
backends: [{name: a, address: "192.0.2.2:4433"}]
forwarding: {plane: xdp, mode: ipip, interfaces: [lo]}
"""


def orders(revision: int) -> Orders:
    """Return orders without backends."""
    return Orders(compile_snapshot(revision, [], (), fallback_key=bytes(16)), DEFAULTS)


async def test_orders_that_the_kernel_refuses_do_not_count_as_applied() -> None:
    """Orders that the kernel refuses do not count as applied, because a backend in them may not be removed yet."""
    engine = KernelEngine(load_text(TEXT, Path("qlb.yaml")).config, lambda: orders(1))
    assert engine.applied == 0

    class Plane:
        refuses = False

        def apply(self, _orders: Orders) -> None:
            if self.refuses:
                raise PlaneUnavailable("no room")

    plane: Any = Plane()
    engine._plane = plane
    await engine.apply(orders(2))
    assert engine.applied == 2
    plane.refuses = True
    await engine.apply(orders(3))
    assert engine.applied == 2
    plane.refuses = False
    await engine.apply(orders(4))
    assert engine.applied == 4
