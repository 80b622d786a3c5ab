"""Requests for a reload: which of them share one, and when a refused reload is tried again.

    request (SIGHUP, qlb reload, POST /reload, a changed file)
      -> read the files (aside) -> objections? -> prepare -> commit (reload.py) -> in force
           | invalid                | unsafe
           v                        v
         refused                  refused; the backends that prevent the reload drain
           `---- tried again: a file changes, or the packets that prevent it stop ----^

A refused reload is tried again only with reload_on_change, since the daemon then follows the files. Otherwise the
refusal is the response to an operator, and the daemon waits for the next request.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from qlb.admin import ReloadOutcome
from qlb.config.changes import changes as differences
from qlb.config.load import Loaded
from qlb.daemon import files
from qlb.daemon.desired import Desired
from qlb.daemon.files import FilesRead, FileWatch, files_of, read_aside
from qlb.daemon.guard import Objection
from qlb.daemon.preflight import sources
from qlb.daemon.reload import Configuration
from qlb.errors import QlbError

T = TypeVar("T")

log = logging.getLogger("qlb")

CALM_S: Final = 0.25
"""Signals that follow one another faster than this are one request, which starts when they pause."""
MAX_STORM_S: Final = 5.0
"""Signals that never pause are a request after this time."""
MIN_RETRY_S: Final = 1.0
MACHINE_RETRY_S: Final = 60.0
"""The time until a configuration that only this machine cannot run is tried again."""
DUTY: Final = 10
"""A retry waits at least this many times as long as the last attempt took, so that large files are read rarely."""


class Coalesced(Generic[T]):
    """Work that runs once at a time. Requests during a run share one more run, which starts when that one ends."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        """work: called for each run."""
        self._work = work
        self._running: asyncio.Task[T] | None = None
        self._waiting: asyncio.Task[T] | None = None

    async def request(self) -> T:
        """Return the result of a run that started after this call. A cancelled caller does not cancel the run."""
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._run_after(self._running))
        return await asyncio.shield(self._waiting)

    async def stop(self) -> None:
        """Cancel the current run and the waiting run."""
        tasks = [task for task in (self._running, self._waiting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_after(self, before: asyncio.Task[T] | None) -> T:
        if before is not None:
            await asyncio.wait([before])
        self._running, self._waiting = self._waiting, None
        return await self._work()


class Changes(Protocol):
    """The changes of a daemon's wanted state; see reload.py."""

    no_reload: str

    @property
    def desired(self) -> Desired:
        """The wanted state that is in force."""

    async def put_in_force(self, configuration: Configuration) -> Sequence[str]:
        """Put a configuration in force. Return what does not forward by it after a while.

        Raises QlbError, changing nothing.
        """

    async def drain_for_reload(self, names: frozenset[str]) -> None:
        """Drain these backends, and no others, until a reload succeeds."""


class Reloads:
    """All reloads of one daemon, one at a time."""

    def __init__(
        self, path: Path, changes: Changes, objections: Callable[[Loaded], Awaitable[Sequence[Objection]]]
    ) -> None:
        """path: of the configuration, which the daemon has just read.

        objections: returns the objections against putting a configuration in force now.
        """
        self._path = path
        self._changes = changes
        self._objections = objections
        self._watch = FileWatch.now(files_of(path, changes.desired.config))
        self._one = asyncio.Lock()
        self._normal = Coalesced(lambda: self._attempt(force=False, by_itself=False))
        self._forced = Coalesced(lambda: self._attempt(force=True, by_itself=False))
        self._signalled_at = float("-inf")
        self._storm: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._retry_at: float | None = None
        self._logged: tuple[str, ...] = ()
        self.problems: tuple[str, ...] = ()
        """The reasons why the last reload was refused; empty if it was not."""

    @property
    def retry_s(self) -> float | None:
        """Seconds until a refused reload is tried again; None if it waits for a changed file."""
        return None if self._retry_at is None else max(self._retry_at - asyncio.get_running_loop().time(), 0.0)

    async def request(self, *, force: bool) -> ReloadOutcome:
        """Reload. Requests at the same time share one reload, which starts after all of them."""
        return await (self._forced if force else self._normal).request()

    def signal(self) -> None:
        """Reload because of a signal: at once, or when a storm of signals pauses."""
        now_s = asyncio.get_running_loop().time()
        is_calm, self._signalled_at = now_s - self._signalled_at > CALM_S, now_s
        if self._storm is None:
            self._storm = asyncio.create_task(self._on_signal(now_s, is_calm=is_calm))

    def start(self) -> None:
        """Start to reload without a request, if the configuration has reload_on_change."""
        self._following = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Cancel every reload."""
        tasks = [task for task in (self._storm, self._following) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._normal.stop()
        await self._forced.stop()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(files.INTERVAL_S)
            if not self._changes.desired.config.reload_on_change or self._one.locked():
                continue
            changed = await asyncio.to_thread(self._watch.has_changed)
            if (changed or self.retry_s == 0.0) and not self._changes.no_reload:
                await self._attempt(force=False, by_itself=True)

    async def _on_signal(self, began_s: float, *, is_calm: bool) -> None:
        loop = asyncio.get_running_loop()
        while not is_calm and loop.time() - began_s < MAX_STORM_S:
            await asyncio.sleep(CALM_S)
            is_calm = loop.time() - self._signalled_at >= CALM_S
        self._storm = None
        await self._normal.request()

    async def _attempt(self, *, force: bool, by_itself: bool) -> ReloadOutcome:
        async with self._one:
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            if why := self._changes.no_reload:
                log.error("reload refused", extra={"problems": (why,)})
                return ReloadOutcome(False, self._changes.desired.generation, (why,))
            result = await read_aside(self._path, self._changes.desired.config)
            self._watch.note_read(result.looks)
            unsafe: Sequence[Objection] = ()
            if result.loaded is not None and not force:
                unsafe = await self._objections(result.loaded)
            if result.loaded is None or unsafe:
                took_s = loop.time() - began_s
                return await self._refuse(result, unsafe, min_wait_s=DUTY * took_s, by_itself=by_itself)
            return await self._put_in_force(result.loaded, force=force, by_itself=by_itself)

    async def _put_in_force(self, loaded: Loaded, *, force: bool, by_itself: bool) -> ReloadOutcome:
        drained, running = self._changes.desired.leaving, self._changes.desired.config
        try:
            words = await asyncio.to_thread(differences, running, loaded.config)
            behind = tuple(await self._changes.put_in_force(Configuration(loaded, words, sources(loaded.config))))
        except QlbError as error:
            result = FilesRead(None, getattr(error, "problems", (str(error),)), {}, may_pass=True)
            return await self._refuse(result, (), min_wait_s=0.0, by_itself=by_itself)
        generation = self._changes.desired.generation
        self.problems, self._logged, self._retry_at = (), (), None
        extra = {"generation": generation, "changes": "; ".join(words) or "no changes"}
        log.info("reloaded", extra=extra | ({"forced": True} if force else {}))
        self._log_undrained(drained)
        if behind:
            log.error("reload incomplete", extra={"problems": behind})
        return ReloadOutcome(
            not behind,
            generation,
            behind,
            warnings=self._changes.desired.warnings,
            changes=words,
            unchanged=not words,
            incomplete=bool(behind),
        )

    async def _refuse(
        self, result: FilesRead, unsafe: Sequence[Objection], *, min_wait_s: float, by_itself: bool
    ) -> ReloadOutcome:
        """Report why a configuration is refused, and decide when it is tried again."""
        desired = self._changes.desired
        self.problems = tuple(one.text for one in unsafe) or result.problems
        reasons = tuple(sorted({one.about for one in unsafe})) or result.problems
        self._retry_at = None
        if desired.config.reload_on_change:
            wait_s = max((one.wait_s for one in unsafe), default=MACHINE_RETRY_S if result.may_pass else None)
            if wait_s is not None:
                self._retry_at = asyncio.get_running_loop().time() + max(wait_s, min_wait_s, MIN_RETRY_S)
        if not by_itself or reasons != self._logged:
            log.error("reload refused", extra={"problems": self.problems, **self._when()})
        self._logged = reasons
        if unsafe and desired.config.reload_on_change:
            await self._drain(frozenset(one.backend for one in unsafe if one.backend is not None))
        return ReloadOutcome(False, desired.generation, self.problems, unsafe=bool(unsafe))

    def _when(self) -> dict[str, object]:
        if not self._changes.desired.config.reload_on_change:
            return {}
        retry_s = self.retry_s
        return {"again": "when a file changes" if retry_s is None else f"in {retry_s:.0f} s or when a file changes"}

    async def _drain(self, names: frozenset[str]) -> None:
        """Drain the backends that prevent a reload, and no others."""
        before = self._changes.desired.leaving
        if names == before:
            return
        await self._changes.drain_for_reload(names)
        for name in sorted(names - before):
            log.info("backend drains: the configuration on disk waits for its last packet", extra={"backend": name})
        if names and not self._changes.desired.drains_leaving:
            log.warning("backends that should drain take new connections: no other backend does")
        self._log_undrained(before - names)

    def _log_undrained(self, names: frozenset[str]) -> None:
        present = {one.name for one in self._changes.desired.backends if one is not None} if names else ()
        for name in sorted(names & frozenset(present)):
            log.info("backend no longer drains for a reload", extra={"backend": name})
