"""The health monitor: probes every backend again and again, each in a task of its own, and tells of changes.

A backend counts as healthy until its first result. An answer or a refusal decides at once then; silence, and
all that comes later, by rise and fall; a finding always at once. Where all fail at once, the fault may be this node's
(qlb.health.fleet). Whatever a probe or the listener does, the monitor goes on.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

from qlb.health.fleet import Fleet
from qlb.health.judgement import Judgement
from qlb.health.pace import Pace
from qlb.health.probes import Probe, ProbeResult, find_probe
from qlb.health.target import Target

log = logging.getLogger("qlb.health")

_PROBES_AT_ONCE: Final = 256
"""Sockets that probes may hold; a daemon with more backends probes them in turns."""

OnChange = Callable[[str, bool, str], None]
"""(name, healthy, detail): whether new connections may go to a backend has turned."""


class HealthSettings(Protocol):
    """What is read of a configuration's ``health``. interval, timeout: seconds."""

    @property
    def probe(self) -> str:
        """Name of the probe."""

    @property
    def interval(self) -> float:
        """From one probe of a backend to the next."""

    @property
    def timeout(self) -> float:
        """How long an answer may take."""

    @property
    def rise(self) -> int:
        """Good results in a row that make a backend healthy."""

    @property
    def fall(self) -> int:
        """Bad results in a row that make it unhealthy."""

    @property
    def all_failing(self) -> str:
        """``keep``: backends that fail all at once count as healthy; ``obey``: as unhealthy."""


class BackendHealth(NamedTuple):
    """What is known of a backend. healthy: the probes' verdict. detail: of the last probe.

    changed_at: Unix seconds; when the verdict became so. finding: what is wrong with how the backend is set up, or "".
    """

    healthy: bool
    detail: str
    changed_at: float
    finding: str = ""


class _Settings(NamedTuple):
    """The settings as they were when they were applied."""

    probe: str
    interval: float
    timeout: float
    rise: int
    fall: int
    all_failing: str

    @property
    def round_s(self) -> float:
        """How long it can take until every backend's silence has become a verdict, intervals' chance included."""
        return (self.fall + 1) * (max(self.interval, self.timeout) * 1.1) + self.timeout


class _Watch:
    """One backend under watch."""

    __slots__ = ("changed_at", "counts", "detail", "finding", "judged", "judgement", "target", "task")

    def __init__(self, target: Target, now: float) -> None:
        self.target = target
        self.counts = True
        self.judgement = Judgement()
        self.judged = False
        self.detail = "not probed yet: taken to be healthy"
        self.finding = ""
        self.changed_at = now
        self.task: asyncio.Task[None] | None = None


class HealthMonitor:
    """Probes the backends of one daemon."""

    def __init__(
        self,
        on_change: OnChange,
        *,
        find: Callable[[str], Probe] = find_probe,
        pace: Pace | None = None,
        unix_time: Callable[[], float] = time.time,
    ) -> None:
        """on_change: called in the event loop, only when it turns whether a backend counts. find: name → probe."""
        self._on_change = on_change
        self._find = find
        self._pace = pace or Pace()
        self._unix_time = unix_time
        self._settings = _Settings("none", 1.0, 1.0, 1, 1, "keep")
        self._probe = find("none")
        self._watches: dict[str, _Watch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_PROBES_AT_ONCE)
        self._started = False
        self._fleet = Fleet()
        self.probes_ok = 0
        """Probes whose result was good, since the start."""
        self.probes_failed = 0

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
        before, now = self._settings, _Settings(*(getattr(settings, name) for name in _Settings._fields))
        self._probe, self._settings = probe, now
        gone = self._watches.keys() - targets.keys()
        self._fleet.forget(gone)
        for name in gone:
            _cancel(self._watches.pop(name))
        for name, target in targets.items():
            watch = self._watches.setdefault(name, _Watch(target, self._unix_time()))
            other = (watch.target, before.probe) != (target, now.probe)
            watch.target = target
            if other:
                watch.judgement.begin_anew()
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

    def start(self) -> None:
        """Begin to probe: every backend at once, then each at its own pace."""
        self._started = True
        for name, watch in self._watches.items():
            self._restart(name, watch)

    async def stop(self) -> None:
        """Stop probing; return when no probe is under way."""
        self._started = False
        for watch in self._watches.values():
            _cancel(watch)
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _restart(self, name: str, watch: _Watch) -> None:
        _cancel(watch)
        if self._started:
            watch.task = asyncio.create_task(self._keep_watch(name, watch), name=f"health of {name}")
            self._tasks.add(watch.task)
            watch.task.add_done_callback(self._tasks.discard)

    async def _keep_watch(self, name: str, watch: _Watch) -> None:
        while True:
            began_s = self._pace.now()
            async with self._slots:
                result = await self._ask(name, watch.target)
            self._take(name, watch, result)
            if result.final:
                return
            await self._pace.rest(began_s, self._settings.interval)

    async def _ask(self, name: str, target: Target) -> ProbeResult:
        try:
            return await self._probe(target, self._settings.timeout)
        except Exception as error:
            log.exception("probe failed", extra={"backend": name})
            return ProbeResult(ok=False, detail=f"the probe itself failed: {error!r}")

    def _take(self, name: str, watch: _Watch, result: ProbeResult) -> None:
        watch.detail, watch.judged = result.detail, True
        self.probes_ok += result.ok
        self.probes_failed += not result.ok
        self._note_finding(name, watch, result.finding)
        settings, now_s = self._settings, self._pace.now()
        results = watch.judgement.take(
            result.ok, rise=settings.rise, fall=settings.fall, doubtful=result.doubtful, certain=bool(result.finding)
        )
        was_failing = self._fleet.failing
        if results:
            watch.changed_at = self._unix_time()
            self._fleet.take(
                name,
                result.ok,
                at_s=now_s,
                window_s=settings.round_s if settings.all_failing == "keep" else -1.0,
                everybody=self._watches,
                reached=result.reached,
            )
        if self._fleet.release(now_s) or results:
            self._tell(name, f"{result.detail}; {results} times in a row" if results > 1 else result.detail)
            self._tell_of_fleet(was_failing)

    def _tell(self, name: str, detail: str) -> None:
        """Tell of every backend that counts otherwise than before. detail: of the one that was probed last."""
        for other, watch in self._watches.items():
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
                "all probes fail: taken for this node's own fault; routing stays as it was (health.all_failing)"
            )
        elif was_failing and not self._fleet.failing:
            log.info("probes succeed again: every verdict applies")

    def _note_finding(self, name: str, watch: _Watch, finding: str) -> None:
        """Log a finding when it appears or is another one, and when it has gone."""
        if finding and not watch.finding:
            log.warning("backend is set up wrongly", extra={"backend": name, "finding": finding})
        elif watch.finding and not finding:
            log.info("backend is set up rightly again", extra={"backend": name})
        watch.finding = finding


def _cancel(watch: _Watch) -> None:
    if watch.task is not None:
        watch.task.cancel()
        watch.task = None
