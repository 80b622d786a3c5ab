"""The health monitor, driven probe by probe: nothing here waits for a clock."""

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
    """What a configuration's ``health`` says."""

    probe: str = "asked"
    interval: float = 2.0
    timeout: float = 1.0
    rise: int = 2
    fall: int = 3
    all_failing: str = "obey"


class Asked:
    """A probe that is under way."""

    def __init__(self, target: Target, timeout_s: float) -> None:
        """Not answered yet."""
        self.target = target
        self.timeout_s = timeout_s
        self.result: asyncio.Future[ProbeResult] = asyncio.get_running_loop().create_future()


class Stage:
    """A monitor with a probe that the test answers, a clock that stands, and rests that take no time."""

    def __init__(self) -> None:
        """Nothing is watched yet."""
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
        """Apply settings to backends."""
        self.monitor.apply(settings or Settings(), targets)

    async def next(self) -> Asked:
        """Return the next probe that the monitor begins."""
        return await asyncio.wait_for(self.asked.get(), PATIENCE_S)

    async def answer(self, results: str, detail: str = "said so") -> Asked:
        """Answer as many probes as there are signs, ``+`` or ``-``; return the one that comes after them."""
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
    """A stage whose monitor is stopped in the end, with nothing left running."""
    found = Stage()
    yield found
    await found.monitor.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_healthy_until_the_first_result(stage: Stage) -> None:
    """Before the start and before an answer a backend counts as healthy, and nobody is told anything."""
    stage.watch(a=A)
    assert stage.monitor.states == {"a": BackendHealth(True, "not probed yet: taken to be healthy", 1000.0)}
    stage.monitor.start()
    await stage.next()
    assert stage.monitor.states["a"].healthy
    assert stage.changes == []


async def test_the_first_result_decides_at_once(stage: Stage) -> None:
    """One bad answer makes it unhealthy, whatever ``fall`` says; the change and its reason are told once."""
    stage.watch(a=A)
    stage.monitor.start()
    stage.unix_time = 1234.5
    await stage.answer("-", "it is gone")
    assert stage.changes == [("a", False, "it is gone")]
    assert stage.monitor.states == {"a": BackendHealth(False, "it is gone", 1234.5)}


async def test_a_good_first_result_is_no_change(stage: Stage) -> None:
    """It was taken to be healthy: only the detail is new."""
    stage.watch(a=A)
    stage.monitor.start()
    stage.unix_time = 1234.5
    await stage.answer("+")
    assert stage.changes == []
    assert stage.monitor.states == {"a": BackendHealth(True, "said so", 1000.0)}


async def test_rise_and_fall(stage: Stage) -> None:
    """Afterwards three bad ones or two good ones in a row turn it; only turns are told."""
    stage.watch(a=A)
    stage.monitor.start()
    await stage.answer("+--+--")
    assert stage.changes == []
    await stage.answer("--+-+")
    assert stage.changes == [("a", False, "said so; 3 times in a row")]
    await stage.answer("++")
    assert stage.changes[1:] == [("a", True, "said so; 2 times in a row")]


async def test_settings_reach_the_probe(stage: Stage) -> None:
    """The address, the timeout, and the interval between probes are the configured ones."""
    stage.watch(Settings(interval=7.0, timeout=0.5), a=A)
    stage.monitor.start()
    asked = await stage.answer("+-")
    assert (asked.target, asked.timeout_s) == (A, 0.5)
    assert stage.rests == [7.0, 7.0]


async def test_backends_are_independent(stage: Stage) -> None:
    """A probe that hangs holds up nobody else."""
    stage.watch(a=A, b=B)
    stage.monitor.start()
    hanging = await stage.next()
    assert hanging.target == A
    await stage.answer("+---")
    assert [(name, healthy) for name, healthy, _ in stage.changes] == [("b", False)]
    assert not hanging.result.done()


async def test_a_backend_added_later_is_probed_at_once(stage: Stage) -> None:
    """Its first result decides; the others are not asked again for it."""
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
    """Its probe stops, it is told of no more, and if it comes back it begins as a new one."""
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


async def test_an_applied_reload_without_changes_disturbs_nothing(stage: Stage) -> None:
    """Neither a probe under way nor the results so far are lost."""
    stage.watch(a=A)
    stage.monitor.start()
    asked = await stage.answer("+--")
    stage.watch(a=A)
    asked.result.set_result(ProbeResult(False, "third"))
    await stage.asked.get()
    await stage.next()
    assert stage.changes == [("a", False, "third; 3 times in a row")]


@pytest.mark.parametrize("first", ["+", "-"])
async def test_new_rise_and_fall_keep_the_health(stage: Stage, first: str) -> None:
    """New thresholds count from the next result on, and what was found stays."""
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
    """Nobody waits out an old interval of a day; the health stays and still needs a row of results to turn."""
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
    """The old probe ends; the health stays until the first result from there, which decides."""
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
    """Turning probing off makes everything healthy, without traffic; each is asked once and no more."""
    stage.watch(a=A)
    stage.monitor.start()
    await stage.answer("-")
    await stage.asked.get()
    told = asyncio.Event()
    stage.listener = lambda *_: told.set()
    stage.watch(Settings(probe="none"), a=A)
    await asyncio.wait_for(told.wait(), PATIENCE_S)
    await asyncio.sleep(0)
    assert stage.changes[1:] == [("a", True, "not probed: health.probe is none")]
    assert stage.asked.empty()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    stage.watch(Settings(probe="none", timeout=9.0), a=A)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_unknown_probe_changes_nothing(stage: Stage) -> None:
    """A refused configuration leaves the old one at work."""
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
    """The fault is logged, the backend is unhealthy, and the monitor goes on."""
    stage.watch(a=A)
    stage.monitor.start()
    (await stage.next()).result.set_exception(ZeroDivisionError("oh"))
    await stage.answer("++")
    assert [(healthy, detail) for _, healthy, detail in stage.changes] == [
        (False, "the probe itself failed: ZeroDivisionError('oh')"),
        (True, "said so; 2 times in a row"),
    ]
    assert [record.getMessage() for record in caplog.records] == ["probe failed"]


async def test_a_listener_that_raises_does_not_end_the_monitor(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The fault is logged, and the next change is told again."""

    def broken(*_: object) -> None:
        raise RuntimeError("not listening")

    stage.listener = broken
    stage.watch(a=A)
    stage.monitor.start()
    await stage.answer("-++")
    assert [healthy for _, healthy, _ in stage.changes] == [False, True]
    assert {record.getMessage() for record in caplog.records} == {"cannot tell of a change of health"}


async def test_a_listener_may_remove_the_backend(stage: Stage) -> None:
    """What the listener does with the news may include a reload."""
    stage.listener = lambda *_: stage.watch(b=B)
    stage.watch(a=A)
    stage.monitor.start()
    (await stage.next()).result.set_result(ProbeResult(False, "gone"))
    assert (await stage.next()).target == B
    assert list(stage.monitor.states) == ["b"]


async def test_probes_at_once_are_bounded(stage: Stage) -> None:
    """Thousands of silent backends take turns: no more sockets than that are open."""
    stage.monitor.apply(
        Settings(), {f"n{port}": Target(f"n{port}", Endpoint("192.0.2.1", port)) for port in range(1, 301)}
    )
    stage.monitor.start()
    first = [await stage.next() for _ in range(256)]
    await asyncio.sleep(0)
    assert stage.asked.empty()
    first[0].result.set_result(ProbeResult(True, "one done"))
    assert (await stage.next()).target.endpoint == Endpoint("192.0.2.1", 257)


async def test_stopped_means_quiet(stage: Stage) -> None:
    """After stop() no probe is under way; the last state can still be read, and it can start again."""
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
    """A server that is there is healthy; when it goes, the monitor tells; nothing is injected but the listener."""
    told: asyncio.Queue[tuple[str, bool, str]] = asyncio.Queue()
    monitor = HealthMonitor(lambda *change: told.put_nowait(change))
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    endpoint = Endpoint(*transport.get_extra_info("sockname")[:2])
    transport.close()
    await asyncio.sleep(0)
    monitor.apply(Settings(probe="quic", interval=0.01, timeout=0.5), {"a": Target("a", endpoint)})
    monitor.start()
    try:
        name, healthy, detail = await asyncio.wait_for(told.get(), PATIENCE_S)
        assert (name, healthy) == ("a", False)
        assert "ECONNREFUSED" in detail
        assert monitor.detail("a") == detail
    finally:
        await monitor.stop()


def test_settings_of_a_test_are_the_settings_of_the_product() -> None:
    """The configuration's own section fits the protocol that the monitor reads."""
    from qlb.config.sections import Health

    health = Health()
    settings: Any = replace(Settings(), probe="quic", all_failing="keep")
    assert {name: getattr(health, name) for name in Settings.__dataclass_fields__} == vars(settings)
    assert find_probe("none") is assume_healthy


async def test_what_was_found_out_is_told_from_what_is_taken_for_granted() -> None:
    """A backend is judged from its first result on, whatever that was; a name that nobody watches never is."""
    stage = Stage()
    stage.watch(a=A)
    stage.monitor.start()
    try:
        assert not stage.monitor.has_judged("a")
        await stage.answer("+")
        assert stage.monitor.has_judged("a")
        assert not stage.monitor.has_judged("nobody")
    finally:
        await stage.monitor.stop()


async def test_a_finding_decides_at_once(stage: Stage) -> None:
    """No fall is waited for; it is kept and logged while it lasts, and two good results end it."""
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
    assert stage.changes[1:] == [("a", True, "said so; 2 times in a row")]


async def test_a_finding_is_logged_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """When it appears and when it goes, whatever it says in between."""
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


async def test_where_all_fail_at_once_routing_stays(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The verdicts are told as they are; who counts is who counted before, and the log says so once."""
    await _all_fail(stage, "keep")
    assert (stage.monitor.is_up("a"), stage.monitor.is_up("b"), stage.monitor.all_failing) == (False, False, True)
    counting = {name: counts for name, counts, _ in stage.changes}
    assert counting in ({"a": True}, {"b": True})
    asked = await stage.next()
    asked.result.set_result(ProbeResult(False, "silence"))
    await stage.answer("")
    told = [record.message for record in caplog.records if "all probes fail" in record.message]
    assert len(told) == 1
    assert told[0].endswith("(health.all_failing)")


async def test_where_nobody_ever_answered_the_log_asks_for_the_probe(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Servers that never answer this kind of probe look like dead ones."""
    stage.watch(Settings(all_failing="keep", fall=1), a=A)
    stage.monitor.start()
    (await stage.next()).result.set_result(SILENCE)
    await stage.answer("")
    told = [record.message for record in caplog.records if "all probes fail" in record.message]
    assert len(told) == 1
    assert told[0].endswith("none has succeeded since the start: do the servers answer this health.probe?")


async def test_where_all_fail_at_once_it_can_be_obeyed(stage: Stage) -> None:
    """Then nobody counts."""
    await _all_fail(stage, "obey")
    assert not stage.monitor.all_failing
    assert {name: counts for name, counts, _ in stage.changes} == {"a": False, "b": False}


async def test_probes_are_counted(stage: Stage) -> None:
    """By their results."""
    stage.watch(a=A)
    stage.monitor.start()
    await stage.answer("++-")
    assert (stage.monitor.probes_ok, stage.monitor.probes_failed) == (2, 1)


class Paused(Stage):
    """A stage whose rests never end by themselves, and whose clock can be set."""

    def __init__(self) -> None:
        """The clock stands at 0."""
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
    """A paused stage that watches one backend, with nothing left running in the end."""
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
    """And if that is refused as well, this is no chance: new connections go elsewhere at once."""
    await paused.settle(GOOD)
    paused.monitor.hint("a")
    await paused.settle(REFUSED)
    assert paused.changes == [("a", False, "refused")]


async def test_a_hint_alone_is_no_verdict(paused: Paused) -> None:
    """A backend that answers the probe stays; a refusal that no client has met needs others in a row."""
    await paused.settle(GOOD)
    paused.monitor.hint("a")
    await paused.settle(GOOD)
    paused.now_s += 10
    paused.monitor.hint("a")
    paused.now_s += 10
    await paused.settle(REFUSED)
    assert paused.changes == []


async def test_hints_cause_one_probe_a_second(paused: Paused) -> None:
    """However many come, for one backend or for names that nobody watches."""
    await paused.settle(GOOD)
    for tenth in range(30):
        paused.now_s = tenth / 10
        paused.monitor.hint("a")
        paused.monitor.hint("nobody")
        for _ in range(5):  # a probe that was brought forward begins within these
            await asyncio.sleep(0)
        if not paused.asked.empty():
            await paused.settle(GOOD)
    assert paused.monitor.probes_ok == 1 + 3


async def test_an_unhealthy_backend_is_not_probed_more_often(paused: Paused) -> None:
    """Its clients go on to be refused, as long as they have its connection IDs."""
    await paused.settle(REFUSED)
    paused.now_s = 100.0
    paused.monitor.hint("a")
    await asyncio.sleep(0)
    assert paused.asked.empty()
    assert paused.monitor.probes_failed == 1


async def test_an_error_of_this_node_is_no_verdict(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """The last verdict stays, and at the start there is none; it is counted, shown, and logged once."""
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
    told = [record for record in caplog.records if record.message == "this node cannot send probes"]
    assert len(told) == 2


async def test_a_probe_that_runs_out_of_memory_is_no_verdict(stage: Stage) -> None:
    """Nor one whose own code meets the limit of files."""
    stage.watch(a=A)
    stage.monitor.start()
    (await stage.next()).result.set_exception(MemoryError())
    (await stage.next()).result.set_exception(OSError(24, "Too many open files"))
    await stage.answer("")
    assert not stage.monitor.has_judged("a")
    assert stage.monitor.own_errors.counts == {"ENOMEM": 1, "EMFILE": 1}


async def test_a_server_that_answers_only_clients_is_healthy(stage: Stage) -> None:
    """Judged by its answers, so that the node is ready; dead when its clients get none."""
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
    """A pace whose rests take no time, and whose clock goes on by one interval with each."""

    def __init__(self, interval_s: float) -> None:
        """interval_s: what each rest lasts on this clock."""
        self._now_s = 0.0
        self._interval_s = interval_s
        super().__init__(now=lambda: self._now_s, sleep=self._pass, draw=lambda: 0.5)

    async def _pass(self, _: float) -> None:
        self._now_s += self._interval_s
        await asyncio.sleep(0)
