"""The end of backends that have left: their rows are folded into one, and their indexes are used again.

A backend that has left passes through these states:

- departed: its row still stands by itself in /metrics and /status;
- folded: its counts went into the common row of removed backends, and its index rests;
- released: the next new name may get its index.

Folding changes only what is shown. Using an index again is safe when nothing of the old backend can still be reached
by it. Every plane finds a backend by its index in three places:

1. The snapshot. Every worker, or the kernel, must have applied one in which the index has no backend. A worker that
   was started later has never had another.
2. The flow tables. While the index has no backend, no packet renews an entry that holds it, and an entry that is not
   renewed counts for nothing after `fallback.flow_timeout`. So the index rests for the longest flow timeout that this
   daemon ever had, counted from the moment when every worker had applied that snapshot.
3. The sessions. A session remembers the address that its socket is connected to, and planes compare it with the
   address of the backend at its index before they use it. The session of an old backend is closed when the index
   gets another address; at the same address it leads to the right server.

An answer that an old server still sends through an old session would be counted for the new name. Therefore an index
rests, too, until its counters have not moved for that time. The C planes and the BPF program follow the same rules.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from qlb.control.rows import Row
from qlb.routing.backends import Backend

log = logging.getLogger("qlb")

KEPT_S: Final = 3600.0
"""Silence after which the row of a departed backend is folded."""
MAX_DEPARTED: Final = 256
"""Rows of departed backends that stand by themselves; beyond that, the ones that left first are folded earlier."""
_MARGIN_S: Final = 5.0
"""Rest beyond the longest flow timeout: clocks of planes may lag behind by the time between two of their looks."""


class Pool(Protocol):
    """The backends by index, as far as departures change them."""

    @property
    def names(self) -> Sequence[str]:
        """The names by index; empty where an index has none."""

    @property
    def present(self) -> Sequence[Backend | None]:
        """The backends by index, those that are excluded for a while included; None where none is."""

    @property
    def revision(self) -> int:
        """The number of the snapshot that has these backends."""

    def forget(self, name: str) -> int:
        """Take the name of a departed backend from its index; return the index."""

    def release(self, index: int) -> None:
        """Let another name have a forgotten index."""


@dataclass(slots=True)
class _Departed:
    """A backend that left. since_s: when it was seen to leave, or its counters moved last."""

    counts: Row
    since_s: float


@dataclass(slots=True)
class _Resting:
    """An index without a name. revision: of a snapshot without its backend. since_s: the start of its rest, if any."""

    revision: int
    counts: Row
    since_s: float | None = None


class Departures:
    """The departed backends and the resting indexes of one daemon."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        """Start with none."""
        self._now = now
        self._departed: dict[str, _Departed] = {}
        self._resting: dict[int, _Resting] = {}
        self._longest_flow_s = 0.0

    def note(self, pool: Pool, rows: Sequence[Row], flow_timeout_s: float, applied: int) -> None:
        """Fold what is due and release what has rested. To be called every second.

        rows: the counts by index, not older than the call before this one. applied: the revision that every worker has
        applied at least.
        """
        now_s = self._now()
        self._longest_flow_s = max(self._longest_flow_s, flow_timeout_s)
        self._follow(pool, rows, now_s)
        for name in self._due(now_s):
            del self._departed[name]
            index = pool.forget(name)
            self._resting[index] = _Resting(pool.revision, rows[index])
        self._rest(pool, rows, applied, now_s)

    def _follow(self, pool: Pool, rows: Sequence[Row], now_s: float) -> None:
        """Note who has left, or come back, or still gets packets."""
        departed: dict[str, _Departed] = {}
        backends = pool.present  # before the names, which it may add to
        for index, (name, backend) in enumerate(zip(pool.names, backends, strict=True)):
            if not name or backend is not None or index >= len(rows):
                continue
            known = self._departed.get(name)
            unchanged = known is not None and known.counts == rows[index]
            departed[name] = known if known is not None and unchanged else _Departed(rows[index], now_s)
        self._departed = departed

    def _due(self, now_s: float) -> list[str]:
        by_age = sorted(self._departed, key=lambda name: self._departed[name].since_s)
        surplus = len(by_age) - MAX_DEPARTED
        return [
            name
            for place, name in enumerate(by_age)
            if place < surplus or now_s - self._departed[name].since_s >= KEPT_S
        ]

    def _rest(self, pool: Pool, rows: Sequence[Row], applied: int, now_s: float) -> None:
        for index, resting in tuple(self._resting.items()):
            if applied < resting.revision:
                continue
            if resting.since_s is None or resting.counts != rows[index]:
                resting.since_s, resting.counts = now_s, rows[index]
            elif now_s - resting.since_s >= self._longest_flow_s + _MARGIN_S:
                del self._resting[index]
                pool.release(index)
