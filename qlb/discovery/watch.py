"""All sources of one daemon, each asked when its time has come; who is there now, and how the asking went."""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from qlb.discovery.presence import ROTATING_LOOKS, Presence
from qlb.discovery.source import Answer, DiscoveryError, Remark, Source
from qlb.routing.backends import Backend

log = logging.getLogger("qlb")

REMARK_S: Final = 600.0
"""The least time between two log lines on one topic of one source."""
_MAX_ERROR_CHARACTERS: Final = 500

OnFound = Callable[[str, tuple[Backend, ...]], None]
"""What is told when a source says something else than before: its name, and all that is there now."""


@dataclass
class Watched:
    """One source. up: the last question was answered. answered_at: of the clock, seconds; None for never. error: or "".

    backends: that it has, None before the first good answer. remarks: on the last good answer.
    """

    source: Source
    presence: Presence
    up: bool = False
    answered_at: float | None = None
    error: str = ""
    backends: tuple[Backend, ...] | None = None
    remarks: tuple[Remark, ...] = ()
    logged: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Topic of remarks → the text that was logged last, and when."""
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
            watched = before.get(source.name) or Watched(source, _presence(source), backends=known.get(source.name))
            watched.source = source
            if (watched.presence.patience, watched.presence.most) != (source.patience, source.most):
                watched.presence = _presence(source)
            watched.presence.begin_again(watched.backends or ())
            source.recall(watched.backends or ())
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
            again_s = watched.source.retry_s
            try:
                answer = await watched.source.ask()
            except DiscoveryError as error:
                self._failed(watched, str(error))
            except Exception as error:  # A source that meets what nobody has foreseen is asked again all the same.
                if watched.up or not watched.error:
                    log.exception("discovery: unexpected error", extra={"source": watched.source.name})
                self._failed(watched, f"{type(error).__name__}: {error}")
            else:
                again_s = self._take(watched, answer)
            await asyncio.sleep(again_s)

    def _take(self, watched: Watched, answer: Answer) -> float:
        """Take over an answer. Returns in how many seconds to ask again.

        An answer without backends is an error until it is believed. Where only some backends are missing, and answers
        do not rotate, the source is asked again soon, so that they are gone soon.
        """
        presence = watched.presence
        backends = presence.take(answer.backends)
        if backends and not answer.backends:
            text = f"the source returned no backends ({presence.empty} of {presence.looks} before they are removed)"
            self._failed(watched, f"{text}{_why(answer)}")
            return watched.source.retry_s
        self._answered(watched, backends, (*answer.remarks, *_further_remarks(presence, answer)))
        hurry = presence.missing and not presence.rotating
        return min(answer.again_s, watched.source.retry_s) if hurry else answer.again_s

    def _answered(self, watched: Watched, backends: tuple[Backend, ...], remarks: tuple[Remark, ...]) -> None:
        name = watched.source.name
        watched.answered_at = self._now()
        if not watched.up:
            watched.up, watched.error = True, ""
            log.info("discovery works", extra={"source": name, "backends": len(backends)})
        self._log_remarks(watched, remarks)
        if backends != watched.backends:
            watched.backends = backends
            self._on_found(name, backends)

    def _log_remarks(self, watched: Watched, remarks: tuple[Remark, ...]) -> None:
        """Log what is new. A topic that comes and goes, or whose text changes, is logged again after a while only."""
        now_s, before = self._now(), dict(watched.remarks)
        watched.remarks = remarks
        for topic, text in remarks:
            logged, at_s = watched.logged.get(topic, ("", -math.inf))
            is_known = topic in before and text == logged
            if not is_known and now_s - at_s >= REMARK_S:
                watched.logged[topic] = text, now_s
                log.warning("discovery: %s", text, extra={"source": watched.source.name})

    def _failed(self, watched: Watched, error: str) -> None:
        error = error[:_MAX_ERROR_CHARACTERS]
        if watched.up or not watched.error:
            kept = len(watched.backends or ())
            extra = {"source": watched.source.name, "reason": error, "kept": kept}
            log.warning("discovery fails; what was found before is kept", extra=extra)
        watched.up, watched.error = False, error


def _presence(source: Source) -> Presence:
    return Presence(source.patience, source.most)


def _why(answer: Answer) -> str:
    """Return the remarks on an answer, to be put behind an error."""
    return "".join(f"; {remark.text}" for remark in answer.remarks)


def _further_remarks(presence: Presence, answer: Answer) -> Iterator[Remark]:
    if not answer.backends and not answer.remarks:
        yield Remark("empty", "no backends: the source has none")
    if presence.rotating:
        text = f"a backend counts as gone after {ROTATING_LOOKS} answers without it"
        yield Remark("rotating", f"each answer holds another part of the backends: {text}")
