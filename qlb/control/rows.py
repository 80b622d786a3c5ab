"""The counts of backends by name, where an index of the counters may have had several names one after the other.

Workers only ever add to the counters of an index. So an index that gets a new name is not set to zero: what it had
counted by then is noted here and left out of the new name's row. It stays in one common row, together with
everything that belongs to no name any more. Thus the sum over all rows is the sum over all counters at any moment, and
the common row never shrinks.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from operator import sub
from typing import Final, NamedTuple

from qlb.routing import counters as layout
from qlb.routing.counters import SEND_ERROR_KINDS, Counters, total

_NO_ERRORS: Final = (0,) * len(SEND_ERROR_KINDS)


class Row(NamedTuple):
    """The counts of one backend. forwarded: by cid, flow, fallback. last_seen_ms: of the monotonic clock, 0 = never.

    send_errors: refused calls to send to it, by SEND_ERROR_KINDS.
    """

    forwarded: tuple[int, ...] = (0, 0, 0)
    returned: int = 0
    last_seen_ms: int = 0
    send_errors: tuple[int, ...] = _NO_ERRORS


class Rows(NamedTuple):
    """The counts of all backends at one moment.

    by_index: of the present name of each index; of an index without a name, all that it ever counted. removed: the sum
    of everything that belongs to no name.
    """

    by_index: Sequence[Row]
    removed: Row


class BackendRows:
    """What each index had counted before it got its present name.

    One thread calls follow(); read() may be called from any.
    """

    def __init__(self) -> None:
        """Start without any name."""
        self._names: Sequence[str] = ()
        self._before: Mapping[int, Row] = {}

    def follow(self, workers: Sequence[Counters], names: Sequence[str]) -> None:
        """Note which indexes have another name now; what was counted until now is not the new name's.

        Call it before a plane forwards by these indexes. names: by index, empty where an index has none.
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
        """Return the counts as they are now. names: those of the last follow()."""
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
    return list(map(Row, zip(*routes, strict=True), returned, seen_ms, errors))


def column(
    workers: Sequence[Counters], slot: int, backends: int, together: Callable[[Sequence[int]], int]
) -> list[int]:
    """Return one slot of every backend; read as a whole, because there may be thousands."""
    start, end = layout.BACKEND + slot, layout.BACKEND + layout.BACKEND_SLOTS * backends
    columns = [worker.slots[start : end : layout.BACKEND_SLOTS].tolist() for worker in workers]
    if not columns:
        return [0] * backends
    return columns[0] if len(columns) == 1 else [together(row) for row in zip(*columns, strict=True)]


def _less(row: Row, before: Row) -> Row:
    return Row(
        forwarded=tuple(map(sub, row.forwarded, before.forwarded)),
        returned=row.returned - before.returned,
        last_seen_ms=row.last_seen_ms if row.last_seen_ms > before.last_seen_ms else 0,
        send_errors=tuple(map(sub, row.send_errors, before.send_errors)),
    )


def _sum(rows: Sequence[Row]) -> Row:
    if not rows:
        return Row()
    return Row(
        forwarded=tuple(map(sum, zip(*(row.forwarded for row in rows), strict=True))),
        returned=sum(row.returned for row in rows),
        last_seen_ms=max(row.last_seen_ms for row in rows),
        send_errors=tuple(map(sum, zip(*(row.send_errors for row in rows), strict=True))),
    )
