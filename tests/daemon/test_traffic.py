"""Rates and silences of the traffic, from counters and a clock that the test sets."""

from dataclasses import dataclass

import pytest

from qlb.daemon.rows import BackendRows
from qlb.daemon.traffic import INTERVAL_S, WINDOW_S, Refusals, Traffic
from qlb.health.verdict import Exchange
from qlb.routing.counters import CPU_NS, SEND_ERROR_KINDS, SIZE_BYTES, Counters
from qlb.routing.outcomes import BY_FALLBACK, DROP_EMPTY, NO_CONFIG, unroutable

NAMES = ("a", "b")


@dataclass
class Clock:
    """A clock that a test sets, in seconds."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """Return a clock that does not move by itself."""
    return Clock()


@pytest.fixture
def workers() -> list[Counters]:
    """Return the counters of two workers."""
    return [Counters(bytearray(SIZE_BYTES)) for _ in range(2)]


@pytest.fixture
def traffic(workers: list[Counters], clock: Clock) -> Traffic:
    """Return the traffic of both workers."""
    return Traffic(lambda: workers, now=clock)


def _count(worker: Counters, clock: Clock, outcome: int, index: int, packets: int = 1) -> None:
    for _ in range(packets):
        worker.count(outcome, index, int(clock.now_s * 1000))


def test_before_the_first_packet(traffic: Traffic) -> None:
    """Before any packet, rates are 0 and silences None. So are those of backends that are unknown."""
    assert (traffic.backend_rate("a"), traffic.config_rate(1)) == (0.0, 0.0)
    assert (traffic.backend_silence_s("a"), traffic.config_silence_s(1)) == (None, None)
    traffic.note(NAMES[:1])
    assert traffic.backend_silence_s("a") is None
    assert (traffic.backend_rate("nobody"), traffic.backend_silence_s("nobody")) == (0.0, None)


def test_rates_add_up_workers_and_routes(traffic: Traffic, workers: list[Counters], clock: Clock) -> None:
    """A rate adds up all workers and routes, for each backend and each CID config."""
    traffic.note(NAMES)
    _count(workers[0], clock, 1, 0, 30)
    _count(workers[1], clock, 2, 1, 10)
    _count(workers[1], clock, unroutable(BY_FALLBACK, NO_CONFIG), 0, 20)
    _count(workers[1], clock, DROP_EMPTY, -1, 5)
    clock.now_s += 2
    traffic.note(NAMES)
    assert (traffic.backend_rate("a"), traffic.backend_rate("b")) == (25.0, 5.0)
    assert (traffic.config_rate(1), traffic.config_rate(2), traffic.config_rate(3)) == (15.0, 5.0, 0.0)


def test_a_rate_covers_the_last_seconds(traffic: Traffic, workers: list[Counters], clock: Clock) -> None:
    """A rate covers the last seconds only. Packets before that window do not count."""
    traffic.note(NAMES[:1])
    _count(workers[0], clock, 1, 0, 1000)
    for _ in range(round(WINDOW_S / INTERVAL_S) + 1):
        clock.now_s += INTERVAL_S
        traffic.note(NAMES[:1])
        _count(workers[0], clock, 1, 0, 3)
    assert traffic.backend_rate("a") == pytest.approx(3 / INTERVAL_S, rel=0.2)


def test_a_silence_begins_with_the_last_packet_of_all_workers(
    traffic: Traffic, workers: list[Counters], clock: Clock
) -> None:
    """A silence begins with the last packet of any worker. For a CID config, only packets by its own IDs count."""
    _count(workers[0], clock, 1, 0)
    clock.now_s += 10
    _count(workers[1], clock, unroutable(BY_FALLBACK, NO_CONFIG), 0)
    traffic.note(NAMES[:1])
    clock.now_s += 5
    assert traffic.backend_silence_s("a") == pytest.approx(5)
    assert traffic.config_silence_s(1) == pytest.approx(15)


def test_a_backend_that_came_later(traffic: Traffic, workers: list[Counters], clock: Clock) -> None:
    """A new backend's rate starts with the first note that contains it."""
    traffic.note(NAMES[:1])
    _count(workers[0], clock, 1, 1, 10)
    clock.now_s += 1
    traffic.note(NAMES)
    assert traffic.backend_rate("b") == 10.0


def test_unconfigured_ids(traffic: Traffic, workers: list[Counters], clock: Clock) -> None:
    """Packets with config IDs that are not configured are counted for each ID, apart from those of CID configs."""
    workers[1].count_unconfigured(4, int(clock.now_s * 1000))
    traffic.note(NAMES)
    clock.now_s += 3
    assert traffic.unconfigured_silence_s(4) == pytest.approx(3)
    assert (traffic.unconfigured_silence_s(3), traffic.config_silence_s(4)) == (None, None)


def test_exchanges(traffic: Traffic, workers: list[Counters], clock: Clock) -> None:
    """Exchanges add up all workers and routes at the last note. An unknown name has none."""
    assert traffic.exchanged("a") == Exchange(0, 0)
    for worker in workers:
        _count(worker, clock, unroutable(BY_FALLBACK, NO_CONFIG), 1, 3)
        worker.count_returned(1, 100)
    assert traffic.exchanged("b") == Exchange(0, 0)
    traffic.note(NAMES)
    assert traffic.exchanged("a") == traffic.exchanged("nobody") == Exchange(0, 0, clock.now_s)
    assert traffic.exchanged("b") == Exchange(6, 2, clock.now_s)


def test_refusals_are_returned_once(workers: list[Counters]) -> None:
    """A refused send to a backend is returned once, from any worker. Other causes and sends to clients are not."""
    refusals = Refusals(lambda: workers)
    refused, other = SEND_ERROR_KINDS.index("refused"), SEND_ERROR_KINDS.index("would_block")
    assert refusals.look(NAMES) == []
    workers[1].count_send_error(refused, 1)
    workers[0].count_send_error(other, 0)
    workers[0].count_send_error(refused)
    assert refusals.look(NAMES) == ["b"]
    assert refusals.look(NAMES) == []
    workers[0].count_send_error(refused, 2)
    workers[0].count_send_error(refused, 1)
    assert refusals.look((*NAMES, "c")) == ["b", "c"]
    assert Refusals(lambda: ()).look(NAMES) == []


def test_unconfigured_ids_that_persist(traffic: Traffic, workers: list[Counters], clock: Clock) -> None:
    """A few packets, or one burst, do not count as sustained. Packets during a whole minute do."""
    for second in range(62):
        for config_id in (2, *(3 for _ in range(second == 0)), *(4 for _ in range(100 * (second == 30)))):
            workers[1].count_unconfigured(config_id, int(clock.now_s * 1000))
        traffic.note(NAMES)
        clock.now_s += 1
    assert [traffic.is_unconfigured_sustained(config_id) for config_id in (2, 3, 4, 5)] == [True, False, False, False]


def test_a_name_at_an_index_that_had_another_name(traffic: Traffic, workers: list[Counters], clock: Clock) -> None:
    """A new name at a used index has neither the packets nor the silence of the name before."""
    rows = BackendRows()
    traffic = Traffic(lambda: workers, rows, now=clock)
    rows.follow(workers, NAMES)
    _count(workers[0], clock, 1, 0, 500)
    traffic.note(NAMES)
    for names in (("", "b"), ("c", "b")):
        clock.now_s += 1
        rows.follow(workers, names)
        traffic.note(names)
    assert (traffic.backend_rate("c"), traffic.backend_silence_s("c")) == (0.0, None)
    assert (traffic.backend_rate("a"), traffic.backend_silence_s("a")) == (0.0, None)
    _count(workers[1], clock, 1, 0, 20)
    clock.now_s += 2
    traffic.note(("c", "b"))
    assert traffic.backend_rate("c") == 5.0
    assert traffic.backend_silence_s("c") == pytest.approx(2)


def test_the_busy_share_of_a_worker(traffic: Traffic, workers: list[Counters], clock: Clock) -> None:
    """It is the worker's processor time in the window, divided by the window. An unknown worker uses none."""
    assert traffic.busy_share(0) == 0.0
    for _ in range(20):
        traffic.note(NAMES)
        clock.now_s += INTERVAL_S
        workers[0].slots[CPU_NS] += int(0.25 * INTERVAL_S * 1e9)
        workers[1].slots[CPU_NS] += int(1.0 * INTERVAL_S * 1e9)
    assert [traffic.busy_share(number) for number in range(3)] == pytest.approx([0.25, 1.0, 0.0])


def test_bounds_of_notices(traffic: Traffic, workers: list[Counters], clock: Clock) -> None:
    """Packets with an unknown config ID, above 1 % for minutes, exceed their bound until a minute has passed."""
    found = []
    for second in range(300):
        workers[second % 2].count_received(100, 0)
        for _ in range(2 if second < 210 else 0):
            workers[0].count_unconfigured(4, int(clock.now_s * 1000))
        traffic.note(NAMES)
        traffic.check_bounds(kernel_dropped=second if second < 100 else 100)
        found.append((traffic.unconfigured_over(4) > 0, traffic.kernel_drops.over > 0))
        clock.now_s += 1
    ids, drops = zip(*found, strict=True)
    assert (ids.index(True), drops.index(True)) == (181, 1)
    assert (ids[210], ids[-1], drops[150], drops[-1]) == (True, False, True, False)
    assert traffic.unconfigured_over(3) == 0.0


def test_bounds_before_the_first_note(traffic: Traffic) -> None:
    """Before the first note, no bound is exceeded."""
    traffic.check_bounds(kernel_dropped=9)
    assert (traffic.kernel_drops.over, traffic.unconfigured_over(0)) == (0.0, 0.0)
