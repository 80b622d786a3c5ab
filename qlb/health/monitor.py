"""The health monitor. It probes every backend periodically, each in its own task, and reports changes.

A backend counts as healthy until its first result. If that is an answer or a refusal, it decides at once. Silence and
all later results are subject to rise and fall; a finding always decides at once. If all backends fail at once, the
fault may be this node's (qlb.health.verdict). No error of a probe or of the listener stops the monitor.

Real traffic matters too (qlb.health.watch). A refused packet of a client brings the next probe forward; if that probe
is refused as well, the backend is unhealthy at once. For a backend that never answers probes, its answers to clients
are good results. An error of this node's own socket is no result.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from qlb.health.pace import JITTER, Pace, Turns
from qlb.health.probe import Probe, ProbeResult, Target
from qlb.health.probes import DEFAULT, find_probe
from qlb.health.verdict import Exchange, Fleet, OwnErrors, own_error
from qlb.health.watch import Watch

log = logging.getLogger("qlb.health")

_PROBES_AT_ONCE: Final = 256
"""Probes that may run, and so have sockets open, at one time. With more backends, the others wait for their turn."""
_COUNTS_LATE_S: Final = 2.0
"""The greatest age of the counts of real traffic: they are taken once a second."""

OnChange = Callable[[str, bool, str], None]
"""(name, healthy, detail): called when new connections may, or may no longer, go to a backend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    """The rules of the monitor, built from the section ``health`` of the configuration.

    probe: a name in PROBES. interval_s: from one probe of a backend to the next. timeout_s: for an answer.
    rise: good results in a row that make a backend healthy. fall: bad ones that make it unhealthy.
    all_failing: ``keep``: if all backends fail at once, they are retained; ``obey``: they are unhealthy.
    """

    probe: str
    interval_s: float
    timeout_s: float
    rise: int
    fall: int
    all_failing: str

    @property
    def longest_turn_s(self) -> float:
        """The longest time from one probe of a backend to the next, with jitter."""
        return max(self.interval_s, self.timeout_s) * (1 + JITTER)

    @property
    def longest_round_s(self) -> float:
        """The longest time until the silence of every backend has become a verdict."""
        return (self.fall + 1) * self.longest_turn_s + self.timeout_s


class HealthMonitor:
    """The prober of one daemon's backends."""

    def __init__(
        self,
        on_change: OnChange,
        *,
        find: Callable[[str], Probe] = find_probe,
        pace: Pace | None = None,
        traffic: Callable[[str], Exchange] = lambda _: Exchange(),
    ) -> None:
        """on_change: called in the event loop, when a backend begins or ceases to count as healthy.

        find: name → probe. traffic: backend name → its packets since the start, at most some seconds old.
        """
        self._on_change = on_change
        self._find = find
        self._pace = pace or Pace()
        self._traffic = traffic
        self._config = HealthConfig(probe="none", interval_s=1.0, timeout_s=1.0, rise=1, fall=1, all_failing="keep")
        """apply() replaces it before the first probe."""
        self._probe = find("none")
        self._light: Probe | None = None
        """With the default probe: the one for backends that have no turn."""
        self._turns = Turns()
        self._watches: dict[str, Watch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_PROBES_AT_ONCE)
        self._started = False
        self._fleet = Fleet()
        self.probes_ok = 0
        """Successful probes since the start."""
        self.probes_failed = 0
        self.own_errors = OwnErrors()

    @property
    def all_failing(self) -> bool:
        """True while backends that do not answer are retained, because all have failed at once."""
        return self._fleet.is_retaining and not self._all_are_wrong

    @property
    def _all_are_wrong(self) -> bool:
        """True if every backend answers with wrong connection IDs."""
        return all(watch.finding for watch in self._watches.values())

    @property
    def judged(self) -> frozenset[str]:
        """Every backend whose verdict comes from a probe, not from the assumption at the start."""
        return frozenset(name for name, watch in self._watches.items() if watch.judged)

    def is_up(self, name: str) -> bool:
        """Return the probes' verdict on a backend: True before the first result, False for an unknown backend."""
        watch = self._watches.get(name)
        return watch is not None and watch.judgement.healthy

    def is_serving(self, name: str) -> bool:
        """Return whether a backend has answered a probe and gets new connections, if only because all IDs are wrong."""
        watch = self._watches.get(name)
        return watch is not None and watch.judged and (watch.judgement.healthy or bool(watch.finding and watch.counts))

    def finding(self, name: str) -> str:
        """Return what is wrong with the connection IDs of a backend; "" if nothing is, or if it is unknown."""
        watch = self._watches.get(name)
        return watch.all_findings if watch else ""

    def right_ids(self, name: str) -> int:
        """Return the number of probes that have found only the backend's own connection IDs."""
        watch = self._watches.get(name)
        return watch.right_ids if watch else 0

    def target(self, name: str) -> Target | None:
        """Return a backend as probes see it; None if it is unknown."""
        watch = self._watches.get(name)
        return watch.target if watch else None

    def detail(self, name: str) -> str:
        """Return the result of the last probe of a backend in words; "" if the backend is unknown."""
        watch = self._watches.get(name)
        return watch.detail if watch else ""

    def apply(self, config: HealthConfig, targets: Mapping[str, Target]) -> None:
        """Monitor these backends by these rules from now on. May be called before start() and at any time after it.

        targets: by backend name. Backends that stay retain their verdict. If a backend's target or the kind of probe
        changes, the next result decides at once. Raises ConfigError, and changes nothing, if the probe is unknown.
        """
        probe = self._find(config.probe)
        light = self._find("quic") if config.probe == DEFAULT else None
        before = self._config
        self._probe, self._light, self._config = probe, light if light is not probe else None, config
        gone = self._watches.keys() - targets.keys()
        self._fleet.forget(gone)
        for name in gone:
            self._watches.pop(name).cancel()
            self.own_errors.forget(name)
        for name, target in targets.items():
            watch = self._watches.setdefault(name, Watch(target, self._traffic(name)))
            is_other = (watch.target, before.probe) != (target, config.probe)
            watch.target = target
            if is_other:
                watch.begin_anew(keep_finding=before.probe == config.probe)
            if is_other or watch.task is None or before.interval_s != config.interval_s:
                self._restart(name, watch)

    def recall(self, verdicts: Mapping[str, bool]) -> None:
        """Apply the verdicts of an earlier process, by name, before start(). The first result decides alone."""
        for name in verdicts.keys() & self._watches.keys():
            watch, healthy = self._watches[name], verdicts[name]
            watch.judgement.healthy, watch.judged = healthy, True
            watch.detail = "not probed yet: as it was before the restart"
            self._fleet.take(name, healthy, at_s=self._pace.now(), window_s=-1.0, names=self._watches, reached=True)
            watch.counts = healthy

    def hint(self, name: str) -> None:
        """Probe a backend now, because a client's packet to it was refused (ECONNREFUSED).

        At most once a second for each backend, and not while it is unhealthy or a probe is running: an attacker who
        sends many packets causes no more probes than that.
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
        """Stop probing. Return when no probe is running."""
        self._started = False
        for watch in self._watches.values():
            watch.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _restart(self, name: str, watch: Watch) -> None:
        watch.cancel()
        if self._started:
            watch.task = asyncio.create_task(self._follow(name, watch), name=f"health of {name}")
            self._tasks.add(watch.task)
            watch.task.add_done_callback(self._tasks.discard)

    async def _follow(self, name: str, watch: Watch) -> None:
        while True:
            began_s = self._pace.now()
            async with self._slots:
                result = await self._ask(name, watch)
            self._take(name, watch, result)
            if result.final:
                return
            watch.resting = True
            await self._pace.rest(began_s, self._config.interval_s)
            watch.resting = False

    async def _ask(self, name: str, watch: Watch) -> ProbeResult:
        light = self._light
        is_light = light is not None and not self._turns.take(watch, len(self._watches), self._pace.now())
        probe = light if light is not None and is_light else self._probe
        try:
            result = await probe(watch.target, self._config.timeout_s)
            return result if light is None else watch.complete(result, is_light=is_light)
        except Exception as error:
            log.exception("probe failed", extra={"backend": name})
            own = own_error(error)
            return ProbeResult(ok=False, detail=f"the probe itself failed: {error!r}", error=own, void=bool(own))

    def _take(self, name: str, watch: Watch, result: ProbeResult) -> None:
        """Apply the result of a probe: weigh it against real traffic, judge, and report what has changed."""
        config, now_s = self._config, self._pace.now()
        self.own_errors.take(name, result.error, result.detail)
        if not result.error:
            self.probes_ok += result.ok
            self.probes_failed += not result.ok
        since_s = now_s - config.longest_turn_s - _COUNTS_LATE_S
        result = watch.weigh(result, self._traffic(name), now_s, since_s)
        watch.detail = result.detail
        if result.void:
            return
        watch.judged = True
        is_worse = bool(result.finding) and not (watch.finding or watch.judgement.healthy)
        watch.note_ids(result)
        results = watch.judgement.take(
            result.ok,
            rise=config.rise,
            fall=config.fall,
            doubtful=result.doubtful,
            certain=bool(result.finding) or (result.refused and watch.was_refused(now_s)),
        )
        was_retaining = self._fleet.is_retaining
        if results or is_worse:
            watch.note_change()
            window_s = config.longest_round_s if config.all_failing == "keep" else -1.0
            self._fleet.take(
                name,
                result.ok,
                at_s=now_s,
                window_s=window_s,
                names=self._watches,
                reached=result.reached,
                has_wrong_ids=bool(result.finding),
            )
        released = self._fleet.release(now_s)
        if released or results or is_worse:
            is_alone = not (released or was_retaining or self._fleet.is_retaining)
            detail = f"{result.detail}; {results} times in a row" if results > 1 else result.detail
            self._report(name, detail, {name: watch} if is_alone else self._watches)
            self._log_retention(was_retaining)

    def _report(self, name: str, detail: str, concerned: Mapping[str, Watch]) -> None:
        """Call the listener for every backend that counts otherwise than before. detail: of the last probe, of name.

        concerned: the backends that can be affected; all of them only if backends were retained or released.
        """
        for other, watch in concerned.items():
            counts = self._fleet.counts_as_healthy(other)
            if counts is watch.counts:
                continue
            watch.counts = counts
            try:
                self._on_change(other, counts, detail if other == name else watch.detail)
            except Exception:
                log.exception("cannot report a change of health", extra={"backend": other})

    def _log_retention(self, was_retaining: bool) -> None:
        if self._fleet.is_retaining and not was_retaining and self._all_are_wrong:
            log.warning(
                "every backend has wrong connection IDs: probably the keys or server IDs of this node are wrong; new "
                "connections still go to the backends"
            )
        elif self._fleet.is_retaining and not was_retaining:
            never = "; none has succeeded since the start: do the servers answer this health.probe?"
            log.warning(
                "all probes fail: probably this node's own fault; backends are retained (health.all_failing)%s",
                "" if self.probes_ok else never,
            )
        elif was_retaining and not self._fleet.is_retaining:
            log.info("probes succeed again: every verdict applies")
