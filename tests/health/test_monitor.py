"""The health monitor, driven probe by probe. No test waits for a clock."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from qlb.addresses import Endpoint
from qlb.errors import ConfigError
from qlb.health.monitor import HealthConfig, HealthMonitor
from qlb.health.pace import Pace
from qlb.health.probe import Probe, ProbeResult, Target
from qlb.health.probes import find_probe
from qlb.health.verdict import Exchange

A = Target("a", Endpoint("192.0.2.1", 443))
B = Target("b", Endpoint("192.0.2.2", 443))
PATIENCE_S = 90.0


def rules(**changes: Any) -> HealthConfig:
    """Return the rules of most tests, with some changes. The test itself answers the probe ``asked``."""
    usual: dict[str, Any] = {
        "probe": "asked",
        "interval_s": 2.0,
        "timeout_s": 1.0,
        "rise": 2,
        "fall": 3,
        "all_failing": "obey",
    }
    return HealthConfig(**(usual | changes))


class Asked:
    """A probe that is running."""

    def __init__(self, target: Target, timeout_s: float) -> None:
        """Start without an answer."""
        self.target = target
        self.timeout_s = timeout_s
        self.result: asyncio.Future[ProbeResult] = asyncio.get_running_loop().create_future()


class Stage:
    """A monitor with a probe that the test answers, a stopped clock, and rests that take no time."""

    def __init__(self) -> None:
        """Start without backends."""
        self.asked: asyncio.Queue[Asked] = asyncio.Queue()
        self.changes: list[tuple[str, bool, str]] = []
        self.rests: list[float] = []
        self.listener: Callable[[str, bool, str], None] = lambda *_: None
        self.monitor = HealthMonitor(
            self._on_change,
            find=self._find,
            pace=Pace(now=lambda: 0.0, sleep=self._sleep, draw=lambda: 0.5),
        )

    def watch(self, config: HealthConfig | None = None, **targets: Target) -> None:
        """Apply rules to backends."""
        self.monitor.apply(config or rules(), targets)

    def state(self, name: str) -> tuple[bool, str]:
        """Return the verdict on a backend and the detail of its last probe."""
        return self.monitor.is_up(name), self.monitor.detail(name)

    async def next(self) -> Asked:
        """Return the next probe that the monitor begins."""
        return await asyncio.wait_for(self.asked.get(), PATIENCE_S)

    async def answer(self, results: str, detail: str = "said so") -> Asked:
        """Answer one probe for each sign, ``+`` or ``-``. Return the probe after them."""
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
    """Yield a stage. Stop its monitor at the end, and check that no task is left."""
    found = Stage()
    yield found
    await found.monitor.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_healthy_until_the_first_result(stage: Stage) -> None:
    """A backend counts as healthy before the start and before its first result, and no change is reported."""
    stage.watch(a=A)
    assert stage.state("a") == (True, "not probed yet: taken to be healthy")
    stage.monitor.start()
    await stage.next()
    assert stage.monitor.is_up("a")
    assert stage.changes == []


async def test_the_first_result_decides_at_once(stage: Stage) -> None:
    """One bad first result makes a backend unhealthy for any ``fall``. The change is reported once, with its reason."""
    stage.watch(a=A)
    stage.monitor.start()
    await stage.answer("-", "it is gone")
    assert stage.changes == [("a", False, "it is gone")]
    assert stage.state("a") == (False, "it is gone")


async def test_a_good_first_result_is_no_change(stage: Stage) -> None:
    """A good first result changes only the detail, because the backend already counted as healthy."""
    stage.watch(a=A)
    stage.monitor.start()
    await stage.answer("+")
    assert stage.changes == []
    assert stage.state("a") == (True, "said so")


async def test_rise_and_fall(stage: Stage) -> None:
    """After the first result, three bad or two good results in a row change the verdict. Only changes are reported."""
    stage.watch(a=A)
    stage.monitor.start()
    await stage.answer("+--+--")
    assert stage.changes == []
    await stage.answer("--+-+")
    assert stage.changes == [("a", False, "said so; 3 times in a row")]
    await stage.answer("++")
    assert stage.changes[1:] == [("a", True, "said so; 2 times in a row")]


async def test_rules_reach_the_probe(stage: Stage) -> None:
    """The monitor probes the configured address with the configured timeout and interval."""
    stage.watch(rules(interval_s=7.0, timeout_s=0.5), a=A)
    stage.monitor.start()
    asked = await stage.answer("+-")
    assert (asked.target, asked.timeout_s) == (A, 0.5)
    assert stage.rests == [7.0, 7.0]


async def test_backends_are_independent(stage: Stage) -> None:
    """A probe that hangs delays no other backend."""
    stage.watch(a=A, b=B)
    stage.monitor.start()
    hanging = await stage.next()
    assert hanging.target == A
    await stage.answer("+---")
    assert [(name, healthy) for name, healthy, _ in stage.changes] == [("b", False)]
    assert not hanging.result.done()


async def test_a_backend_added_later_is_probed_at_once(stage: Stage) -> None:
    """The first result of an added backend decides. The other backends are not probed again."""
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
    """The probe of a removed backend stops without a report. If the backend returns, it starts as a new one."""
    stage.watch(a=A)
    stage.monitor.start()
    asked = await stage.answer("-")
    stage.watch()
    assert stage.state("a") == (False, "")
    await asyncio.sleep(0)
    assert asked.result.cancelled()
    stage.watch(a=A)
    assert stage.monitor.is_up("a")
    assert [healthy for _, healthy, _ in stage.changes] == [False]


async def test_an_applied_reload_without_changes_disturbs_nothing(stage: Stage) -> None:
    """A reload without changes loses neither a running probe nor the results so far."""
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
    """New thresholds apply from the next result on, and the verdict stays."""
    stage.watch(a=A)
    stage.monitor.start()
    asked = await stage.answer(first)
    before = stage.state("a")
    stage.watch(rules(rise=1, fall=1), a=A)
    assert stage.state("a") == before
    asked.result.set_result(ProbeResult(first == "-", "turned"))
    await stage.asked.get()
    await stage.next()
    assert stage.changes[-1] == ("a", first == "-", "turned")


async def test_a_new_interval_begins_at_once(stage: Stage) -> None:
    """A new interval ends the wait for an old one of a day. The verdict stays and still needs a row of results."""
    stage.watch(rules(interval_s=86400.0), a=A)
    stage.monitor.start()
    old = await stage.answer("+")
    await stage.asked.get()
    stage.watch(rules(interval_s=1.0), a=A)
    await stage.answer("--")
    assert old.result.cancelled()
    assert stage.changes == []
    assert stage.rests == [86400.0, 1.0, 1.0]


async def test_a_new_address_is_probed_at_once(stage: Stage) -> None:
    """A new address ends the old probe. The verdict stays until the first result from there, which decides."""
    stage.watch(a=A)
    stage.monitor.start()
    old = await stage.answer("-")
    await stage.asked.get()
    stage.watch(a=B)
    assert not stage.monitor.is_up("a")
    asked = await stage.answer("+")
    assert asked.target == B
    assert old.result.cancelled()
    assert [healthy for _, healthy, _ in stage.changes] == [False, True]


async def test_another_kind_of_probe_decides_anew(stage: Stage) -> None:
    """The probe ``none`` makes every backend healthy without traffic. The monitor calls it once for each backend."""
    stage.watch(a=A)
    stage.monitor.start()
    await stage.answer("-")
    await stage.asked.get()
    reported = asyncio.Event()
    stage.listener = lambda *_: reported.set()
    stage.watch(rules(probe="none"), a=A)
    await asyncio.wait_for(reported.wait(), PATIENCE_S)
    await asyncio.sleep(0)
    assert stage.changes[1:] == [("a", True, "not probed: health.probe is none")]
    assert stage.asked.empty()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    stage.watch(rules(probe="none", timeout_s=9.0), a=A)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_unknown_probe_changes_nothing(stage: Stage) -> None:
    """After an unknown probe was rejected, the old rules and backends still apply."""
    stage.watch(a=A)
    stage.monitor.start()
    asked = await stage.next()
    with pytest.raises(ConfigError, match="ping"):
        stage.watch(rules(probe="ping"), b=B)
    asked.result.set_result(ProbeResult(False, "gone"))
    assert (await stage.next()).target == A
    assert (stage.monitor.detail("a"), stage.monitor.detail("b")) == ("gone", "")
    assert stage.changes == [("a", False, "gone")]


async def test_a_probe_that_raises_is_a_bad_result(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A probe that raises is logged and makes the backend unhealthy, and the monitor goes on."""
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
    """A listener that raises is logged, and the next change is reported to it again."""

    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    stage.listener = broken
    stage.watch(a=A)
    stage.monitor.start()
    await stage.answer("-++")
    assert [healthy for _, healthy, _ in stage.changes] == [False, True]
    assert {record.getMessage() for record in caplog.records} == {"cannot report a change of health"}


async def test_a_listener_may_remove_the_backend(stage: Stage) -> None:
    """The listener may remove the backend that is reported to it."""
    stage.listener = lambda *_: stage.watch(b=B)
    stage.watch(a=A)
    stage.monitor.start()
    (await stage.next()).result.set_result(ProbeResult(False, "gone"))
    assert (await stage.next()).target == B
    assert stage.state("a") == (False, "")


async def test_probes_at_once_are_bounded(stage: Stage) -> None:
    """At most 256 probes run at once. With more silent backends, the others wait for their turn."""
    stage.monitor.apply(
        rules(), {f"n{port}": Target(f"n{port}", Endpoint("192.0.2.1", port)) for port in range(1, 301)}
    )
    stage.monitor.start()
    first = [await stage.next() for _ in range(256)]
    await asyncio.sleep(0)
    assert stage.asked.empty()
    first[0].result.set_result(ProbeResult(True, "one done"))
    assert (await stage.next()).target.endpoint == Endpoint("192.0.2.1", 257)


async def test_stopped_means_quiet(stage: Stage) -> None:
    """After stop() no probe runs. The last verdicts can still be read, and the monitor can start again."""
    stage.watch(a=A)
    stage.monitor.start()
    asked = await stage.answer("-")
    await stage.asked.get()
    await stage.monitor.stop()
    assert asked.result.cancelled()
    assert not stage.monitor.is_up("a")
    stage.watch(rules(interval_s=1.0), a=B)
    await asyncio.sleep(0)
    assert stage.asked.empty()
    stage.monitor.start()
    assert (await stage.next()).target == B


async def test_with_the_real_probe() -> None:
    """With the real probe and clock, the monitor reports a backend that refuses packets."""
    reported: asyncio.Queue[tuple[str, bool, str]] = asyncio.Queue()
    monitor = HealthMonitor(lambda *change: reported.put_nowait(change))
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    endpoint = Endpoint(*transport.get_extra_info("sockname")[:2])
    transport.close()
    await asyncio.sleep(0)
    monitor.apply(rules(probe="quic", interval_s=0.01, timeout_s=PATIENCE_S), {"a": Target("a", endpoint)})
    monitor.start()
    try:
        name, healthy, detail = await asyncio.wait_for(reported.get(), PATIENCE_S)
        assert (name, healthy) == ("a", False)
        assert "ECONNREFUSED" in detail
        assert monitor.detail("a") == detail
    finally:
        await monitor.stop()


async def test_a_backend_is_judged_from_its_first_result_on() -> None:
    """A backend is judged from its first result on, good or bad. An unknown name never is."""
    stage = Stage()
    stage.watch(a=A)
    stage.monitor.start()
    try:
        assert "a" not in stage.monitor.judged
        await stage.answer("+")
        assert "a" in stage.monitor.judged
        assert "unknown" not in stage.monitor.judged
    finally:
        await stage.monitor.stop()


async def test_a_finding_decides_at_once(stage: Stage) -> None:
    """A finding decides at once, whatever ``fall`` is. A good result removes it, and two make the backend healthy."""
    stage.watch(a=A)
    stage.monitor.start()
    await stage.answer("+")
    asked = await stage.next()
    asked.result.set_result(ProbeResult(False, "not its own", finding="not its own", reached=True))
    await stage.answer("")
    assert stage.changes == [("a", False, "not its own")]
    assert stage.monitor.finding("a") == "not its own"
    await stage.answer("+")
    assert (stage.monitor.finding("a"), stage.monitor.is_up("a")) == ("", False)
    await stage.answer("+")
    assert stage.monitor.is_up("a")
    assert stage.changes[1:] == [("a", True, "said so; 2 times in a row")]


async def test_a_finding_is_logged_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A finding is logged when it appears and when it has gone, but not when its text changes."""
    caplog.set_level(logging.INFO)
    stage.watch(a=A)
    stage.monitor.start()
    for finding in ("one", "another", "another", ""):
        asked = await stage.next()
        asked.result.set_result(ProbeResult(not finding, "detail", finding=finding, reached=True))
    await stage.next()
    assert [record.message for record in caplog.records] == [
        "backend configuration is wrong",
        "backend configuration ok",
    ]


async def _all_fail(stage: Stage, all_failing: str) -> None:
    stage.watch(rules(all_failing=all_failing, fall=1), a=A, b=B)
    stage.monitor.start()
    for ok in (True, True, False, False):
        asked = await stage.next()
        asked.result.set_result(ProbeResult(ok, "silence"))
    await stage.answer("")


async def test_backends_that_fail_all_at_once_are_retained(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """If all backends fail at once, they are unhealthy but still count, and one log line reports it."""
    await _all_fail(stage, "keep")
    assert (stage.monitor.is_up("a"), stage.monitor.is_up("b"), stage.monitor.all_failing) == (False, False, True)
    counting = {name: counts for name, counts, _ in stage.changes}
    assert counting in ({"a": True}, {"b": True})
    asked = await stage.next()
    asked.result.set_result(ProbeResult(False, "silence"))
    await stage.answer("")
    logged = [record.message for record in caplog.records if "all probes fail" in record.message]
    assert len(logged) == 1
    assert logged[0].endswith("(health.all_failing)")


async def test_if_no_probe_has_ever_succeeded_the_log_suggests_another(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Servers that never answer this kind of probe look dead. The log line asks whether they support it."""
    stage.watch(rules(all_failing="keep", fall=1), a=A)
    stage.monitor.start()
    (await stage.next()).result.set_result(SILENCE)
    await stage.answer("")
    logged = [record.message for record in caplog.records if "all probes fail" in record.message]
    assert len(logged) == 1
    assert logged[0].endswith("none has succeeded since the start: do the servers answer this health.probe?")


async def test_with_obey_no_backend_is_retained(stage: Stage) -> None:
    """With ``all_failing: obey``, no backend counts after all have failed at once."""
    await _all_fail(stage, "obey")
    assert not stage.monitor.all_failing
    assert {name: counts for name, counts, _ in stage.changes} == {"a": False, "b": False}


async def test_probes_are_counted(stage: Stage) -> None:
    """The monitor counts successful and failed probes."""
    stage.watch(a=A)
    stage.monitor.start()
    await stage.answer("++-")
    assert (stage.monitor.probes_ok, stage.monitor.probes_failed) == (2, 1)


class Paused(Stage):
    """A stage whose rests never end by themselves, and whose clock a test can set."""

    def __init__(self) -> None:
        """Set the clock to 0."""
        super().__init__()
        self.now_s = 0.0
        self.resting: asyncio.Queue[float] = asyncio.Queue()
        self.exchanged = Exchange()
        self.monitor = HealthMonitor(
            self._on_change,
            find=self._find,
            pace=Pace(now=lambda: self.now_s, sleep=self._sleep, draw=lambda: 0.5),
            traffic=lambda _: self.exchanged,
        )

    async def _sleep(self, delay_s: float) -> None:
        self.resting.put_nowait(delay_s)
        await asyncio.get_running_loop().create_future()

    async def settle(self, result: ProbeResult) -> None:
        """Answer the next probe, and wait until the rest after it begins."""
        (await self.next()).result.set_result(result)
        await asyncio.wait_for(self.resting.get(), PATIENCE_S)


@pytest.fixture
async def paused() -> AsyncIterator[Paused]:
    """Yield a paused stage with one backend. Stop its monitor at the end, and check that no task is left."""
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
    """A client's refused packet brings the probe forward. If that is refused too, the backend is unhealthy at once."""
    await paused.settle(GOOD)
    paused.monitor.hint("a")
    await paused.settle(REFUSED)
    assert paused.changes == [("a", False, "refused")]


async def test_a_hint_alone_is_no_verdict(paused: Paused) -> None:
    """After a hint, a good probe changes nothing. A refusal much later needs others in a row."""
    await paused.settle(GOOD)
    paused.monitor.hint("a")
    await paused.settle(GOOD)
    paused.now_s += 10
    paused.monitor.hint("a")
    paused.now_s += 10
    await paused.settle(REFUSED)
    assert paused.changes == []


async def test_hints_cause_one_probe_a_second(paused: Paused) -> None:
    """Many hints cause one probe a second. Hints for unknown names cause none."""
    await paused.settle(GOOD)
    for tenth in range(30):
        paused.now_s = tenth / 10
        paused.monitor.hint("a")
        paused.monitor.hint("unknown")
        for _ in range(5):  # an early probe begins within these turns of the loop
            await asyncio.sleep(0)
        if not paused.asked.empty():
            await paused.settle(GOOD)
    assert paused.monitor.probes_ok == 1 + 3


async def test_an_unhealthy_backend_is_not_probed_more_often(paused: Paused) -> None:
    """Hints do not bring the probe of an unhealthy backend forward: its clients still send packets to it."""
    await paused.settle(REFUSED)
    paused.now_s = 100.0
    paused.monitor.hint("a")
    await asyncio.sleep(0)
    assert paused.asked.empty()
    assert paused.monitor.probes_failed == 1


async def test_an_error_of_this_node_is_no_verdict(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """An error of this node changes no verdict and makes none. It is counted, shown, and logged once."""
    stage.watch(a=A)
    stage.monitor.start()
    for _ in range(10):
        (await stage.next()).result.set_result(NO_PORT)
    await stage.answer("")
    assert "a" not in stage.monitor.judged
    assert stage.monitor.own_errors.current == "EAGAIN"
    await stage.answer("-")
    assert ("a" in stage.monitor.judged, stage.monitor.is_up("a")) == (True, False)
    for _ in range(10):
        (await stage.next()).result.set_result(NO_PORT)
    await stage.answer("++")
    assert stage.monitor.own_errors.counts == {"EAGAIN": 20}
    assert stage.monitor.own_errors.current == ""
    assert (stage.monitor.probes_ok, stage.monitor.probes_failed) == (2, 1)
    assert [change[1] for change in stage.changes] == [False, True]
    logged = [record for record in caplog.records if record.message == "this node cannot send probes"]
    assert len(logged) == 2


async def test_a_probe_that_runs_out_of_memory_is_no_verdict(stage: Stage) -> None:
    """A probe that raises MemoryError, or runs out of descriptors, changes no verdict."""
    stage.watch(a=A)
    stage.monitor.start()
    (await stage.next()).result.set_exception(MemoryError())
    (await stage.next()).result.set_exception(OSError(24, "Too many open files"))
    await stage.answer("")
    assert "a" not in stage.monitor.judged
    assert stage.monitor.own_errors.counts == {"ENOMEM": 1, "EMFILE": 1}


async def test_a_server_that_answers_only_clients_is_healthy(stage: Stage) -> None:
    """Answers to clients make a silent server healthy, so the node is ready. Without them it becomes unhealthy."""
    counts = iter([Exchange(n, n, n) for n in range(8)] + [Exchange(n, 8, n) for n in range(9, 40)])
    monitor = HealthMonitor(stage._on_change, find=stage._find, pace=Clock(2.0), traffic=lambda _: next(counts))
    stage.monitor = monitor
    monitor.apply(rules(), {"a": A})
    monitor.start()
    for _ in range(6):
        (await stage.next()).result.set_result(SILENCE)
    asked = await stage.next()
    assert ("a" in monitor.judged, monitor.is_up("a"), stage.changes) == (True, True, [])
    asked.result.set_result(SILENCE)
    for _ in range(6):
        (await stage.next()).result.set_result(SILENCE)
    await stage.next()
    assert [change[1] for change in stage.changes] == [False]


class Clock(Pace):
    """A pace whose rests take no time and advance its clock by one interval each."""

    def __init__(self, interval_s: float) -> None:
        """interval_s: the length of each rest on this clock."""
        self._now_s = 0.0
        self._interval_s = interval_s
        super().__init__(now=lambda: self._now_s, sleep=self._pass, draw=lambda: 0.5)

    async def _pass(self, _: float) -> None:
        self._now_s += self._interval_s
        await asyncio.sleep(0)
