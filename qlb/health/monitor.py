"""The health monitor: probes every backend again and again, each in a task of its own, and tells of changes.

A backend counts as healthy until its first result. An answer or a refusal decides at once then; silence, and
all that comes later, by rise and fall; a finding always at once. Where all fail at once, the fault may be this node's
(qlb.health.verdict). Whatever a probe or the listener does, the monitor goes on.

Real traffic has a say, too (qlb.health.verdict): a refusal of it brings the next probe forward, and if that probe is
refused as well, the backend is unhealthy at once; answers of a backend whose server never answers probes are good
results. An error of this node's own socket is no result.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from qlb.health.probe import Probe, ProbeResult, Target
from qlb.health.probes import find_probe
from qlb.health.settings import HealthSettings, Settings
from qlb.health.verdict import Exchange, Fleet, OwnErrors, own_error
from qlb.health.watch import BackendHealth, Watch

_JITTER: Final = 0.1
"""An interval is up to this share longer or shorter."""


class Pace:
    """Time and chance, from outside."""

    __slots__ = ("_draw", "_sleep", "now")

    def __init__(
        self,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """now: seconds of a clock that only goes forward. draw: a number from 0 to 1."""
        self.now = now
        self._sleep = sleep
        self._draw = draw

    async def rest(self, began_s: float, interval_s: float) -> None:
        """Sleep until about interval_s after began_s; not at all where that is over."""
        jittered_s = interval_s * (1 + _JITTER * (2 * self._draw() - 1))
        await self._sleep(max(began_s + jittered_s - self.now(), 0.0))


log = logging.getLogger("qlb.health")

_PROBES_AT_ONCE: Final = 256
"""Sockets that probes may hold; a daemon with more backends probes them in turns."""
_COUNTS_LATE_S: Final = 2.0
"""How late the counts of real traffic may be: they are taken once a second."""

OnChange = Callable[[str, bool, str], None]
"""(name, healthy, detail): whether new connections may go to a backend has turned."""


class HealthMonitor:
    """Probes the backends of one daemon."""

    def __init__(
        self,
        on_change: OnChange,
        *,
        find: Callable[[str], Probe] = find_probe,
        pace: Pace | None = None,
        unix_time: Callable[[], float] = time.time,
        traffic: Callable[[str], Exchange] = lambda _: Exchange(),
    ) -> None:
        """on_change: called in the event loop, only when it turns whether a backend counts. find: name → probe.

        traffic: backend name → its packets since the start, at most some seconds old.
        """
        self._on_change = on_change
        self._find = find
        self._pace = pace or Pace()
        self._unix_time = unix_time
        self._traffic = traffic
        self._settings = Settings("none", 1.0, 1.0, 1, 1, "keep")
        self._probe = find("none")
        self._watches: dict[str, Watch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_PROBES_AT_ONCE)
        self._started = False
        self._fleet = Fleet()
        self.probes_ok = 0
        """Probes whose result was good, since the start."""
        self.probes_failed = 0
        self.own_errors = OwnErrors()

    @property
    def all_failing(self) -> bool:
        """Whether backends count as healthy against their verdict, since all have failed at once."""
        return self._fleet.failing

    @property
    def states(self) -> Mapping[str, BackendHealth]:
        """Backend name → what is known of it now."""
        return {
            name: BackendHealth(watch.judgement.healthy, watch.detail, watch.changed_at, watch.finding)
            for name, watch in self._watches.items()
        }

    def has_judged(self, name: str) -> bool:
        """Say whether a backend's health was found out, rather than taken for granted."""
        watch = self._watches.get(name)
        return watch is not None and watch.judged

    @property
    def judged(self) -> frozenset[str]:
        """Every backend whose health was found out."""
        return frozenset(name for name, watch in self._watches.items() if watch.judged)

    def is_up(self, name: str) -> bool:
        """Return the probes' verdict on a backend: True before the first; False where there is no such backend."""
        watch = self._watches.get(name)
        return watch is not None and watch.judgement.healthy

    def finding(self, name: str) -> str:
        """Return what is wrong with how a backend is set up; "" where nothing is, or there is no such backend."""
        watch = self._watches.get(name)
        return watch.finding if watch else ""

    def detail(self, name: str) -> str:
        """Return what the last probe of a backend found; empty where there is no such backend."""
        watch = self._watches.get(name)
        return watch.detail if watch else ""

    def apply(self, settings: HealthSettings, targets: Mapping[str, Target]) -> None:
        """Watch these backends in this way from now on; before the start, or at any time after it.

        targets: by backend name. Backends that stay keep their health. Where what is asked for, or how, is another
        thing, the next result decides at once. Raises ConfigError, changing nothing, where there is no such probe.
        """
        probe = self._find(settings.probe)
        before, now = self._settings, Settings.of(settings)
        self._probe, self._settings = probe, now
        gone = self._watches.keys() - targets.keys()
        self._fleet.forget(gone)
        for name in gone:
            self._watches.pop(name).cancel()
            self.own_errors.forget(name)
        for name, target in targets.items():
            watch = self._watches.setdefault(name, Watch(target, self._unix_time(), self._traffic(name)))
            other = (watch.target, before.probe) != (target, now.probe)
            watch.target = target
            if other:
                watch.begin_anew()
            if other or watch.task is None or before.interval != now.interval:
                self._restart(name, watch)

    def recall(self, verdicts: Mapping[str, bool]) -> None:
        """Take over what an earlier process has found out, by name; before the start. The first result decides anew."""
        for name in verdicts.keys() & self._watches.keys():
            watch, healthy = self._watches[name], verdicts[name]
            watch.judgement.healthy, watch.judged = healthy, True
            watch.detail = "not probed yet: as it was before the restart"
            self._fleet.take(name, healthy, at_s=self._pace.now(), window_s=-1.0, everybody=self._watches, reached=True)
            watch.counts = healthy

    def hint(self, name: str) -> None:
        """Take in that a client's packet to a backend was refused (ECONNREFUSED): probe it now, not after the interval.

        At most once a second for each backend, and not while it is unhealthy or being probed: whatever clients send
        causes no more than that.
        """
        watch = self._watches.get(name)
        if watch is not None and watch.note_refusal(self._pace.now()):
            self._restart(name, watch)

    def start(self) -> None:
        """Begin to probe: every backend at once, then each at its own pace."""
        self._started = True
        for name, watch in self._watches.items():
            self._restart(name, watch)

    async def stop(self) -> None:
        """Stop probing; return when no probe is under way."""
        self._started = False
        for watch in self._watches.values():
            watch.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _restart(self, name: str, watch: Watch) -> None:
        watch.cancel()
        if self._started:
            watch.task = asyncio.create_task(self._keep_watch(name, watch), name=f"health of {name}")
            self._tasks.add(watch.task)
            watch.task.add_done_callback(self._tasks.discard)

    async def _keep_watch(self, name: str, watch: Watch) -> None:
        while True:
            began_s = self._pace.now()
            async with self._slots:
                result = await self._ask(name, watch.target)
            self._take(name, watch, result)
            if result.final:
                return
            watch.resting = True
            await self._pace.rest(began_s, self._settings.interval)
            watch.resting = False

    async def _ask(self, name: str, target: Target) -> ProbeResult:
        try:
            return await self._probe(target, self._settings.timeout)
        except Exception as error:
            log.exception("probe failed", extra={"backend": name})
            own = own_error(error)
            return ProbeResult(ok=False, detail=f"the probe itself failed: {error!r}", error=own, void=bool(own))

    def _take(self, name: str, watch: Watch, result: ProbeResult) -> None:
        settings, now_s = self._settings, self._pace.now()
        self.own_errors.take(name, result.error, result.detail)
        if not result.error:
            self.probes_ok += result.ok
            self.probes_failed += not result.ok
        since_s = now_s - settings.turn_s - _COUNTS_LATE_S
        result = watch.weigh(result, self._traffic(name), now_s, since_s)
        watch.detail = result.detail
        if result.void:
            return
        watch.judged = True
        self._note_finding(name, watch, result.finding)
        results = watch.judgement.take(
            result.ok,
            rise=settings.rise,
            fall=settings.fall,
            doubtful=result.doubtful,
            certain=bool(result.finding) or (result.refused and watch.was_refused(now_s)),
        )
        was_failing = self._fleet.failing
        if results:
            watch.turned(self._unix_time())
            self._fleet.take(
                name,
                result.ok,
                at_s=now_s,
                window_s=settings.round_s if settings.all_failing == "keep" else -1.0,
                everybody=self._watches,
                reached=result.reached,
            )
        released = self._fleet.release(now_s)
        if released or results:
            alone = not (released or was_failing or self._fleet.failing)
            detail = f"{result.detail}; {results} times in a row" if results > 1 else result.detail
            self._tell(name, detail, {name: watch} if alone else self._watches)
            self._tell_of_fleet(was_failing)

    def _tell(self, name: str, detail: str, concerned: Mapping[str, Watch]) -> None:
        """Tell of every backend that counts otherwise than before. detail: of the one that was probed last.

        concerned: those whose counting can have changed; all of them only where the fleet is held or released.
        """
        for other, watch in concerned.items():
            counts = self._fleet.counts_as_healthy(other)
            if counts is watch.counts:
                continue
            watch.counts = counts
            try:
                self._on_change(other, counts, detail if other == name else watch.detail)
            except Exception:
                log.exception("cannot tell of a change of health", extra={"backend": other})

    def _tell_of_fleet(self, was_failing: bool) -> None:
        if self._fleet.failing and not was_failing:
            log.warning(
                "all probes fail: taken for this node's own fault; routing stays as it was (health.all_failing)%s",
                ""
                if self.probes_ok
                else "; none has succeeded since the start: do the servers answer this health.probe?",
            )
        elif was_failing and not self._fleet.failing:
            log.info("probes succeed again: every verdict applies")

    def _note_finding(self, name: str, watch: Watch, finding: str) -> None:
        """Log a finding when it appears or is another one, and when it has gone."""
        if finding and not watch.finding:
            log.warning("backend is set up wrongly", extra={"backend": name, "finding": finding})
        elif watch.finding and not finding:
            log.info("backend is set up rightly again", extra={"backend": name})
        watch.finding = finding
