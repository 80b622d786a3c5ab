"""Sums of the counters over workers. The layout is in counters.py."""

from collections.abc import Sequence

from qlb.routing.counters import (
    BACKEND,
    BACKEND_SEND_ERRORS,
    BACKEND_SLOTS,
    CONFIG_LAST_SEEN_MS,
    LAST_SEEN_MS,
    LATENCY,
    LATENCY_BUCKETS,
    LATENCY_SLOTS,
    OUTCOME,
    RETURN_SEND_ERRORS,
    RETURNED,
    SEND_ERROR_KINDS,
    TOO_LARGE_BYTES,
    UNCONFIGURED,
    UNCONFIGURED_LAST_SEEN_MS,
    UNKNOWN,
    UNKNOWN_LAST_SEEN_MS,
    BackendCounts,
    Counters,
    Latency,
    Sample,
    UnconfiguredCounts,
)
from qlb.routing.outcomes import CONFIG_IDS, OUTCOMES


def total(workers: Sequence[Counters], slot: int) -> int:
    """Return one slot, summed over workers."""
    return sum(counters.slots[slot] for counters in workers)


def total_outcomes(workers: Sequence[Counters]) -> tuple[int, ...]:
    """Return packets by outcome, in the order of OUTCOMES."""
    return tuple(total(workers, OUTCOME + outcome) for outcome in range(len(OUTCOMES)))


def total_return_send_errors(workers: Sequence[Counters]) -> dict[str, int]:
    """Return failed calls to send to clients by cause, all of SEND_ERROR_KINDS."""
    return {kind: total(workers, RETURN_SEND_ERRORS + number) for number, kind in enumerate(SEND_ERROR_KINDS)}


def total_backend_send_errors(workers: Sequence[Counters], index: int) -> dict[str, int]:
    """Return failed calls to send to one backend by cause, all of SEND_ERROR_KINDS."""
    at = BACKEND + BACKEND_SLOTS * index + BACKEND_SEND_ERRORS
    return {kind: total(workers, at + number) for number, kind in enumerate(SEND_ERROR_KINDS)}


def last_too_large_bytes(workers: Sequence[Counters], index: int) -> int:
    """Return the octets of a datagram that was too large for the path to one backend; 0 if there was none."""
    at = BACKEND + BACKEND_SLOTS * index + TOO_LARGE_BYTES
    return max((counters.slots[at] for counters in workers), default=0)


def total_backend(workers: Sequence[Counters], index: int) -> BackendCounts:
    """Return one backend's counts."""
    at = BACKEND + BACKEND_SLOTS * index
    by_cid, by_flow, by_fallback = (total(workers, at + route) for route in range(3))
    last_seen_ms = max((counters.slots[at + LAST_SEEN_MS] for counters in workers), default=0)
    return BackendCounts((by_cid, by_flow, by_fallback), total(workers, at + RETURNED), last_seen_ms)


def total_latency(workers: Sequence[Counters], direction: int) -> Latency:
    """Return the samples of the added latency. direction: index in DIRECTIONS."""
    at = LATENCY + LATENCY_SLOTS * direction
    buckets = tuple(total(workers, at + bucket) for bucket in range(LATENCY_BUCKETS))
    return Latency(buckets, total(workers, at + LATENCY_BUCKETS))


def config_last_seen_ms(workers: Sequence[Counters], config_id: int) -> int:
    """Return when an ID of a CID config was last routed: milliseconds of the monotonic clock, 0 = never."""
    assert 0 <= config_id < CONFIG_IDS
    return max((counters.slots[CONFIG_LAST_SEEN_MS + config_id] for counters in workers), default=0)


def total_unconfigured(workers: Sequence[Counters], config_id: int) -> UnconfiguredCounts:
    """Return the packets with a config ID while it was not configured."""
    assert 0 <= config_id < CONFIG_IDS
    at = UNCONFIGURED_LAST_SEEN_MS + config_id
    last_seen_ms = max((counters.slots[at] for counters in workers), default=0)
    return UnconfiguredCounts(total(workers, UNCONFIGURED + config_id), last_seen_ms)


def total_unknown(workers: Sequence[Counters], config_id: int) -> UnconfiguredCounts:
    """Return the packets with IDs of a CID config that decode to a server ID of no backend."""
    assert 0 <= config_id < CONFIG_IDS
    at = UNKNOWN_LAST_SEEN_MS + config_id
    last_seen_ms = max((counters.slots[at] for counters in workers), default=0)
    return UnconfiguredCounts(total(workers, UNKNOWN + config_id), last_seen_ms)


def last_sample(workers: Sequence[Counters], outcome: int) -> Sample:
    """Return the latest of all workers' samples of one outcome."""
    none = Sample(b"", 0, 0)
    return max((counters.sample(outcome) for counters in workers), key=lambda sample: sample.seen_ms, default=none)
