"""Reloads: who asks for one, when one that was refused is tried again, and what happens meanwhile.

    asked (SIGHUP, qlb reload, POST /reload, a changed file)
      -> prepare (aside; changes nothing) -> commit (short) -> in force
           | wrong                | unsafe
           v                      v
         refused                refused; the backends in the way drain
           `---- tried again: a file changes, the packets in the way fall silent ----^

Only with reload_on_change is a refused reload tried again: then the files are what the daemon follows. Without it the
refusal is the answer to an operator, and nothing happens until the next request.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Generic, NamedTuple, Protocol, TypeVar

from qlb.admin import ReloadOutcome
from qlb.config.load import Loaded
from qlb.daemon import file_watch
from qlb.daemon.desired import Desired
from qlb.daemon.file_watch import FileWatch, files_of
from qlb.daemon.guard import Objection
from qlb.daemon.prepare import Prepared, prepare_aside
from qlb.errors import QlbError

T = TypeVar("T")


class Coalesced(Generic[T]):
    """One run at a time. Requests that come during a run share one more run, which begins when that one ends."""

    def __init__(self, work: Callable[[], Awaitable[T]]) -> None:
        """work: what a run does."""
        self._work = work
        self._running: asyncio.Task[T] | None = None
        self._waiting: asyncio.Task[T] | None = None

    async def request(self) -> T:
        """Return the result of a run that began after this call. A caller that gives up ends no run."""
        if self._waiting is None:
            self._waiting = asyncio.create_task(self._run_after(self._running))
        return await asyncio.shield(self._waiting)

    async def stop(self) -> None:
        """End what runs and what waits."""
        tasks = [task for task in (self._running, self._waiting) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_after(self, before: asyncio.Task[T] | None) -> T:
        if before is not None:
            await asyncio.wait([before])
        self._running, self._waiting = self._waiting, None
        return await self._work()


log = logging.getLogger("qlb")

CALM_S: Final = 0.25
"""Signals that follow one another faster than this are one request, made when they pause."""
MAX_STORM_S: Final = 5.0
"""Signals that never pause are a request after this time."""
MIN_RETRY_S: Final = 1.0
MACHINE_RETRY_S: Final = 60.0
"""Until a configuration that only this machine cannot run is tried again."""
DUTY: Final = 10
"""A retry waits at least so many times as long as the last attempt took: large files are not read all the time."""


class TakenOver(NamedTuple):
    """A configuration in force. changes: in words. behind: what does not forward by it yet, one sentence each."""

    changes: tuple[str, ...] = ()
    behind: tuple[str, ...] = ()


class Reloadable(Protocol):
    """What a reload is done to."""

    desired: Desired

    def why_no_reload(self) -> str:
        """Return why nothing can be reloaded now, or ""."""

    async def objections(self, loaded: Loaded) -> Sequence[Objection]:
        """Return what speaks against going over to a configuration now."""

    async def take_over(self, loaded: Loaded) -> TakenOver:
        """Bring a configuration into force everywhere. Raises QlbError, changing nothing."""

    async def tell_engine(self) -> Sequence[str]:
        """Have workers do what is wanted now; return what does not forward by it after a while."""


class Reloads:
    """All reloads of one daemon, one at a time."""

    def __init__(self, path: Path, daemon: Reloadable) -> None:
        """path: of the configuration. daemon: with a configuration that has just been read from there."""
        self._path = path
        self._daemon = daemon
        self._watch = FileWatch.now(files_of(path, daemon.desired.config))
        self._one = asyncio.Lock()
        self._asked = Coalesced(lambda: self._attempt(force=False, by_itself=False))
        self._forced = Coalesced(lambda: self._attempt(force=True, by_itself=False))
        self._signalled_at = float("-inf")
        self._storm: asyncio.Task[None] | None = None
        self._retry_at: float | None = None
        self._logged: tuple[str, ...] = ()
        self.problems: tuple[str, ...] = ()
        """Why the last reload was refused; empty where it was not."""

    @property
    def retry_s(self) -> float | None:
        """Seconds until a refused reload is tried again; None where only a change of a file makes it be tried."""
        return None if self._retry_at is None else max(self._retry_at - asyncio.get_running_loop().time(), 0.0)

    async def request(self, *, force: bool) -> ReloadOutcome:
        """Reload. Requests at the same time share one reload that begins after all of them."""
        return await (self._forced if force else self._asked).request()

    def signal(self) -> None:
        """Reload because of a signal: at once, or when a storm of signals pauses."""
        now_s = asyncio.get_running_loop().time()
        is_calm, self._signalled_at = now_s - self._signalled_at > CALM_S, now_s
        if self._storm is None:
            self._storm = asyncio.create_task(self._on_signal(now_s, is_calm=is_calm))

    async def follow(self) -> None:
        """Reload by itself when it is time to, if the configuration wants that. Runs as long as the daemon."""
        while True:
            await asyncio.sleep(file_watch.INTERVAL_S)
            if not self._daemon.desired.config.reload_on_change or self._one.locked():
                continue
            changed = await asyncio.to_thread(self._watch.has_changed)
            if (changed or self.retry_s == 0.0) and not self._daemon.why_no_reload():
                await self._attempt(force=False, by_itself=True)

    async def stop(self) -> None:
        """End what is under way."""
        if self._storm is not None:
            self._storm.cancel()
        await self._asked.stop()
        await self._forced.stop()

    async def _on_signal(self, began_s: float, *, is_calm: bool) -> None:
        loop = asyncio.get_running_loop()
        while not is_calm and loop.time() - began_s < MAX_STORM_S:
            await asyncio.sleep(CALM_S)
            is_calm = loop.time() - self._signalled_at >= CALM_S
        self._storm = None
        await self._asked.request()

    async def _attempt(self, *, force: bool, by_itself: bool) -> ReloadOutcome:
        async with self._one:
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            if why := self._daemon.why_no_reload():
                log.error("reload refused: %s", why)
                return ReloadOutcome(False, self._daemon.desired.generation, (why,))
            prepared = await prepare_aside(self._path, self._daemon.desired.config)
            self._watch.read(prepared.looks)
            unsafe: Sequence[Objection] = ()
            if prepared.loaded is not None and not force:
                unsafe = await self._daemon.objections(prepared.loaded)
            if prepared.loaded is None or unsafe:
                took_s = loop.time() - began_s
                return await self._refuse(prepared, unsafe, min_wait_s=DUTY * took_s, by_itself=by_itself)
            return await self._commit(prepared.loaded, force=force, by_itself=by_itself)

    async def _commit(self, loaded: Loaded, *, force: bool, by_itself: bool) -> ReloadOutcome:
        desired, drained = self._daemon.desired, self._daemon.desired.leaving
        try:
            told, behind = await self._daemon.take_over(loaded)
        except QlbError as error:
            prepared = Prepared(None, getattr(error, "problems", (str(error),)), {}, may_pass=True)
            return await self._refuse(prepared, (), min_wait_s=0.0, by_itself=by_itself)
        self.problems, self._logged, self._retry_at = (), (), None
        extra = {"generation": desired.generation, "changes": "; ".join(told) or "no changes"}
        log.info("reloaded", extra=extra | ({"forced": True} if force else {}))
        self._log_undrained(drained)
        if behind:
            log.error("reload incomplete: %s", "; ".join(behind))
        return ReloadOutcome(
            not behind,
            desired.generation,
            behind,
            warnings=desired.warnings,
            changes=told,
            unchanged=not told,
            incomplete=bool(behind),
        )

    async def _refuse(
        self, prepared: Prepared, unsafe: Sequence[Objection], *, min_wait_s: float, by_itself: bool
    ) -> ReloadOutcome:
        """Report why a configuration is not taken over, and decide when it is tried again."""
        desired = self._daemon.desired
        self.problems = tuple(one.text for one in unsafe) or prepared.problems
        about = tuple(sorted({one.about for one in unsafe})) or prepared.problems
        self._retry_at = None
        if desired.config.reload_on_change:
            wait_s = max((one.wait_s for one in unsafe), default=MACHINE_RETRY_S if prepared.may_pass else None)
            if wait_s is not None:
                self._retry_at = asyncio.get_running_loop().time() + max(wait_s, min_wait_s, MIN_RETRY_S)
        if not by_itself or about != self._logged:
            log.error("reload refused: %s", "; ".join(self.problems), extra=self._when())
        self._logged = about
        if unsafe and desired.config.reload_on_change:
            await self._drain(frozenset(one.backend for one in unsafe if one.backend is not None))
        return ReloadOutcome(False, desired.generation, self.problems, unsafe=bool(unsafe))

    def _when(self) -> dict[str, object]:
        if not self._daemon.desired.config.reload_on_change:
            return {}
        retry_s = self.retry_s
        return {"again": "when a file changes" if retry_s is None else f"in {retry_s:.0f} s or when a file changes"}

    async def _drain(self, names: frozenset[str]) -> None:
        """Drain the backends that are in the way of a reload, and no others."""
        desired = self._daemon.desired
        before = desired.leaving
        if names == before:
            return
        desired.drain_for(names)
        for name in sorted(names - before):
            log.info("backend drains: the configuration on disk waits for its last packet", extra={"backend": name})
        if names and not desired.drains_leaving:
            log.warning("backends that should drain take new connections: no other backend does")
        self._log_undrained(before - names)
        await self._daemon.tell_engine()

    def _log_undrained(self, names: frozenset[str]) -> None:
        present = {one.name for one in self._daemon.desired.backends if one is not None} if names else ()
        for name in sorted(names & frozenset(present)):
            log.info("backend no longer drains for a reload", extra={"backend": name})
