"""Rates and silences, from counters that a clock of the test's own goes with."""

from dataclasses import dataclass

import pytest

from qlb.daemon.rows import BackendRows
from qlb.daemon.traffic import INTERVAL_S, WINDOW_S, Refusals, Traffic
from qlb.health.verdict import Exchange
from qlb.routing.counters import SEND_ERROR_KINDS, SIZE_BYTES, Counters
from qlb.routing.outcomes import BY_FALLBACK, DROP_EMPTY, NO_CONFIG, unroutable

NAMES = ("a", "b")


@dataclass
class Clock:
    """Seconds that go on when they are told to."""

    now_s: float = 1000.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def workers() -> list[Counters]:
    """The counters of two workers."""
    return [Counters(bytearray(SIZE_BYTES)) for _ in range(2)]


@pytest.fixture
def traffic(workers: list[Counters], clock: Clock) -> Traffic:
    """What is under test."""
    return Traffic(lambda: workers, now=clock)


def _count(worker: Counters, clock: Clock, outcome: int, index: int, packets: int = 1) -> None:
    for _ in range(packets):
        worker.count(outcome, index, int(clock.now_s * 1000))


def test_before_the_first_packet(traffic: Traffic) -> None:
    """Nothing is known and nothing is asked for: no rate, no silence; a backend that is not noted yet has none."""
    assert (traffic.backend_rate("a"), traffic.config_rate(1)) == (0.0, 0.0)
    assert (traffic.backend_silence_s("a"), traffic.config_silence_s(1)) == (None, None)
    traffic.note(NAMES[:1])
    assert traffic.backend_silence_s("a") is None
    assert (traffic.backend_rate("nobody"), traffic.backend_silence_s("nobody")) == (0.0, None)


def test_rates_add_up_workers_and_routes(traffic: Traffic, workers: list[Counters], clock: Clock) -> None:
    """By ID and by fallback, of both workers; each backend and each config for itself."""
    traffic.note(NAMES)
    _count(workers[0], clock, 1, 0, 30)
    _count(workers[1], clock, 2, 1, 10)
    _count(workers[1], clock, unroutable(BY_FALLBACK, NO_CONFIG), 0, 20)
    _count(workers[1], clock, DROP_EMPTY, -1, 5)
    clock.now_s += 2
    traffic.note(NAMES)
    assert (traffic.backend_rate("a"), traffic.backend_rate("b")) == (25.0, 5.0)
    assert (traffic.config_rate(1), traffic.config_rate(2), traffic.config_rate(3)) == (15.0, 5.0, 0.0)


def test_a_rate_is_of_the_last_seconds(traffic: Traffic, workers: list[Counters], clock: Clock) -> None:
    """What was before the window does not count any more."""
    traffic.note(NAMES[:1])
    _count(workers[0], clock, 1, 0, 1000)
    for _ in range(round(WINDOW_S / INTERVAL_S) + 1):
        clock.now_s += INTERVAL_S
        traffic.note(NAMES[:1])
        _count(workers[0], clock, 1, 0, 3)
    assert traffic.backend_rate("a") == pytest.approx(3 / INTERVAL_S, rel=0.2)


def test_silence_is_since_the_latest_of_all_workers(traffic: Traffic, workers: list[Counters], clock: Clock) -> None:
    """Whoever saw it last, by whatever route; a config's ends with its own IDs alone."""
    _count(workers[0], clock, 1, 0)
    clock.now_s += 10
    _count(workers[1], clock, unroutable(BY_FALLBACK, NO_CONFIG), 0)
    traffic.note(NAMES[:1])
    clock.now_s += 5
    assert traffic.backend_silence_s("a") == pytest.approx(5)
    assert traffic.config_silence_s(1) == pytest.approx(15)


def test_a_backend_that_came_later(traffic: Traffic, workers: list[Counters], clock: Clock) -> None:
    """Its rate begins with the first note that has it."""
    traffic.note(NAMES[:1])
    _count(workers[0], clock, 1, 1, 10)
    clock.now_s += 1
    traffic.note(NAMES)
    assert traffic.backend_rate("b") == 10.0


def test_ids_that_nobody_configured(traffic: Traffic, workers: list[Counters], clock: Clock) -> None:
    """Each config ID for itself; what is configured is another matter."""
    workers[1].count_unconfigured(4, int(clock.now_s * 1000))
    traffic.note(NAMES)
    clock.now_s += 3
    assert traffic.unconfigured_silence_s(4) == pytest.approx(3)
    assert (traffic.unconfigured_silence_s(3), traffic.config_silence_s(4)) == (None, None)


def test_what_was_exchanged(traffic: Traffic, workers: list[Counters], clock: Clock) -> None:
    """Of all workers and ways, as of the last note; nothing before it, and nothing of a name that it does not know."""
    assert traffic.exchanged("a") == Exchange(0, 0)
    for worker in workers:
        _count(worker, clock, unroutable(BY_FALLBACK, NO_CONFIG), 1, 3)
        worker.count_returned(1)
    assert traffic.exchanged("b") == Exchange(0, 0)
    traffic.note(NAMES)
    assert traffic.exchanged("a") == traffic.exchanged("nobody") == Exchange(0, 0, clock.now_s)
    assert traffic.exchanged("b") == Exchange(6, 2, clock.now_s)


def test_refusals_are_told_once_each(workers: list[Counters]) -> None:
    """Those since the last look, of any worker; no other cause, and nothing on the way to clients."""
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


def test_ids_that_nobody_configured_and_that_keep_coming(
    traffic: Traffic, workers: list[Counters], clock: Clock
) -> None:
    """A few are anybody's, however often; a minute's worth of packets is some server's."""
    for second in range(62):
        for config_id in (2, *(3 for _ in range(second == 0)), *(4 for _ in range(100 * (second == 30)))):
            workers[1].count_unconfigured(config_id, int(clock.now_s * 1000))
        traffic.note(NAMES)
        clock.now_s += 1
    assert [traffic.is_unconfigured_sustained(config_id) for config_id in (2, 3, 4, 5)] == [True, False, False, False]


def test_a_name_at_an_index_that_had_another_name(traffic: Traffic, workers: list[Counters], clock: Clock) -> None:
    """It has neither the packets nor the silence of the one before."""
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
