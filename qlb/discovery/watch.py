"""All sources of one daemon, each asked when its time has come; who is there now, and how the asking went."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from qlb.discovery.source import Answer, DiscoveryError, Source
from qlb.routing.backends import Backend

log = logging.getLogger("qlb")

_MAX_ERROR_CHARACTERS: Final = 500

OnFound = Callable[[str, tuple[Backend, ...]], None]
"""What is told when a source says something else than before: its name, and all that is there now."""


@dataclass
class Watched:
    """One source. up: the last question was answered. answered_at: of the clock, seconds; None for never. error: or "".

    backends: of the last good answer.
    """

    source: Source
    up: bool = False
    answered_at: float | None = None
    error: str = ""
    backends: tuple[Backend, ...] | None = None
    remarks: tuple[str, ...] = ()
    empty: int = 0
    """Answers in a row that nobody is there any more, which are not believed yet."""
    task: asyncio.Task[None] | None = None


class Discovery:
    """The sources."""

    def __init__(self, on_found: OnFound, *, now: Callable[[], float] = time.monotonic) -> None:
        """on_found: told of changes, in this thread's loop."""
        self._on_found = on_found
        self._now = now
        self._watched: dict[str, Watched] = {}

    @property
    def sources(self) -> Mapping[str, Watched]:
        """Every source, by name."""
        return self._watched

    def apply(self, sources: Iterable[Source], known: Mapping[str, tuple[Backend, ...]] = MappingProxyType({})) -> None:
        """Ask these sources from now on, each at once; what one of the same name has found is kept till then.

        known: what was found in an earlier process.
        """
        before, self._watched = self._watched, {}
        for watched in before.values():
            if watched.task is not None:
                watched.task.cancel()
        for source in sources:
            old = before.get(source.name)
            watched = Watched(source, backends=known.get(source.name))
            if old is not None:
                watched = dataclasses.replace(old, source=source, empty=0)
            watched.task = asyncio.create_task(self._follow(watched))
            self._watched[source.name] = watched

    async def stop(self) -> None:
        """Ask no more."""
        tasks = [watched.task for watched in self._watched.values() if watched.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, watched: Watched) -> None:
        while True:
            try:
                answer = await watched.source.ask()
                _require_somebody(watched, answer)
            except DiscoveryError as error:
                self._failed(watched, str(error))
                again_s = watched.source.retry_s
            else:
                self._answered(watched, answer)
                again_s = answer.again_s
            await asyncio.sleep(again_s)

    def _answered(self, watched: Watched, answer: Answer) -> None:
        name = watched.source.name
        watched.answered_at = self._now()
        if not watched.up:
            watched.up, watched.error = True, ""
            log.info("discovery works", extra={"source": name, "backends": len(answer.backends)})
        for remark in set(answer.remarks) - set(watched.remarks):
            log.warning("discovery: %s", remark, extra={"source": name})
        watched.remarks = answer.remarks
        if answer.backends != watched.backends:
            watched.backends = answer.backends
            self._on_found(name, answer.backends)

    def _failed(self, watched: Watched, error: str) -> None:
        error = error[:_MAX_ERROR_CHARACTERS]
        if watched.up or not watched.error:
            kept = len(watched.backends or ())
            extra = {"source": watched.source.name, "reason": error, "kept": kept}
            log.warning("discovery fails; what was found before is kept", extra=extra)
        watched.up, watched.error = False, error


def _require_somebody(watched: Watched, answer: Answer) -> None:
    """Raise DiscoveryError where a source that had backends has none, for the first times."""
    watched.empty = 0 if answer.backends else watched.empty + 1
    patience = watched.source.patience
    if watched.backends and not answer.backends and watched.empty < patience:
        raise DiscoveryError(f"there is nobody any more ({watched.empty} of {patience} times until that is believed)")
