"""Counters: one layout, sums over workers, and correct totals after a worker was killed."""

from qlb.routing import counters as c
from qlb.routing.counters import SIZE_BYTES, Counters
from qlb.routing.outcomes import (
    BY_FALLBACK,
    BY_FOUR_TUPLE,
    CONFIG_IDS,
    DROP_EMPTY,
    DROP_WORKER_DIED,
    NO_CONFIG,
    OUTCOMES,
    unroutable,
)
from qlb.routing.sums import (
    config_last_seen_ms,
    last_sample,
    last_too_large_bytes,
    total,
    total_backend,
    total_backend_send_errors,
    total_latency,
    total_outcomes,
    total_return_send_errors,
    total_unconfigured,
    total_unknown,
)


def test_outcomes_have_names_of_their_own() -> None:
    """Outcome names are unique, and their routes and reasons are the labels of the metrics."""
    assert len({outcome.name for outcome in OUTCOMES}) == len(OUTCOMES)
    assert {outcome.route for outcome in OUTCOMES} == {"cid", "flow", "fallback", "drop"}
    assert all(bool(outcome.reason) == (outcome.route != "cid") for outcome in OUTCOMES)
    assert [outcome.config_id for outcome in OUTCOMES[:8]] == [0, 1, 2, 3, 4, 5, 6, -1]


def test_a_packet_is_counted_by_outcome_backend_and_config() -> None:
    """Each route has its own counter and updates the last-seen times; a drop counts for no backend."""
    counters = Counters(bytearray(SIZE_BYTES))
    counters.count(3, 7, 1000, 1200)
    counters.count(unroutable(BY_FOUR_TUPLE, NO_CONFIG), 7, 2000, 50)
    counters.count(unroutable(BY_FALLBACK, NO_CONFIG), 7, 3000, 1)
    counters.count_new_flow(7)
    counters.count(DROP_EMPTY, -1, 4000)
    counters.count_returned(7, 300)
    assert total_backend([counters], 7) == ((1, 1, 1), 1, 3000)
    assert total_backend([counters], 6) == ((0, 0, 0), 0, 0)
    assert config_last_seen_ms([counters], 3) == 1000
    assert sum(total_outcomes([counters])) == 4
    at = c.BACKEND + 7 * c.BACKEND_SLOTS
    assert [counters.slots[at + slot] for slot in (c.FORWARDED_BYTES, c.RETURNED_BYTES, c.NEW_FLOWS)] == [1251, 300, 1]


def test_sums_over_workers() -> None:
    """Counts are summed over workers, and times are the latest."""
    workers = [Counters(bytearray(SIZE_BYTES)) for _ in range(3)]
    for number, counters in enumerate(workers):
        counters.count_received(1, 100)
        counters.count(3, 7, number)
    assert total(workers, c.PACKETS_RECEIVED) == 3
    assert total(workers, c.BYTES_RECEIVED) == 300
    assert total_backend(workers, 7) == ((3, 0, 0), 0, 2)
    assert total_backend([], 7) == ((0, 0, 0), 0, 0)
    assert config_last_seen_ms([], 3) == 0


def test_send_errors_are_no_packets() -> None:
    """Each cause has its own counters, for backends and for clients; no outcome changes."""
    workers = [Counters(bytearray(SIZE_BYTES)) for _ in range(2)]
    for counters in workers:
        for kind in range(len(c.SEND_ERROR_KINDS)):
            counters.count_send_error(kind, index=7, size_bytes=1452)
            counters.count_send_error(kind)
    workers[1].count_send_error(2)
    workers[1].count_send_error(3, index=7, size_bytes=1460)
    assert total_backend_send_errors(workers, 7) == dict.fromkeys(c.SEND_ERROR_KINDS, 2) | {"too_large": 3}
    assert total_backend_send_errors(workers, 8) == dict.fromkeys(c.SEND_ERROR_KINDS, 0)
    assert total_return_send_errors(workers) == dict.fromkeys(c.SEND_ERROR_KINDS, 2) | {"refused": 3}
    assert total(workers, c.SEND_ERRORS) == 34
    assert last_too_large_bytes(workers, 7) == 1460
    assert last_too_large_bytes([], 7) == 0
    assert sum(total_outcomes(workers)) == 0


def test_the_last_backend_fits() -> None:
    """The layout has slots for every backend index."""
    counters = Counters(bytearray(SIZE_BYTES))
    counters.count(0, c.MAX_BACKENDS - 1, 1)
    assert total_backend([counters], c.MAX_BACKENDS - 1).forwarded == (1, 0, 0)


def test_settle_accounts_for_the_packets_of_a_killed_worker() -> None:
    """Packets of a killed worker without an outcome count as dropped, once, and its sessions are gone."""
    counters = Counters(bytearray(SIZE_BYTES))
    counters.count_received(3, 30)
    counters.count(3, 7, 1)
    counters.slots[c.SESSIONS] = 5
    counters.slots[c.CPU_NS], counters.slots[c.RESIDENT_BYTES] = 7, 11
    assert counters.settle() == 2
    assert total_outcomes([counters])[DROP_WORKER_DIED] == 2
    assert counters.slots[c.SESSIONS] == counters.slots[c.RESIDENT_BYTES] == 0
    assert counters.slots[c.CPU_NS] == 7
    assert counters.settle() == 0


def test_counting_goes_on_in_the_same_memory() -> None:
    """A new worker adds to the counts in the memory of an old one."""
    memory = bytearray(SIZE_BYTES)
    Counters(memory).count_received(2, 20)
    Counters(memoryview(memory)).count_received(1, 10)
    assert Counters(memory).slots[c.PACKETS_RECEIVED] == 3


def test_the_last_sample_of_each_outcome_is_kept() -> None:
    """A sample has the first 64 octets and the length of the last datagram, without rests of earlier ones."""
    workers = [Counters(bytearray(SIZE_BYTES)) for _ in range(2)]
    assert last_sample(workers, DROP_EMPTY) == last_sample([], DROP_EMPTY) == (b"", 0, 0)
    workers[0].record_sample(DROP_WORKER_DIED, bytes(range(100)), 5)
    assert last_sample(workers, DROP_WORKER_DIED) == (bytes(range(64)), 100, 5)
    workers[1].record_sample(DROP_WORKER_DIED, b"short", 6)
    assert last_sample(workers, DROP_WORKER_DIED) == (b"short", 5, 6)
    workers[0].record_sample(DROP_WORKER_DIED, b"", 7)
    assert last_sample(workers, DROP_WORKER_DIED) == (b"", 0, 7)
    assert last_sample(workers, DROP_EMPTY).seen_ms == 0


def test_unconfigured_config_ids_are_counted_apart() -> None:
    """Config IDs without a CID config have packets and last-seen times, and change no outcome."""
    workers = [Counters(bytearray(SIZE_BYTES)) for _ in range(2)]
    workers[0].count_unconfigured(6, 2000)
    workers[1].count_unconfigured(6, 1000)
    workers[1].count_unconfigured(0, 3000)
    found = [total_unconfigured(workers, config_id) for config_id in range(CONFIG_IDS)]
    assert found == [(1, 3000), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (2, 2000)]
    assert total_unconfigured([], 6) == (0, 0)
    assert sum(total_outcomes(workers)) == 0


def test_samples_of_the_latency() -> None:
    """A sample is in the first bucket whose bound it does not exceed. A time that cannot be true is not counted."""
    workers = [Counters(bytearray(SIZE_BYTES)) for _ in range(2)]
    for counters in workers:
        for taken_ns in (0, 10_000, 10_001, 1_000_000_000, 1_000_000_001, -1, c.MAX_LATENCY_NS + 1):
            counters.count_latency(c.TO_CLIENT, taken_ns)
    found = total_latency(workers, c.TO_CLIENT)
    assert {bucket: samples for bucket, samples in enumerate(found.buckets) if samples} == {
        0: 4,
        1: 2,
        len(c.LATENCY_BOUNDS_US) - 1: 2,
        len(c.LATENCY_BOUNDS_US): 2,
    }
    assert found.sum_ns == 2 * (20_001 + 2_000_000_001)
    assert total_latency(workers, c.TO_BACKEND) == total_latency([], c.TO_BACKEND)
    assert sum(total_latency(workers, c.TO_BACKEND).buckets) == 0


def test_no_two_counters_share_a_slot() -> None:
    """The slots of a backend, and those after the backends, do not overlap."""
    errors = range(c.BACKEND_SEND_ERRORS, c.BACKEND_SEND_ERRORS + len(c.SEND_ERROR_KINDS))
    own = [*range(3), c.RETURNED, c.LAST_SEEN_MS, c.TOO_LARGE_BYTES, c.FORWARDED_BYTES, c.RETURNED_BYTES]
    own += [c.NEW_FLOWS, *errors]
    assert len(set(own)) == len(own)
    assert max(own) < c.BACKEND_SLOTS
    ends = [c.SAMPLE, c.RETURN_SEND_ERRORS, c.SHOWN, c.CPU_NS, c.RESIDENT_BYTES, c.LATENCY, c.SLOTS]
    assert ends == sorted(set(ends))
    assert c.RETURN_SEND_ERRORS + len(c.SEND_ERROR_KINDS) == c.SHOWN


def test_unknown_server_ids_are_counted_apart() -> None:
    """Unknown server IDs have packets and last-seen times, and change no outcome."""
    workers = [Counters(bytearray(SIZE_BYTES)) for _ in range(2)]
    workers[0].count_unknown(6, 2000)
    workers[1].count_unknown(6, 1000)
    workers[1].count_unknown(0, 3000)
    found = [total_unknown(workers, config_id) for config_id in range(CONFIG_IDS)]
    assert found == [(1, 3000), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (2, 2000)]
    assert [total_unconfigured(workers, config_id).packets for config_id in (0, 6)] == [0, 0]
    assert sum(total_outcomes(workers)) == 0


def test_shown_ids() -> None:
    """The IDs that servers show are counted by kind and backend, and the last wrong one is stored."""
    counters = Counters(bytearray(SIZE_BYTES))
    right, wrong, unroutable = range(3)
    last = c.MAX_BACKENDS - 1
    for kind, index, cid in (
        (right, 0, b"r"),
        (wrong, 0, b"first one"),
        (unroutable, 0, b""),
        (wrong, last, b"w" * 255),
    ):
        counters.count_shown(kind, index, cid)
    counters.count_unknown_of(last)
    assert counters.last_wrong_id(0) == b"first one"
    counters.count_shown(wrong, 0, b"second")
    assert list(counters.slots[c.SHOWN : c.SHOWN + 4]) == [1, 2, 1, 0]
    assert list(counters.slots[c.CPU_NS - c.SHOWN_SLOTS : c.CPU_NS - c.SHOWN_SLOTS + 4]) == [0, 1, 0, 1]
    assert [counters.last_wrong_id(index) for index in (0, 1, last)] == [b"second", b"", b"w" * c.SHOWN_ID_BYTES]
    assert counters.slots[c.WRONG_IDS] == 3
