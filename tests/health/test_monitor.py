"""Tests of the health monitor, driven probe by probe, without waiting for a clock."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from qlb.addresses import Endpoint
from qlb.errors import ConfigError
from qlb.health.monitor import HealthMonitor, Pace
from qlb.health.probe import Probe, ProbeResult, Target
from qlb.health.probes import assume_healthy, find_probe
from qlb.health.verdict import Exchange
from qlb.health.watch import BackendHealth

A = Target("a", Endpoint("192.0.2.1", 443))
B = Target("b", Endpoint("192.0.2.2", 443))
PATIENCE_S = 90.0


@dataclass(frozen=True)
class Settings:
    """A stand-in for the ``health`` section of a configuration."""

    probe: str = "asked"
    interval: float = 2.0
    timeout: float = 1.0
    rise: int = 2
    fall: int = 3
    all_failing: str = "obey"


class Asked:
    """A running probe."""

    def __init__(self, target: Target, timeout_s: float) -> None:
        """Start without a result."""
        self.target = target
        self.timeout_s = timeout_s
        self.result: asyncio.Future[ProbeResult] = asyncio.get_running_loop().create_future()


class Stage:
    """A monitor whose probes are answered by the test, with a clock that stands still and rests that take no time."""

    def __init__(self) -> None:
        """Start without backends."""
        self.asked: asyncio.Queue[Asked] = asyncio.Queue()
        self.changes: list[tuple[str, bool, str]] = []
        self.rests: list[float] = []
        self.unix_time = 1000.0
        self.listener: Callable[[str, bool, str], None] = lambda *_: None
        self.monitor = HealthMonitor(
            self._on_change,
            find=self._find,
            pace=Pace(now=lambda: 0.0, sleep=self._sleep, draw=lambda: 0.5),
            unix_time=lambda: self.unix_time,
        )

    def watch(self, settings: Settings | None = None, **targets: Target) -> None:
        """Apply settings and targets."""
        self.monitor.apply(settings or Settings(), targets)

    async def next(self) -> Asked:
        """Return the next probe that the monitor starts."""
        return await asyncio.wait_for(self.asked.get(), PATIENCE_S)

    async def answer(self, results: str, detail: str = "detail") -> Asked:
        """Answer one probe per sign, ``+`` or ``-``; return the next probe, which is not yet answered."""
        asked = await self.next()
        for sign in results:
            asked.result.set_result(ProbeResult(sign == "+", detail))
            asked = await self.next()
        self.asked.put_nowait(asked)
        return asked

    async def _probe(self, target: Target, timeout_s: float) -> ProbeResult:
        asked = Asked(target, timeout_s)
        self.asked.put_nowait(asked)
        return await asked.result

    def _find(self, name: str) -> Probe:
        return self._probe if name == "asked" else find_probe(name)

    async def _sleep(self, delay_s: float) -> None:
        self.rests.append(delay_s)
        await asyncio.sleep(0)

    def _on_change(self, name: str, healthy: bool, detail: str) -> None:
        self.changes.append((name, healthy, detail))
        self.listener(name, healthy, detail)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    """A stage whose monitor is stopped at the end, without leaving tasks."""
    found = Stage()
    yield found
    await found.monitor.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_healthy_until_the_first_result(stage: Stage) -> None:
    """Before the first answer a backend counts as healthy, and no change is reported."""
    stage.watch(a=A)
    assert stage.monitor.states == {"a": BackendHealth(True, "not probed yet: taken to be healthy", 1000.0)}
    stage.monitor.start()
    await stage.next()
    assert stage.monitor.states["a"].healthy
    assert stage.changes == []


async def test_the_first_result_decides_at_once(stage: Stage) -> None:
    """One failure makes the backend unhealthy, whatever ``fall`` is; the change is reported once with its reason."""
    stage.watch(a=A)
    stage.monitor.start()
    stage.unix_time = 1234.5
    await stage.answer("-", "it is gone")
    assert stage.changes == [("a", False, "it is gone")]
    assert stage.monitor.states == {"a": BackendHealth(False, "it is gone", 1234.5)}


async def test_a_good_first_result_is_no_change(stage: Stage) -> None:
    """A success as first result changes only the detail, because the backend counted as healthy."""
    stage.watch(a=A)
    stage.monitor.start()
    stage.unix_time = 1234.5
    await stage.answer("+")
    assert stage.changes == []
    assert stage.monitor.states == {"a": BackendHealth(True, "detail", 1000.0)}


async def test_rise_and_fall(stage: Stage) -> None:
    """Later, three failures or two successes in a row change the health; only changes are reported."""
    stage.watch(a=A)
    stage.monitor.start()
    await stage.answer("+--+--")
    assert stage.changes == []
    await stage.answer("--+-+")
    assert stage.changes == [("a", False, "detail; 3 times in a row")]
    await stage.answer("++")
    assert stage.changes[1:] == [("a", True, "detail; 2 times in a row")]


async def test_settings_reach_the_probe(stage: Stage) -> None:
    """Address, timeout and interval of the probes are the configured ones."""
    stage.watch(Settings(interval=7.0, timeout=0.5), a=A)
    stage.monitor.start()
    asked = await stage.answer("+-")
    assert (asked.target, asked.timeout_s) == (A, 0.5)
    assert stage.rests == [7.0, 7.0]


async def test_backends_are_independent(stage: Stage) -> None:
    """A probe that hangs does not delay other backends."""
    stage.watch(a=A, b=B)
    stage.monitor.start()
    hanging = await stage.next()
    assert hanging.target == A
    await stage.answer("+---")
    assert [(name, healthy) for name, healthy, _ in stage.changes] == [("b", False)]
    assert not hanging.result.done()


async def test_a_backend_added_later_is_probed_at_once(stage: Stage) -> None:
    """The first result of an added backend decides; the others are not probed again."""
    stage.watch(a=A)
    stage.monitor.start()
    first = await stage.next()
    stage.watch(a=A, b=B)
    added = await stage.next()
    assert added.target == B
    added.result.set_result(ProbeResult(False, "new and dead"))
    assert (await stage.next()).target == B
    assert stage.changes == [("b", False, "new and dead")]
    assert not first.result.cancelled()


async def test_a_removed_backend_is_forgotten(stage: Stage) -> None:
    """The probe of a removed backend is cancelled, nothing more is reported, and a later return starts anew."""
    stage.watch(a=A)
    stage.monitor.start()
    asked = await stage.answer("-")
    stage.watch()
    assert stage.monitor.states == {}
    assert stage.monitor.detail("a") == ""
    await asyncio.sleep(0)
    assert asked.result.cancelled()
    stage.watch(a=A)
    assert stage.monitor.states["a"].healthy
    assert [healthy for _, healthy, _ in stage.changes] == [False]


async def test_a_reload_without_changes_disturbs_nothing(stage: Stage) -> None:
    """A reload without changes preserves running probes and earlier results."""
    stage.watch(a=A)
    stage.monitor.start()
    asked = await stage.answer("+--")
    stage.watch(a=A)
    asked.result.set_result(ProbeResult(False, "third"))
    await stage.asked.get()
    await stage.next()
    assert stage.changes == [("a", False, "third; 3 times in a row")]


@pytest.mark.parametrize("first", ["+", "-"])
async def test_new_rise_and_fall_preserve_the_health(stage: Stage, first: str) -> None:
    """New thresholds count from the next result on, and the health remains."""
    stage.watch(a=A)
    stage.monitor.start()
    asked = await stage.answer(first)
    before = stage.monitor.states
    stage.watch(Settings(rise=1, fall=1), a=A)
    assert stage.monitor.states == before
    asked.result.set_result(ProbeResult(first == "-", "turned"))
    await stage.asked.get()
    await stage.next()
    assert stage.changes[-1] == ("a", first == "-", "turned")


async def test_a_new_interval_begins_at_once(stage: Stage) -> None:
    """A new interval ends the current rest; the health remains and needs a row of results to change."""
    stage.watch(Settings(interval=86400.0), a=A)
    stage.monitor.start()
    old = await stage.answer("+")
    await stage.asked.get()
    stage.watch(Settings(interval=1.0), a=A)
    await stage.answer("--")
    assert old.result.cancelled()
    assert stage.changes == []
    assert stage.rests == [86400.0, 1.0, 1.0]


async def test_a_new_address_is_probed_at_once(stage: Stage) -> None:
    """A new address cancels the old probe; the health remains until the first result, which decides."""
    stage.watch(a=A)
    stage.monitor.start()
    old = await stage.answer("-")
    await stage.asked.get()
    stage.watch(a=B)
    assert not stage.monitor.states["a"].healthy
    asked = await stage.answer("+")
    assert asked.target == B
    assert old.result.cancelled()
    assert [healthy for _, healthy, _ in stage.changes] == [False, True]


async def test_another_kind_of_probe_decides_anew(stage: Stage) -> None:
    """Without probing every backend becomes healthy, once and without traffic."""
    stage.watch(a=A)
    stage.monitor.start()
    await stage.answer("-")
    await stage.asked.get()
    changed = asyncio.Event()
    stage.listener = lambda *_: changed.set()
    stage.watch(Settings(probe="none"), a=A)
    await asyncio.wait_for(changed.wait(), PATIENCE_S)
    await asyncio.sleep(0)
    assert stage.changes[1:] == [("a", True, "not probed: health.probe is none")]
    assert stage.asked.empty()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    stage.watch(Settings(probe="none", timeout=9.0), a=A)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_unknown_probe_changes_nothing(stage: Stage) -> None:
    """After a rejected configuration, the old one stays in use."""
    stage.watch(a=A)
    stage.monitor.start()
    asked = await stage.next()
    with pytest.raises(ConfigError, match="ping"):
        stage.watch(Settings(probe="ping"), b=B)
    asked.result.set_result(ProbeResult(False, "gone"))
    assert (await stage.next()).target == A
    assert list(stage.monitor.states) == ["a"]
    assert stage.changes == [("a", False, "gone")]


async def test_a_probe_that_raises_is_a_bad_result(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The exception is logged, the backend is unhealthy, and the monitor continues."""
    stage.watch(a=A)
    stage.monitor.start()
    (await stage.next()).result.set_exception(ZeroDivisionError("oh"))
    await stage.answer("++")
    assert [(healthy, detail) for _, healthy, detail in stage.changes] == [
        (False, "the probe itself failed: ZeroDivisionError('oh')"),
        (True, "detail; 2 times in a row"),
    ]
    assert [record.getMessage() for record in caplog.records] == ["probe failed"]


async def test_a_listener_that_raises_does_not_end_the_monitor(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The exception is logged, and the next change is reported again."""

    def broken(*_: object) -> None:
        raise RuntimeError("not listening")

    stage.listener = broken
    stage.watch(a=A)
    stage.monitor.start()
    await stage.answer("-++")
    assert [healthy for _, healthy, _ in stage.changes] == [False, True]
    assert {record.getMessage() for record in caplog.records} == {"cannot tell of a change of health"}


async def test_a_listener_may_remove_the_backend(stage: Stage) -> None:
    """A listener may reload the configuration."""
    stage.listener = lambda *_: stage.watch(b=B)
    stage.watch(a=A)
    stage.monitor.start()
    (await stage.next()).result.set_result(ProbeResult(False, "gone"))
    assert (await stage.next()).target == B
    assert list(stage.monitor.states) == ["b"]


async def test_concurrent_probes_are_bounded(stage: Stage) -> None:
    """At most 256 probes run at once, so that silent backends do not open more sockets than that."""
    stage.monitor.apply(
        Settings(), {f"n{port}": Target(f"n{port}", Endpoint("192.0.2.1", port)) for port in range(1, 301)}
    )
    stage.monitor.start()
    first = [await stage.next() for _ in range(256)]
    await asyncio.sleep(0)
    assert stage.asked.empty()
    first[0].result.set_result(ProbeResult(True, "one done"))
    assert (await stage.next()).target.endpoint == Endpoint("192.0.2.1", 257)


async def test_stop_cancels_all_probes(stage: Stage) -> None:
    """After stop() no probe runs, the last state is readable, and the monitor can start again."""
    stage.watch(a=A)
    stage.monitor.start()
    asked = await stage.answer("-")
    await stage.asked.get()
    await stage.monitor.stop()
    assert asked.result.cancelled()
    assert not stage.monitor.states["a"].healthy
    stage.watch(Settings(interval=1.0), a=B)
    await asyncio.sleep(0)
    assert stage.asked.empty()
    stage.monitor.start()
    assert (await stage.next()).target == B


async def test_with_the_real_probe() -> None:
    """A real probe of a closed port reports the backend as unhealthy; only the listener is injected."""
    changes: asyncio.Queue[tuple[str, bool, str]] = asyncio.Queue()
    monitor = HealthMonitor(lambda *change: changes.put_nowait(change))
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    endpoint = Endpoint(*transport.get_extra_info("sockname")[:2])
    transport.close()
    await asyncio.sleep(0)
    monitor.apply(Settings(probe="quic", interval=0.01, timeout=0.5), {"a": Target("a", endpoint)})
    monitor.start()
    try:
        name, healthy, detail = await asyncio.wait_for(changes.get(), PATIENCE_S)
        assert (name, healthy) == ("a", False)
        assert "ECONNREFUSED" in detail
        assert monitor.detail("a") == detail
    finally:
        await monitor.stop()


def test_settings_match_the_configuration() -> None:
    """The configuration's health section has the fields and defaults of Settings."""
    from qlb.config.model import Health

    health = Health()
    settings: Any = replace(Settings(), probe="quic", all_failing="keep")
    assert {name: getattr(health, name) for name in Settings.__dataclass_fields__} == vars(settings)
    assert find_probe("none") is assume_healthy


async def test_has_judged() -> None:
    """A backend is judged from its first result on; an unknown name never is."""
    stage = Stage()
    stage.watch(a=A)
    stage.monitor.start()
    try:
        assert not stage.monitor.has_judged("a")
        await stage.answer("+")
        assert stage.monitor.has_judged("a")
        assert not stage.monitor.has_judged("unknown")
    finally:
        await stage.monitor.stop()


async def test_a_finding_decides_at_once(stage: Stage) -> None:
    """A finding decides without ``fall``; it is shown while it lasts, and two successes end it."""
    stage.watch(a=A)
    stage.monitor.start()
    await stage.answer("+")
    asked = await stage.next()
    asked.result.set_result(ProbeResult(False, "not its own", finding="not its own", reached=True))
    await stage.answer("")
    assert stage.changes == [("a", False, "not its own")]
    assert stage.monitor.finding("a") == stage.monitor.states["a"].finding == "not its own"
    await stage.answer("+")
    assert (stage.monitor.finding("a"), stage.monitor.is_up("a")) == ("", False)
    await stage.answer("+")
    assert stage.monitor.is_up("a")
    assert stage.changes[1:] == [("a", True, "detail; 2 times in a row")]


async def test_a_finding_is_logged_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A finding is logged when it appears and when it ends, but not when its text changes."""
    caplog.set_level(logging.INFO)
    stage.watch(a=A)
    stage.monitor.start()
    for finding in ("one", "another", "another", ""):
        asked = await stage.next()
        asked.result.set_result(ProbeResult(not finding, "detail", finding=finding, reached=True))
    await stage.next()
    assert [record.message for record in caplog.records] == [
        "backend is set up wrongly",
        "backend is set up rightly again",
    ]


async def _all_fail(stage: Stage, all_failing: str) -> None:
    stage.watch(Settings(all_failing=all_failing, fall=1), a=A, b=B)
    stage.monitor.start()
    for ok in (True, True, False, False):
        asked = await stage.next()
        asked.result.set_result(ProbeResult(ok, "silence"))
    await stage.answer("")


async def test_if_all_fail_at_once_routing_is_retained(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Verdicts are shown as they are, but backends still count as healthy; this is logged once."""
    await _all_fail(stage, "keep")
    assert (stage.monitor.is_up("a"), stage.monitor.is_up("b"), stage.monitor.all_failing) == (False, False, True)
    counting = {name: counts for name, counts, _ in stage.changes}
    assert counting in ({"a": True}, {"b": True})
    asked = await stage.next()
    asked.result.set_result(ProbeResult(False, "silence"))
    await stage.answer("")
    messages = [record.message for record in caplog.records if "all probes fail" in record.message]
    assert len(messages) == 1
    assert messages[0].endswith("(health.all_failing)")


async def test_if_no_probe_ever_succeeded_the_log_asks_for_the_probe(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """If no probe ever succeeded, the log asks whether the servers answer this kind of probe."""
    stage.watch(Settings(all_failing="keep", fall=1), a=A)
    stage.monitor.start()
    (await stage.next()).result.set_result(SILENCE)
    await stage.answer("")
    messages = [record.message for record in caplog.records if "all probes fail" in record.message]
    assert len(messages) == 1
    assert messages[0].endswith("none has succeeded since the start: do the servers answer this health.probe?")


async def test_if_all_fail_at_once_it_can_be_obeyed(stage: Stage) -> None:
    """With all_failing: obey, no backend counts as healthy."""
    await _all_fail(stage, "obey")
    assert not stage.monitor.all_failing
    assert {name: counts for name, counts, _ in stage.changes} == {"a": False, "b": False}


async def test_probes_are_counted(stage: Stage) -> None:
    """Probes are counted by their results."""
    stage.watch(a=A)
    stage.monitor.start()
    await stage.answer("++-")
    assert (stage.monitor.probes_ok, stage.monitor.probes_failed) == (2, 1)


class Paused(Stage):
    """A stage whose rests never end by themselves, and whose clock the test sets."""

    def __init__(self) -> None:
        """Start the clock at 0."""
        super().__init__()
        self.now_s = 0.0
        self.resting: asyncio.Queue[float] = asyncio.Queue()
        self.exchanged = Exchange()
        self.monitor = HealthMonitor(
            self._on_change,
            find=self._find,
            pace=Pace(now=lambda: self.now_s, sleep=self._sleep, draw=lambda: 0.5),
            unix_time=lambda: self.unix_time,
            traffic=lambda _: self.exchanged,
        )

    async def _sleep(self, delay_s: float) -> None:
        self.resting.put_nowait(delay_s)
        await asyncio.get_running_loop().create_future()

    async def settle(self, result: ProbeResult) -> None:
        """Answer the next probe and wait until its backend rests."""
        (await self.next()).result.set_result(result)
        await asyncio.wait_for(self.resting.get(), PATIENCE_S)


@pytest.fixture
async def paused() -> AsyncIterator[Paused]:
    """A paused stage that watches one backend, and leaves no tasks."""
    found = Paused()
    found.watch(a=A)
    found.monitor.start()
    yield found
    await found.monitor.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


GOOD = ProbeResult(ok=True, detail="it answers", reached=True)
REFUSED = ProbeResult(ok=False, detail="refused", reached=True, refused=True)
SILENCE = ProbeResult(ok=False, detail="no answer", doubtful=True, silent=True)
NO_PORT = ProbeResult(ok=False, detail="no local port", error="EAGAIN", void=True)


async def test_a_refused_packet_brings_the_probe_forward(paused: Paused) -> None:
    """A client's refused packet causes an early probe; if that is refused too, the backend is unhealthy at once."""
    await paused.settle(GOOD)
    paused.monitor.hint("a")
    await paused.settle(REFUSED)
    assert paused.changes == [("a", False, "refused")]


async def test_a_hint_alone_is_no_verdict(paused: Paused) -> None:
    """A backend that answers the early probe stays healthy; a later refused probe alone does not change it."""
    await paused.settle(GOOD)
    paused.monitor.hint("a")
    await paused.settle(GOOD)
    paused.now_s += 10
    paused.monitor.hint("a")
    paused.now_s += 10
    await paused.settle(REFUSED)
    assert paused.changes == []


async def test_hints_cause_one_probe_a_second(paused: Paused) -> None:
    """Many hints cause one early probe per second; hints for unknown names cause none."""
    await paused.settle(GOOD)
    for tenth in range(30):
        paused.now_s = tenth / 10
        paused.monitor.hint("a")
        paused.monitor.hint("unknown")
        for _ in range(5):  # enough iterations for an early probe to start
            await asyncio.sleep(0)
        if not paused.asked.empty():
            await paused.settle(GOOD)
    assert paused.monitor.probes_ok == 1 + 3


async def test_an_unhealthy_backend_is_not_probed_more_often(paused: Paused) -> None:
    """Hints do not cause probes of an unhealthy backend, whose clients continue to be refused."""
    await paused.settle(REFUSED)
    paused.now_s = 100.0
    paused.monitor.hint("a")
    await asyncio.sleep(0)
    assert paused.asked.empty()
    assert paused.monitor.probes_failed == 1


async def test_an_error_of_this_node_is_no_verdict(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The last verdict remains, at the start there is none; the error is counted, shown and logged once."""
    stage.watch(a=A)
    stage.monitor.start()
    for _ in range(10):
        (await stage.next()).result.set_result(NO_PORT)
    await stage.answer("")
    assert not stage.monitor.has_judged("a")
    assert stage.monitor.own_errors.current == "EAGAIN"
    await stage.answer("-")
    assert (stage.monitor.has_judged("a"), stage.monitor.is_up("a")) == (True, False)
    for _ in range(10):
        (await stage.next()).result.set_result(NO_PORT)
    await stage.answer("++")
    assert stage.monitor.own_errors.counts == {"EAGAIN": 20}
    assert stage.monitor.own_errors.current == ""
    assert (stage.monitor.probes_ok, stage.monitor.probes_failed) == (2, 1)
    assert [change[1] for change in stage.changes] == [False, True]
    errors = [record for record in caplog.records if record.message == "this node cannot send probes"]
    assert len(errors) == 2


async def test_a_probe_that_runs_out_of_memory_is_no_verdict(stage: Stage) -> None:
    """MemoryError and EMFILE raised inside a probe are errors of this node, and no verdict."""
    stage.watch(a=A)
    stage.monitor.start()
    (await stage.next()).result.set_exception(MemoryError())
    (await stage.next()).result.set_exception(OSError(24, "Too many open files"))
    await stage.answer("")
    assert not stage.monitor.has_judged("a")
    assert stage.monitor.own_errors.counts == {"ENOMEM": 1, "EMFILE": 1}


async def test_a_server_that_answers_only_clients_is_healthy(stage: Stage) -> None:
    """A backend that answers clients but no probes is judged healthy, and unhealthy when its clients get no answers."""
    counts = iter([Exchange(n, n, n) for n in range(8)] + [Exchange(n, 8, n) for n in range(9, 40)])
    monitor = HealthMonitor(
        stage._on_change, find=stage._find, pace=Clock(2.0), unix_time=lambda: 0.0, traffic=lambda _: next(counts)
    )
    stage.monitor = monitor
    monitor.apply(Settings(), {"a": A})
    monitor.start()
    for _ in range(6):
        (await stage.next()).result.set_result(SILENCE)
    asked = await stage.next()
    assert (monitor.has_judged("a"), monitor.is_up("a"), stage.changes) == (True, True, [])
    asked.result.set_result(SILENCE)
    for _ in range(6):
        (await stage.next()).result.set_result(SILENCE)
    await stage.next()
    assert [change[1] for change in stage.changes] == [False]


class Clock(Pace):
    """A pace whose rests take no time and advance its clock by one interval."""

    def __init__(self, interval_s: float) -> None:
        """interval_s: the duration of each rest on this clock."""
        self._now_s = 0.0
        self._interval_s = interval_s
        super().__init__(now=lambda: self._now_s, sleep=self._pass, draw=lambda: 0.5)

    async def _pass(self, _: float) -> None:
        self._now_s += self._interval_s
        await asyncio.sleep(0)
