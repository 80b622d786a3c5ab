"""The sums of the BPF program's counters, which each CPU counts separately, in the slots that all planes share.

The program stores times in ticks, and the counters of backends in their own struct (layout.h, counters.h). This module
converts them to milliseconds and to the slots of qlb/routing/counters.py.
"""

import time
from collections.abc import Sequence
from typing import Final

from qlb.dataplane.xdp.bpf_object import BpfMap
from qlb.dataplane.xdp.layout import BACKEND
from qlb.dataplane.xdp.libbpf import possible_cpus
from qlb.routing import counters as slots
from qlb.routing.counters import SIZE_BYTES, Counters
from qlb.routing.outcomes import CONFIG_IDS, OUTCOMES, ROUTE_OF

_MONOTONIC_COARSE: Final = 6
"""CLOCK_MONOTONIC_COARSE: its resolution is the length of a tick."""
_NS: Final = 1_000_000_000
_NS_PER_MS: Final = 1_000_000


def tick_ns() -> int:
    """Return the length of a tick: 1 to 10 ms, a setting of the kernel's build."""
    return round(time.clock_getres(_MONOTONIC_COARSE) * _NS)


class Clock:
    """The conversion from ticks to milliseconds of the monotonic clock."""

    def __init__(self, tick_ns: int, now_ticks: int, now_ns: int) -> None:
        """now_ticks, now_ns: the same moment on both clocks."""
        self._tick_ns = tick_ns
        self._now_ticks = now_ticks
        self._now_ns = now_ns

    def milliseconds(self, ticks: int) -> int:
        """Return a time in milliseconds. 0 stays 0 and means never."""
        return (self._now_ns - (self._now_ticks - ticks) * self._tick_ns) // _NS_PER_MS if ticks else 0


SAMPLES: Final = len(OUTCOMES)
_WORD_BYTES: Final = 8
_LAST_SEEN: Final = BACKEND.offsets["last_seen"] // _WORD_BYTES
"""The index of the time among a backend's words. The words before it are the counters of _COUNTED."""
_COUNTED: Final = (*(slots.FORWARDED + route for route in range(3)), slots.FORWARDED_BYTES, slots.NEW_FLOWS)
"""The slot of each word that counts."""
_TIMES: Final = frozenset(
    first + config_id
    for first in (slots.CONFIG_LAST_SEEN_MS, slots.UNCONFIGURED_LAST_SEEN_MS, slots.UNKNOWN_LAST_SEEN_MS)
    for config_id in range(CONFIG_IDS)
)


class KernelCounters:
    """The sums. If a larger map replaces the one of backends, retire() adds the old map's counts to the sums."""

    def __init__(self) -> None:
        """Start at zero."""
        self.sums = Counters(bytearray(SIZE_BYTES))
        self._cpus = possible_cpus()
        self._retired: list[list[int]] = []

    def read(self, totals: BpfMap, backends: BpfMap, samples: BpfMap, count: int, clock: Clock) -> Counters:
        """Update and return the sums. count: the number of backend indexes so far. Raises OSError."""
        self._read_totals(totals.read_per_cpu(), clock)
        for index, own in enumerate(self._by_backend(backends, count)):
            retired = self._retired[index] if index < len(self._retired) else None
            self._write_backend(index, _merged(own, retired) if retired else own, clock)
        self._read_samples(samples.read_per_cpu(), clock)
        return self.sums

    def retire(self, backends: BpfMap, count: int) -> None:
        """Add the counts of a map that the program does not use any more. Raises OSError."""
        rows = self._by_backend(backends, count)
        self._retired = [
            _merged(own, self._retired[index]) if index < len(self._retired) else own for index, own in enumerate(rows)
        ]

    def _read_totals(self, cells: memoryview, clock: Clock) -> None:
        for slot in range(slots.BACKEND):
            values = cells[slot :: slots.BACKEND].tolist()
            self.sums.slots[slot] = clock.milliseconds(max(values)) if slot in _TIMES else sum(values)

    def _by_backend(self, backends: BpfMap, count: int) -> list[list[int]]:
        """Return for each index the counters of _COUNTED and the time of the last packet in ticks."""
        cells, width = backends.read_per_cpu(), BACKEND.size_bytes // _WORD_BYTES
        rows = []
        for index in range(count):
            own = cells[index * self._cpus * width : (index + 1) * self._cpus * width].tolist()
            counts = [sum(own[word::width]) for word in range(_LAST_SEEN)]
            rows.append([*counts, max(own[_LAST_SEEN::width])])
        return rows

    def _write_backend(self, index: int, row: Sequence[int], clock: Clock) -> None:
        at = slots.BACKEND + slots.BACKEND_SLOTS * index
        for slot, count in zip(_COUNTED, row[:_LAST_SEEN], strict=True):
            self.sums.slots[at + slot] = count
        self.sums.slots[at + slots.LAST_SEEN_MS] = clock.milliseconds(row[_LAST_SEEN])

    def _read_samples(self, cells: memoryview, clock: Clock) -> None:
        width = slots.SAMPLE_SLOTS
        for outcome, route in enumerate(ROUTE_OF):
            if route >= 0:
                continue
            own = cells[outcome * self._cpus * width : (outcome + 1) * self._cpus * width]
            rows = [own[cpu * width : (cpu + 1) * width].tolist() for cpu in range(self._cpus)]
            seen, *rest = max(rows, key=lambda row: row[0])
            at = slots.SAMPLE + width * outcome
            for slot, value in enumerate((clock.milliseconds(seen), *rest)):
                self.sums.slots[at + slot] = value


def _merged(row: Sequence[int], retired: Sequence[int]) -> list[int]:
    counts = [a + b for a, b in zip(row[:_LAST_SEEN], retired[:_LAST_SEEN], strict=True)]
    return [*counts, max(row[_LAST_SEEN], retired[_LAST_SEEN])]
