"""Points to measure: a base point, and axes that each vary one property of it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from qlb.cid import CidParams

KEY: Final = bytes(range(16))
SHAPES: Final = {
    "plaintext": CidParams(0, 4, 10),
    "single-pass": CidParams(1, 4, 12, KEY),
    "four-pass": CidParams(2, 4, 10, KEY),
}
PIECES: Final = "qlb batch, pieces"
"""Name of the row with gso_to_backends."""
BURST: Final = 16
"""Datagrams that a sender passes to the kernel in one call with GSO."""


@dataclass(frozen=True, slots=True)
class Point:
    """One kind of traffic and one set of backends.

    flows: number of clients, interleaved. size_bytes: of a UDP payload. shape: one of SHAPES. fresh: every
    connection ID is sent once. burst: consecutive datagrams of one flow in one GSO send; 1 = single packets.
    answered: the backends answer. backends: number of backends behind the forwarder.
    """

    flows: int = 1000
    size_bytes: int = 300
    shape: str = "four-pass"
    fresh: bool = False
    burst: int = 1
    answered: bool = True
    backends: int = 3


@dataclass(frozen=True, slots=True)
class Axis:
    """Points that vary one property of the base point. points: label → point.

    only: forwarders to measure; empty = all except PIECES, which differs only in how it sends bursts.
    pieces: measure PIECES too. together: compare the points with each other, so all take turns in the same rounds;
    otherwise the forwarders are compared, one point after the other.
    """

    name: str
    points: dict[str, Point]
    only: tuple[str, ...] = ()
    together: bool = False
    pieces: bool = False

    def measures(self, forwarder: str) -> bool:
        """Return whether this axis measures a forwarder."""
        return forwarder in self.only if self.only else self.pieces or forwarder != PIECES


BASE: Final = Point()
_QLB: Final = ("floor", "qlb batch", "qlb asyncio")
_BACKENDS: Final = replace(BASE, flows=3000)


def axes(*, quick: bool) -> Iterator[Axis]:
    """Yield the base point and the axes. quick: only the base point and the bursts."""
    yield Axis("base", {"base": BASE})
    yield Axis("sender", {f"bursts of {BURST}": replace(BASE, burst=BURST)}, pieces=True)
    if quick:
        return
    yield Axis("direction", {"there only": replace(BASE, answered=False)})
    yield Axis("flows", {f"{flows:,}": replace(BASE, flows=flows) for flows in (1, 100, 10_000)})
    yield Axis("size", {f"{size:,} octets": replace(BASE, size_bytes=size) for size in (64, 1200)})
    repeated = {f"{shape}, repeated": replace(BASE, shape=shape) for shape in SHAPES}
    fresh = {f"{shape}, never seen": replace(BASE, shape=shape, fresh=True) for shape in SHAPES}
    yield Axis("connection IDs", repeated | fresh, _QLB, together=True)
    backends = {f"{count:,} backends": replace(_BACKENDS, backends=count) for count in (3, 300, 3000)}
    yield Axis("backends", backends, _QLB, together=True)
