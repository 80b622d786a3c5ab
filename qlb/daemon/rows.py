"""The counts of backends by name, although an index of the counters may have had several names one after the other.

Workers only add to the counters of an index. So the counters are not set to zero when the index gets a new name.
Instead, this module stores the earlier counts and subtracts them from the row of the new name. They stay in one common
row, with all counts that do not belong to a name any more. So the sum over all rows is always the sum over all
counters, and the common row never decreases.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import sub
from typing import Final, NamedTuple, Protocol

from qlb.routing import counters as layout
from qlb.routing.backends import Backend
from qlb.routing.counters import SEND_ERROR_KINDS, Counters
from qlb.routing.sums import total

_NO_ERRORS: Final = (0,) * len(SEND_ERROR_KINDS)


class Row(NamedTuple):
    """The counts of one backend. forwarded: by cid, flow, fallback. last_seen_ms: of the monotonic clock, 0 = never.

    send_errors: refused calls to send to it, by SEND_ERROR_KINDS. forwarded_bytes, returned_bytes: of UDP payload.
    new_flows: forwarded packets that began a flow.
    """

    forwarded: tuple[int, ...] = (0, 0, 0)
    returned: int = 0
    last_seen_ms: int = 0
    send_errors: tuple[int, ...] = _NO_ERRORS
    forwarded_bytes: int = 0
    returned_bytes: int = 0
    new_flows: int = 0


class Rows(NamedTuple):
    """The counts of all backends at one moment.

    by_index: the counts of the present name of each index; for an index without a name, all counts of the index.
    removed: the sum of all counts that do not belong to a name.
    """

    by_index: Sequence[Row]
    removed: Row


class BackendRows:
    """The counts of each index from before it got its present name.

    One thread calls follow(). Any thread may call read().
    """

    def __init__(self) -> None:
        """Start without names."""
        self._names: Sequence[str] = ()
        self._before: Mapping[int, Row] = {}

    def follow(self, workers: Sequence[Counters], names: Sequence[str]) -> None:
        """Note the indexes that have another name now. Their counts until now do not belong to the new name.

        Call this before a plane forwards by these indexes. names: by index, "" for an index without a name.
        """
        if names == self._names:
            return
        before, counts = dict(self._before), _read_all(workers, len(names))
        for index, (old, new) in enumerate(zip(self._names, names, strict=False)):
            if old == new:
                continue
            before.pop(index, None)
            if new:
                before[index] = counts[index]
        self._names, self._before = names, before

    def read(self, workers: Sequence[Counters], names: Sequence[str]) -> Rows:
        """Return the present counts. names: those of the last follow()."""
        before, counts = self._before, _read_all(workers, len(names))
        rows = [_less(one, before[index]) if index in before else one for index, one in enumerate(counts)]
        nameless = [one for one, name in zip(counts, names, strict=True) if not name]
        return Rows(rows, _sum([*nameless, *before.values()]))


def _read_all(workers: Sequence[Counters], backends: int) -> list[Row]:
    routes = [column(workers, layout.FORWARDED + route, backends, sum) for route in range(layout.RETURNED)]
    returned = column(workers, layout.RETURNED, backends, sum)
    seen_ms = column(workers, layout.LAST_SEEN_MS, backends, max)
    errors: Iterable[tuple[int, ...]] = repeat(_NO_ERRORS, backends)
    if total(workers, layout.SEND_ERRORS):  # few daemons have any
        first = layout.BACKEND_SEND_ERRORS
        columns = [column(workers, first + kind, backends, sum) for kind in range(len(SEND_ERROR_KINDS))]
        errors = zip(*columns, strict=True)
    sums = [
        column(workers, slot, backends, sum)
        for slot in (layout.FORWARDED_BYTES, layout.RETURNED_BYTES, layout.NEW_FLOWS)
    ]
    return list(map(Row, zip(*routes, strict=True), returned, seen_ms, errors, *sums))


def column(workers: Sequence[Counters], slot: int, backends: int, combine: Callable[[Sequence[int]], int]) -> list[int]:
    """Return one slot of every backend."""
    return column_at(workers, layout.BACKEND + slot, layout.BACKEND_SLOTS, backends, combine)


def column_at(
    workers: Sequence[Counters], first: int, width: int, backends: int, combine: Callable[[Sequence[int]], int]
) -> list[int]:
    """Return one slot of every backend. It is read in one slice, because there may be thousands.

    first: the slot of the backend of index 0. width: the slots between two backends.
    """
    columns = [worker.slots[first : first + width * backends : width].tolist() for worker in workers]
    if not columns:
        return [0] * backends
    return columns[0] if len(columns) == 1 else [combine(row) for row in zip(*columns, strict=True)]


def _less(row: Row, before: Row) -> Row:
    return Row(
        forwarded=tuple(map(sub, row.forwarded, before.forwarded)),
        returned=row.returned - before.returned,
        last_seen_ms=row.last_seen_ms if row.last_seen_ms > before.last_seen_ms else 0,
        send_errors=tuple(map(sub, row.send_errors, before.send_errors)),
        forwarded_bytes=row.forwarded_bytes - before.forwarded_bytes,
        returned_bytes=row.returned_bytes - before.returned_bytes,
        new_flows=row.new_flows - before.new_flows,
    )


def _sum(rows: Sequence[Row]) -> Row:
    if not rows:
        return Row()
    return Row(
        forwarded=tuple(map(sum, zip(*(row.forwarded for row in rows), strict=True))),
        returned=sum(row.returned for row in rows),
        last_seen_ms=max(row.last_seen_ms for row in rows),
        send_errors=tuple(map(sum, zip(*(row.send_errors for row in rows), strict=True))),
        forwarded_bytes=sum(row.forwarded_bytes for row in rows),
        returned_bytes=sum(row.returned_bytes for row in rows),
        new_flows=sum(row.new_flows for row in rows),
    )


log = logging.getLogger("qlb")

KEPT_S: Final = 3600.0
"""The time without packets after which the row of a departed backend is folded into the common row."""
MAX_DEPARTED: Final = 256
"""The greatest number of rows of departed backends. If there are more, those that left first are folded earlier."""
_MARGIN_S: Final = 5.0
"""Added to the longest flow timeout: the clock of a plane may be late by the time between two of its updates."""


class Pool(Protocol):
    """The part of the backends by index that departures change."""

    @property
    def names(self) -> Sequence[str]:
        """The names by index; "" for an index without a name."""

    @property
    def present(self) -> Sequence[Backend | None]:
        """The backends by index, including excluded ones; None for an index without a backend."""

    @property
    def revision(self) -> int:
        """The revision of the snapshot that has these backends."""

    def forget(self, name: str) -> int:
        """Remove the name of a departed backend from its index. Return the index."""

    def release(self, index: int) -> None:
        """Allow another name to get a forgotten index."""


@dataclass(slots=True)
class _Departed:
    """A backend that has left. since_s: when it was seen to leave, or when its counters last changed."""

    counts: Row
    since_s: float


@dataclass(slots=True)
class _Resting:
    """An index without a name. revision: of a snapshot without its backend. since_s: the start of its rest, or None."""

    revision: int
    counts: Row
    since_s: float | None = None


class Departures:
    """The departed backends and the resting indexes of one daemon.

    A backend that leaves is departed while its name has its index. When its row is folded, the index has no name and
    rests. When no worker can count for the old name any more, the index is released and may get another name.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        """Start without departed backends."""
        self._now = now
        self._departed: dict[str, _Departed] = {}
        self._resting: dict[int, _Resting] = {}
        self._longest_flow_s = 0.0

    def note(self, pool: Pool, rows: Sequence[Row], flow_timeout_s: float, applied: int) -> None:
        """Fold due rows and release indexes that have rested. Call this every second.

        rows: the counts by index, not older than the last call. applied: the lowest revision that a worker has applied.
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
        """Note the backends that have left or returned, and those that still get packets."""
        departed: dict[str, _Departed] = {}
        backends = pool.present  # read before the names, because it may add names
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
            for position, name in enumerate(by_age)
            if position < surplus or now_s - self._departed[name].since_s >= KEPT_S
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
