"""The present traffic: packets per second and the time since the last packet, by backend and by config ID.

Counters only grow. The sums are noted every second. A rate is the difference to the note of WINDOW_S ago.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from qlb.daemon.meter import Streak
from qlb.daemon.rows import BackendRows, Row, column
from qlb.health.verdict import Exchange
from qlb.observe.bounds import KERNEL_DROPS, UNCONFIGURED, RecentShare
from qlb.routing import counters as layout
from qlb.routing import sums
from qlb.routing.counters import Counters, UnconfiguredCounts
from qlb.routing.outcomes import CONFIG_IDS
from qlb.routing.sums import config_last_seen_ms, total_unconfigured

INTERVAL_S: Final = 1.0
"""The time between two notes."""
WINDOW_S: Final = 5.0
"""The time over which rates are measured."""
REFUSALS_INTERVAL_S: Final = 0.2
"""The time between two checks for refused packets. It is part of the time in which new clients go to a dead backend."""

_REFUSED: Final = layout.BACKEND_SEND_ERRORS + layout.SEND_ERROR_KINDS.index("refused")
_NOTHING: Final = Row()
_NS: Final = 1_000_000_000


class _Note(NamedTuple):
    """The counts at one moment: packets and the time of the last one (0 = never), by backend index and by config ID.

    indexes: backend name → index. rows: of backends, by index. unconfigured: of config IDs without a CID config.
    cpu_ns: processor time by worker.
    """

    at_s: float
    received: int
    indexes: Mapping[str, int]
    rows: Sequence[Row]
    configs: list[int]
    configs_seen_ms: list[int]
    unconfigured: list[UnconfiguredCounts]
    cpu_ns: list[int]


class Traffic:
    """Rates and silences of one daemon at the last note. A note may be taken in another thread."""

    def __init__(
        self,
        read: Callable[[], Sequence[Counters]],
        rows: BackendRows | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """read: returns the counters of all workers. rows: reads the counts of backends by name.

        now: seconds of the clock of the times in the counters.
        """
        self._read = read
        self._backend_rows = rows or BackendRows()
        self._now = now
        self._unconfigured = tuple(Streak() for _ in range(CONFIG_IDS))
        self._unconfigured_shares = tuple(RecentShare(UNCONFIGURED) for _ in range(CONFIG_IDS))
        self.kernel_drops = RecentShare(KERNEL_DROPS)
        """Datagrams that the system dropped, of all that reached this machine."""
        self._notes: deque[_Note] = deque(maxlen=round(WINDOW_S / INTERVAL_S) + 1)

    def note(self, names: Sequence[str]) -> None:
        """Note the sums. names: of the backends, by index; "" for an index without a name."""
        workers, now_s = self._read(), self._now()
        unconfigured = [total_unconfigured(workers, config_id) for config_id in range(CONFIG_IDS)]
        for streak, counts in zip(self._unconfigured, unconfigured, strict=True):
            streak.note(counts.packets, now_s)
        self._notes.append(
            _Note(
                at_s=now_s,
                received=sums.total(workers, layout.PACKETS_RECEIVED),
                indexes={name: index for index, name in enumerate(names) if name},
                rows=self._backend_rows.read(workers, names).by_index,
                configs=[sums.total(workers, layout.OUTCOME + config_id) for config_id in range(CONFIG_IDS)],
                configs_seen_ms=[config_last_seen_ms(workers, config_id) for config_id in range(CONFIG_IDS)],
                unconfigured=unconfigured,
                cpu_ns=[worker.slots[layout.CPU_NS] for worker in workers],
            )
        )

    def check_bounds(self, *, kernel_dropped: int = 0) -> None:
        """Compare the last note with the bounds of notices. Call this once a second, always in the same thread.

        kernel_dropped: datagrams that the system has dropped.
        """
        if (note := self._last) is not None:
            self.kernel_drops.note(kernel_dropped, note.received + kernel_dropped, note.at_s)
            for share, counts in zip(self._unconfigured_shares, note.unconfigured, strict=True):
                share.note(counts.packets, note.received, note.at_s)

    @property
    def rows(self) -> Sequence[Row]:
        """The counts of backends by index, at the last note."""
        return note.rows if (note := self._last) else ()

    def backend_rate(self, name: str) -> float:
        """Return the packets per second to a backend; 0 before the second note."""
        return self._rate(lambda note: sum(_row(note, name).forwarded))

    def config_rate(self, config_id: int) -> float:
        """Return the packets per second that are routed by IDs of a CID config."""
        return self._rate(lambda note: note.configs[config_id])

    def busy_share(self, worker: int) -> float:
        """Return the share of one core that a worker uses; 0 before the second note."""
        return self._rate(lambda note: note.cpu_ns[worker] if worker < len(note.cpu_ns) else 0) / _NS

    def exchanged(self, name: str) -> Exchange:
        """Return the packets to a backend and those returned by it, at the last note."""
        note = self._last
        if note is None:
            return Exchange()
        row = _row(note, name)
        return Exchange(sum(row.forwarded), row.returned, note.at_s)

    def backend_silence_s(self, name: str) -> float | None:
        """Return the seconds since the last packet to a backend; None if there was none."""
        return self._since(_row(note, name).last_seen_ms if (note := self._last) else 0)

    def config_silence_s(self, config_id: int) -> float | None:
        """Return the seconds since the last packet that was routed by an ID of a CID config; None if there was none."""
        return self._since(note.configs_seen_ms[config_id] if (note := self._last) else 0)

    def unconfigured_silence_s(self, config_id: int) -> float | None:
        """Return the seconds since the last short header with a config ID that is not configured; None for never."""
        return self._since(note.unconfigured[config_id].last_seen_ms if (note := self._last) else 0)

    def is_unconfigured_sustained(self, config_id: int) -> bool:
        """Return whether packets with a config ID that is not configured arrive continually. A few prove nothing."""
        return self._unconfigured[config_id].counts

    def unconfigured_over(self, config_id: int) -> float:
        """Return the recent share of packets with a config ID that is not configured; 0 if it is within its bound."""
        return self._unconfigured_shares[config_id].over

    @property
    def _last(self) -> _Note | None:
        return self._notes[-1] if self._notes else None

    def _rate(self, count: Callable[[_Note], int]) -> float:
        if len(self._notes) < 2:
            return 0.0
        first, last = self._notes[0], self._notes[-1]
        return max(count(last) - count(first), 0) / max(last.at_s - first.at_s, INTERVAL_S / 1000)

    def _since(self, moment_ms: int) -> float | None:
        return max(self._now() - moment_ms / 1000, 0.0) if moment_ms else None


class Refusals:
    """Backends whose hosts refuse clients' packets (ECONNREFUSED), because no process listens there."""

    def __init__(self, read: Callable[[], Sequence[Counters]]) -> None:
        """read: returns the counters of all workers."""
        self._read = read
        self._total = 0
        self._refused: list[int] = []

    def look(self, names: Sequence[str]) -> list[str]:
        """Return the backends that have refused packets since the last call. names: by index, "" for no name.

        Usually no packet was refused, and then this reads only one slot of each worker.
        """
        workers = self._read()
        total = sums.total(workers, layout.SEND_ERRORS)
        if total == self._total:
            return []
        before, self._total = self._refused, total
        self._refused = column(workers, _REFUSED, len(names), sum)
        before = [*before, *[0] * (len(names) - len(before))]
        return [name for name, now, then in zip(names, self._refused, before, strict=False) if name and now > then]


def _row(note: _Note, name: str) -> Row:
    """Return a backend's counts; zeros if the note does not contain it."""
    index = note.indexes.get(name)
    return _NOTHING if index is None else note.rows[index]
