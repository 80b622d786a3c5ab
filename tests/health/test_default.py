"""The default probe: signs of life as of ``quic``, the IDs as of ``handshake``, and turns in large pools."""

import asyncio
import sys
from collections.abc import Callable, Coroutine

import pytest

from qlb.addresses import Endpoint
from qlb.health import probes
from qlb.health.monitor import HealthConfig, HealthMonitor
from qlb.health.pace import BURST, PER_S, Pace, Turns
from qlb.health.probe import ProbeResult, Target
from qlb.health.probes import chosen, describe, find_probe, merge
from qlb.health.verdict import Exchange
from qlb.health.version_negotiation import probe_version_negotiation
from qlb.health.watch import STUCK, Watch

TARGET = Target("a", Endpoint("192.0.2.1", 443), {1: (b"abcd",)})
ALIVE = ProbeResult(True, "it answers", reached=True)
SILENT = ProbeResult(False, "no answer", doubtful=True, silent=True)
REFUSED = ProbeResult(False, "refused", reached=True, refused=True)
RIGHT = ProbeResult(True, "its own", reached=True, own_ids=True)
WRONG = ProbeResult(False, "wrong", reached=True, finding="wrong")
SLOW = ProbeResult(False, "no complete handshake", reached=True)


def test_it_depends_on_aioquic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default is a handshake where aioquic is installed. Finding that out imports nothing."""
    assert [chosen(name) for name in ("auto", "quic", "none")] == ["handshake", "quic", "none"]
    assert "includes handshakes" in describe("auto")
    monkeypatch.setattr(probes, "_NEEDED", "no_such_library")
    assert chosen("auto") == "quic"
    assert find_probe("auto") is probe_version_negotiation
    assert "not that its connection IDs lead back to it (with `pip install 'qlb[aioquic]'`" in describe("auto")


def test_an_aioquic_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """If aioquic is broken, the default is the probe ``quic``, and no error."""
    monkeypatch.setitem(sys.modules, "qlb.health.handshake", None)
    assert find_probe("auto") is probe_version_negotiation


@pytest.mark.parametrize(
    ("alive", "ids", "ok", "finding"),
    [
        (ALIVE, RIGHT, True, ""),
        (SILENT, RIGHT, True, ""),
        (ALIVE, WRONG, False, "wrong"),
        (ALIVE, SLOW, True, ""),
        (ALIVE, SILENT, True, ""),
        (SILENT, SLOW, False, ""),
        (SILENT, SILENT, False, ""),
        (REFUSED, REFUSED, False, ""),
    ],
)
def test_the_better_result_counts(alive: ProbeResult, ids: ProbeResult, ok: bool, finding: str) -> None:
    """A wrong ID always counts. Otherwise a server is alive if it answers either probe."""
    found = merge(alive, ids)
    assert (found.ok, found.finding) == (ok, finding)
    assert found.silent == (alive.silent and not ids.ok)


def test_the_detail_names_what_the_handshake_lacks() -> None:
    """The detail of a server that answers and completes no handshake has both."""
    assert merge(ALIVE, SLOW).detail == "it answers; no complete handshake"


def _watches(count: int) -> list[Watch]:
    return [Watch(TARGET, Exchange()) for _ in range(count)]


def test_in_a_small_pool_every_probe_is_a_handshake() -> None:
    """Twenty backends with the default interval have their turn each time."""
    turns, watches = Turns(), _watches(20)
    taken = [turns.take(watch, 20, 2.0 * number) for number in range(30) for watch in watches]
    assert all(taken)


@pytest.mark.parametrize("count", [100, 2000])
def test_in_a_large_pool_they_take_turns(count: int) -> None:
    """There are about PER_S handshakes a second, and every backend has its share."""
    turns, watches, taken = Turns(), _watches(count), [0] * count
    ticks = round(4 * count / PER_S)
    for tick in range(ticks):
        for at in range(count):
            taken[at] += turns.take(watches[at], count, tick + at / count)
    assert 0.5 * PER_S * ticks <= sum(taken) <= BURST + 1.25 * PER_S * ticks
    assert max(taken) - min(taken) <= 1


Answer = Callable[[Target, float], Coroutine[None, None, ProbeResult]]


class Bench:
    """A monitor with the default probe, whose results a test sets."""

    def __init__(self) -> None:
        """Start with right IDs."""
        self.quic, self.handshake = ALIVE, RIGHT
        self.now_s = 0.0
        self.monitor = HealthMonitor(
            lambda *_: None, find=self._find, pace=Pace(now=lambda: self.now_s, sleep=self._sleep, draw=lambda: 0.5)
        )
        self._next = asyncio.Event()
        self._done = asyncio.Event()

    def _find(self, name: str) -> Answer:
        async def probe(target: Target, timeout_s: float) -> ProbeResult:  # noqa: ARG001 (the signature of a Probe)
            return self.quic if name == "quic" else self.handshake

        return probe

    async def _sleep(self, delay_s: float) -> None:  # noqa: ARG002 (a sleep)
        self._done.set()
        await self._next.wait()
        self._next.clear()

    async def probed(self, *, turn: bool) -> bool:
        """Let the monitor probe once. turn: the backend has its turn. Return the verdict."""
        self.now_s += 100.0 if turn else 0.0
        self.monitor._turns._left = BURST if turn else 0.0
        self._done.clear()
        self._next.set()
        async with asyncio.timeout(60):
            await self._done.wait()
        return self.monitor.is_up("a")


async def test_a_probe_without_a_turn_ends_no_finding() -> None:
    """Only right IDs end a finding. An answer to a light probe, or a handshake that shows no ID, does not."""
    bench = Bench()
    rules = HealthConfig(probe="auto", interval_s=2.0, timeout_s=1.0, rise=1, fall=3, all_failing="obey")
    bench.monitor.apply(rules, {"a": TARGET})
    bench.monitor.start()
    assert await bench.probed(turn=True)
    bench.handshake = WRONG
    assert await bench.probed(turn=False), "a light probe was a handshake"
    assert not await bench.probed(turn=True)
    assert not await bench.probed(turn=False)
    bench.handshake = ALIVE
    assert not await bench.probed(turn=True)
    assert bench.monitor.finding("a") == "wrong"
    bench.handshake = RIGHT
    assert await bench.probed(turn=True)
    assert bench.monitor.finding("a") == ""
    assert bench.monitor.right_ids("a") >= 2
    await bench.monitor.stop()


async def test_a_server_that_answers_only_handshakes() -> None:
    """The silence of such a server between its turns is no result. After a bad turn, it counts."""
    bench = Bench()
    bench.quic = SILENT
    rules = HealthConfig(probe="auto", interval_s=2.0, timeout_s=1.0, rise=1, fall=3, all_failing="obey")
    bench.monitor.apply(rules, {"a": TARGET})
    bench.monitor.start()
    assert await bench.probed(turn=True)
    for _ in range(10):
        assert await bench.probed(turn=False)
    assert "it answers handshakes; this probe was none (no answer)" in bench.monitor.detail("a")
    bench.handshake = SILENT
    assert await bench.probed(turn=True)
    assert [await bench.probed(turn=False) for _ in range(2)] == [True, False]
    await bench.monitor.stop()


async def test_a_server_that_answers_light_probes_too() -> None:
    """The silence of a server that has answered light probes counts at once, whatever its last handshake was."""
    bench = Bench()
    rules = HealthConfig(probe="auto", interval_s=2.0, timeout_s=1.0, rise=1, fall=3, all_failing="obey")
    bench.monitor.apply(rules, {"a": TARGET})
    bench.monitor.start()
    assert await bench.probed(turn=False)
    bench.quic = SILENT
    assert [await bench.probed(turn=False) for _ in range(3)] == [True, True, False]
    await bench.monitor.stop()


async def test_all_have_wrong_ids(caplog: pytest.LogCaptureFixture) -> None:
    """If all backends answer with wrong IDs, they are retained and the node is ready: their connections work."""
    bench = Bench()
    bench.handshake = WRONG
    rules = HealthConfig(probe="auto", interval_s=2.0, timeout_s=1.0, rise=1, fall=3, all_failing="keep")
    bench.monitor.apply(rules, {"a": TARGET})
    bench.monitor.start()
    assert not await bench.probed(turn=True)
    assert bench.monitor.is_serving("a")
    assert not bench.monitor.all_failing
    assert [record.message for record in caplog.records if "every backend" in record.message]
    await bench.monitor.stop()


def test_packets_from_other_ports_need_repeated_evidence() -> None:
    """Two of three probes that tried other ports must have failed. The finding does not change the verdict."""
    watch = Watch(TARGET, Exchange())

    def after(*moves: bool | None) -> str:
        for one in moves:
            watch.note_ids(RIGHT._replace(moves=one))
        return watch.all_findings

    assert after(False) == ""
    assert after(True, True, None, False, True) == ""
    assert after(False) == STUCK
    assert after(True, None, True) == STUCK
    assert after(True) == ""
    assert after(False, False) == STUCK
    watch.begin_anew()
    assert watch.all_findings == ""
