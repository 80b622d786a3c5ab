"""What is measured: a base point, and one axis varied at a time."""

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
"""With gso_to_backends."""
BURST: Final = 16
"""Datagrams that a sender with GSO hands over in one call."""


@dataclass(frozen=True, slots=True)
class Point:
    """One traffic and one set of backends.

    flows: clients, interleaved. size_bytes: of a UDP payload. shape: one of SHAPES. fresh: no connection ID twice.
    burst: datagrams of one flow that follow each other in one GSO send; 1: single packets. answered: there and
    back, or only there. backends: how many stand behind the forwarder.
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
    """What is varied. points: label → point. only: the forwarders to measure, all where it is empty, except for the one
    that differs from another only in how it sends bursts (PIECES), which must be asked for.

    together: all the points take turns in one set of rounds, because they are compared with each other;
    otherwise forwarders are compared, a point at a time.
    """

    name: str
    points: dict[str, Point]
    only: tuple[str, ...] = ()
    together: bool = False
    pieces: bool = False

    def measures(self, forwarder: str) -> bool:
        """Whether a forwarder is measured."""
        return forwarder in self.only if self.only else self.pieces or forwarder != PIECES


BASE: Final = Point()
_QLB: Final = ("floor", "qlb batch", "qlb asyncio")
_BACKENDS: Final = replace(BASE, flows=3000)


def axes(*, quick: bool) -> Iterator[Axis]:
    """Yield the base point and the axes; quick: the base point and one value of those where forwarders differ."""
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
