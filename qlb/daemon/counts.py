"""The parts of a reading that need only the workers' counters."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from qlb.observe import figures
from qlb.routing import counters as layout
from qlb.routing import sums
from qlb.routing.counters import Counters
from qlb.routing.outcomes import OUTCOMES

_NS: Final = 1_000_000_000
_US: Final = 1_000_000


def latency(workers: Sequence[Counters]) -> tuple[figures.LatencyReading, ...]:
    """Return the samples of the added latency, by direction, in buckets that include the smaller ones."""
    bounds = (*(bound / _US for bound in layout.LATENCY_BOUNDS_US), math.inf)
    rows = []
    for number, direction in enumerate(layout.DIRECTIONS):
        found = sums.total_latency(workers, number)
        buckets = tuple(zip(bounds, accumulate(found.buckets), strict=True))
        rows.append(figures.LatencyReading(direction=direction, buckets=buckets, sum_s=found.sum_ns / _NS))
    return tuple(rows)


def samples(workers: Sequence[Counters], now_s: float) -> dict[str, figures.SampleReading]:
    """Return the last dropped datagram of each reason to drop."""
    found = ((outcome.reason, sums.last_sample(workers, number)) for number, outcome in enumerate(OUTCOMES))
    return {
        reason: figures.SampleReading(octets=sample.octets, length=sample.length, seen_s=now_s - sample.seen_ms / 1000)
        for reason, sample in found
        if sample.seen_ms
    }


def by_reason(packets: Sequence[int], *, dropped: bool) -> dict[str, int]:
    """Return packets by the reason of their outcome, for drops or for all other outcomes.

    packets: by outcome, in the order of OUTCOMES.
    """
    counts: Counter[str] = Counter()
    for outcome, count in zip(OUTCOMES, packets, strict=True):
        if outcome.reason and (outcome.route == "drop") is dropped:
            counts[outcome.reason] += count
    return dict(counts)


def since(moment_ms: int, now_s: float) -> float | None:
    """Return the seconds since a moment of the monotonic clock; None for 0, which means never."""
    return max(now_s - moment_ms / 1000, 0.0) if moment_ms else None
