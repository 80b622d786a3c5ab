"""Measure forwarders in turns, so that a change of the machine's speed affects all of them equally.

Each forwarder has its own load and is idle while the others are measured. CPU time is read before and after each
round. In a round the load keeps a window of datagrams in flight, so the forwarder is never without work for long.
"""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.connection_ids import write_cids
from benchmarks.forwarders import Forwarder, Missing, Place, Running, forwarder_running
from benchmarks.load import Load, Run, load_running
from benchmarks.network import forwarder_port
from benchmarks.points import Point
from benchmarks.processes import cpu, memory

WINDOW: Final = 256
"""Datagrams in flight: four batches of 64, and far fewer than any receive buffer holds."""
TRIAL: Final = 4096
HALF: Final = 0.5
MOST: Final = 0.8


@dataclass(frozen=True, slots=True)
class Pace:
    """Number and length of the rounds. There are as many paced runs of each kind, about as long."""

    rounds: int
    round_s: float


@dataclass(frozen=True, slots=True)
class Round:
    """One round of one forwarder.

    packets: datagrams moved; a datagram and its answer are two. waited_ns: time in which the forwarder was ready to
    run and waited for its core.
    """

    packets: int
    received: int
    lost: int
    elapsed_s: float
    cpu_ns: int
    waited_ns: int
    user_ticks: int
    system_ticks: int


@dataclass(frozen=True, slots=True)
class Paced:
    """Runs at a fixed rate.

    most: at 0.8 of the forwarder's saturation, to measure loss. half: at half of it, to measure latency.
    direct: at the same rate as half, but directly to the servers; the difference is the forwarder's own latency.
    """

    most: list[Run]
    half: list[Run]
    direct: list[Run]


@dataclass(frozen=True, slots=True)
class Sessions:
    """Memory in octets.

    before: resident, with one session. resident, slab: growth when all sessions were open.
    """

    before: int
    resident: int
    slab: int


@dataclass(slots=True)
class Row:
    """All measurements of one forwarder at one point. missing: the reason if there are none."""

    axis: str
    label: str
    forwarder: str
    point: Point
    missing: str | None = None
    rounds: list[Round] = field(default_factory=list)
    sessions: Sessions | None = None
    paced: Paced | None = None


@dataclass(slots=True)
class _Entry:
    row: Row
    load: Load
    running: Running
    count: int = 0


class Bench:
    """Measurement of points. folder: for files of connection IDs, compiled programs and configurations."""

    def __init__(self, folder: Path, program: Path, pace: Pace) -> None:
        """Set the folder, the load program and the duration."""
        self._folder = folder
        self._program = program
        self._pace = pace
        self._places = 0

    def measure(self, rows: Sequence[tuple[Row, Forwarder]], *, paced: bool = False) -> None:
        """Fill in the rows; their forwarders take turns. paced: measure loss and latency too."""
        with ExitStack() as stack:
            entries = []
            for row, forwarder in rows:
                try:
                    entries.append(stack.enter_context(self._entry(row, forwarder)))
                except Missing as error:
                    row.missing = str(error)
            for entry in entries:
                self._open_sessions(entry)
            for _ in range(self._pace.rounds):
                for entry in entries:
                    entry.row.rounds.append(_round(entry))
            if paced:
                self._pace_all(entries)

    @contextmanager
    def _entry(self, row: Row, forwarder: Forwarder) -> Iterator[_Entry]:
        self._places += 1
        folder = self._folder / f"place-{self._places}"
        folder.mkdir()
        port = forwarder_port()
        with load_running(self._program, row.point, write_cids(row.point, self._folder), port) as load:
            place = Place(folder, port, load.backends)
            with forwarder_running(forwarder, place, load) as running:
                yield _Entry(row, load, running)

    def _open_sessions(self, entry: _Entry) -> None:
        """Open every flow's session, then set how many datagrams fill a round."""
        before = memory(entry.running.pids)
        entry.load.closed(WINDOW, entry.row.point.flows * entry.row.point.burst)
        after = memory(entry.running.pids)
        entry.row.sessions = Sessions(before.resident, after.resident - before.resident, after.slab - before.slab)
        trial = entry.load.closed(WINDOW, TRIAL)
        entry.count = int(trial.received / trial.elapsed_s * self._pace.round_s)
        if entry.row.point.fresh:
            entry.count = min(entry.count, entry.load.unsent // (self._pace.rounds + 1))

    def _pace_all(self, entries: Sequence[_Entry]) -> None:
        if not entries:
            return
        point = entries[0].row.point
        with load_running(self._program, point, write_cids(point, self._folder), 0) as direct:
            for entry in entries:
                entry.row.paced = Paced([], [], [])
            for _ in range(self._pace.rounds):
                for entry in entries:
                    self._pace_one(entry, direct)

    def _pace_one(self, entry: _Entry, direct: Load) -> None:
        assert entry.row.paced is not None, "_pace_all sets it"
        rate = statistics.median(round_.received / round_.elapsed_s for round_ in entry.row.rounds)
        count = int(rate * self._pace.round_s)
        entry.row.paced.most.append(entry.load.paced(rate * MOST, int(count * MOST)))
        entry.row.paced.half.append(entry.load.paced(rate * HALF, int(count * HALF)))
        entry.row.paced.direct.append(direct.paced(rate * HALF, int(count * HALF)))


def _round(entry: _Entry) -> Round:
    before = cpu(entry.running.pids)
    run = entry.load.closed(WINDOW, entry.count)
    used = cpu(entry.running.pids) - before
    assert not (entry.row.point.fresh and run.repeated), "the rounds are shortened to the number of IDs"
    return Round(
        packets=run.received * (2 if entry.row.point.answered else 1),
        received=run.received,
        lost=run.sent - run.received,
        elapsed_s=run.elapsed_s,
        cpu_ns=used.total_ns,
        waited_ns=used.waited_ns,
        user_ticks=used.user_ticks,
        system_ticks=used.system_ticks,
    )
