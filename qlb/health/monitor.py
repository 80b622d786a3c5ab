"""The health monitor: probes every backend again and again, each in a task of its own, and tells of changes.

A backend counts as healthy until its first result. An answer or a refusal decides at once then; silence, and
all that comes later, by rise and fall.
Whatever a probe or the listener does, the monitor goes on.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, Protocol

from qlb.health.judgement import Judgement
from qlb.health.pace import Pace
from qlb.health.probes import Probe, ProbeResult, find_probe
from qlb.routing.backends import Endpoint

log = logging.getLogger("qlb.health")

_PROBES_AT_ONCE: Final = 256
"""Sockets that probes may hold; a daemon with more backends probes them in turns."""

OnChange = Callable[[str, bool, str], None]
"""(name, healthy, detail): a backend's health has turned."""


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


class BackendHealth(NamedTuple):
    """What is known of a backend. detail: of the last probe. changed_at: Unix seconds; when it became so."""

    healthy: bool
    detail: str
    changed_at: float


class _Settings(NamedTuple):
    """The settings as they were when they were applied."""

    probe: str
    interval: float
    timeout: float
    rise: int
    fall: int


class _Watch:
    """One backend under watch."""

    __slots__ = ("changed_at", "detail", "endpoint", "judged", "judgement", "task")

    def __init__(self, endpoint: Endpoint, now: float) -> None:
        self.endpoint = endpoint
        self.judgement = Judgement()
        self.judged = False
        self.detail = "not probed yet: taken to be healthy"
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
        """on_change: called in the event loop, only when a backend's health turns. find: name → probe."""
        self._on_change = on_change
        self._find = find
        self._pace = pace or Pace()
        self._unix_time = unix_time
        self._settings = _Settings("none", 1.0, 1.0, 1, 1)
        self._probe = find("none")
        self._watches: dict[str, _Watch] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_PROBES_AT_ONCE)
        self._started = False

    @property
    def states(self) -> Mapping[str, BackendHealth]:
        """Backend name → what is known of it now."""
        return {
            name: BackendHealth(watch.judgement.healthy, watch.detail, watch.changed_at)
            for name, watch in self._watches.items()
        }

    def has_judged(self, name: str) -> bool:
        """Say whether a backend's health was found out, rather than taken for granted."""
        watch = self._watches.get(name)
        return watch is not None and watch.judged

    def detail(self, name: str) -> str:
        """Return what the last probe of a backend found; empty where there is no such backend."""
        watch = self._watches.get(name)
        return watch.detail if watch else ""

    def apply(self, settings: HealthSettings, endpoints: Mapping[str, Endpoint]) -> None:
        """Watch these backends in this way from now on; before the start, or at any time after it.

        Backends that stay keep their health. Where the address or the kind of probe is another one, the next
        result decides at once. Raises ConfigError, changing nothing, where there is no such probe.
        """
        probe = self._find(settings.probe)
        before, now = self._settings, _Settings(*(getattr(settings, name) for name in _Settings._fields))
        self._probe, self._settings = probe, now
        for name in self._watches.keys() - endpoints.keys():
            _cancel(self._watches.pop(name))
        for name, endpoint in endpoints.items():
            watch = self._watches.setdefault(name, _Watch(endpoint, self._unix_time()))
            other = (watch.endpoint, before.probe) != (endpoint, now.probe)
            if other:
                watch.judgement.begin_anew()
                watch.endpoint = endpoint
            if other or watch.task is None or before.interval != now.interval:
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
                result = await self._ask(name, watch.endpoint)
            self._take(name, watch, result)
            if result.final:
                return
            await self._pace.rest(began_s, self._settings.interval)

    async def _ask(self, name: str, endpoint: Endpoint) -> ProbeResult:
        try:
            return await self._probe(endpoint, self._settings.timeout)
        except Exception as error:
            log.exception("probe failed", extra={"backend": name})
            return ProbeResult(ok=False, detail=f"the probe itself failed: {error!r}")

    def _take(self, name: str, watch: _Watch, result: ProbeResult) -> None:
        watch.detail, watch.judged = result.detail, True
        settings = self._settings
        results = watch.judgement.take(result.ok, rise=settings.rise, fall=settings.fall, doubtful=result.doubtful)
        if not results:
            return
        watch.changed_at = self._unix_time()
        detail = f"{result.detail}; {results} times in a row" if results > 1 else result.detail
        try:
            self._on_change(name, result.ok, detail)
        except Exception:
            log.exception("cannot tell of a change of health", extra={"backend": name})


def _cancel(watch: _Watch) -> None:
    if watch.task is not None:
        watch.task.cancel()
        watch.task = None
