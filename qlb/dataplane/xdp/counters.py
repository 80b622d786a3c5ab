"""What the BPF program has counted, on every CPU by itself, added up into the counters that all planes have.

The program counts times in nanoseconds (core/counters.h has the slots); here they become milliseconds.
"""

from collections.abc import Sequence
from typing import Final

from qlb.dataplane.xdp.libbpf import BpfMap, possible_cpus
from qlb.routing import counters as slots
from qlb.routing.counters import SIZE_BYTES, Counters
from qlb.routing.outcomes import CONFIGS, OUTCOMES, ROUTE_OF

SAMPLES: Final = len(OUTCOMES)
_NS_PER_MS: Final = 1_000_000
_CONFIGS_SEEN: Final = range(slots.CONFIG_LAST_SEEN_MS, slots.CONFIG_LAST_SEEN_MS + CONFIGS)


class KernelCounters:
    """The sums. Maps may be exchanged for larger ones: what the old ones have counted goes on to be counted."""

    def __init__(self) -> None:
        """Begin at zero."""
        self.sums = Counters(bytearray(SIZE_BYTES))
        self._cpus = possible_cpus()
        self._retired: list[list[int]] = []

    def read(self, totals: BpfMap, backend_counts: BpfMap, samples: BpfMap, backends: int) -> Counters:
        """Add up. backends: how many indexes there have been. Raises OSError."""
        self._read_totals(totals.read_per_cpu())
        for index, counts in enumerate(self._by_backend(backend_counts, backends)):
            retired = self._retired[index] if index < len(self._retired) else None
            self._write_backend(index, _merged(counts, retired) if retired else counts)
        self._read_samples(samples.read_per_cpu())
        return self.sums

    def retire(self, backend_counts: BpfMap, backends: int) -> None:
        """Take over what a map has counted that nothing counts in any more. Raises OSError."""
        counts = self._by_backend(backend_counts, backends)
        self._retired = [
            _merged(own, self._retired[index]) if index < len(self._retired) else own
            for index, own in enumerate(counts)
        ]

    def _read_totals(self, cells: memoryview) -> None:
        for slot in range(slots.BACKEND):
            values = cells[slot :: slots.BACKEND].tolist()
            self.sums.slots[slot] = max(values) // _NS_PER_MS if slot in _CONFIGS_SEEN else sum(values)

    def _by_backend(self, backend_counts: BpfMap, backends: int) -> list[list[int]]:
        cells, width = backend_counts.read_per_cpu(), slots.BACKEND_SLOTS
        rows = []
        for index in range(backends):
            own = cells[index * self._cpus * width : (index + 1) * self._cpus * width].tolist()
            row = [sum(own[slot::width]) for slot in range(width)]
            row[slots.LAST_SEEN_MS] = max(own[slots.LAST_SEEN_MS :: width])
            rows.append(row)
        return rows

    def _write_backend(self, index: int, counts: Sequence[int]) -> None:
        at = slots.BACKEND + slots.BACKEND_SLOTS * index
        for slot, value in enumerate(counts):
            self.sums.slots[at + slot] = value // _NS_PER_MS if slot == slots.LAST_SEEN_MS else value

    def _read_samples(self, cells: memoryview) -> None:
        width = slots.SAMPLE_SLOTS
        for outcome, route in enumerate(ROUTE_OF):
            if route >= 0:
                continue
            own = cells[outcome * self._cpus * width : (outcome + 1) * self._cpus * width]
            rows = [own[cpu * width : (cpu + 1) * width].tolist() for cpu in range(self._cpus)]
            seen_ns, *rest = max(rows, key=lambda row: row[0])
            at = slots.SAMPLE + width * outcome
            for slot, value in enumerate((seen_ns // _NS_PER_MS, *rest)):
                self.sums.slots[at + slot] = value


def _merged(counts: Sequence[int], retired: Sequence[int]) -> list[int]:
    row = [a + b for a, b in zip(counts, retired, strict=True)]
    row[slots.LAST_SEEN_MS] = max(counts[slots.LAST_SEEN_MS], retired[slots.LAST_SEEN_MS])
    return row
