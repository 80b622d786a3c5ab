"""The sources of one daemon. Each is asked when its time has come; changes of the backends are reported."""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final

from qlb.discovery.source import Answer, DiscoveryError, Remark, Source
from qlb.routing.backends import Backend

ROTATING_LOOKS: Final = 50
"""With 3 of 20 backends in each answer, one is missing from 50 in a row once in 3,400 times; with 3 of 9 never."""
_CHANGES: Final = 16
"""The number of last changes of the answer that show whether answers rotate."""
_SWAPS: Final = 2
_SETTLED: Final = 8
"""The number of equal answers in a row that show that answers do not rotate any more."""
_MAX_GONE: Final = 4096


class _Change(Enum):
    """The difference between an answer and the one before it."""

    OTHER = "backends appeared or disappeared"
    SWAP = "some appeared, and as many disappeared"
    RETURN = "some that were missing returned, and as many disappeared"


@dataclass
class Presence:
    """The backends of one source. patience: the number of answers in a row without a backend that remove it.

    most: the number of retained backends, including those of the last answer. Those that have been missing for longest
    are removed first.
    """

    patience: int
    most: int

    def __post_init__(self) -> None:
        """Start without backends."""
        self._kept: dict[str, Backend] = {}
        self._missing: dict[str, int] = {}
        self._gone: dict[str, None] = {}
        self._last: frozenset[str] | None = None
        self._changes: deque[_Change] = deque(maxlen=_CHANGES)
        self._equal = 0
        self.empty = 0
        """Answers in a row without any backend."""

    @property
    def missing(self) -> int:
        """The number of retained backends that the last answer lacked."""
        return len(self._missing)

    @property
    def rotating(self) -> bool:
        """True if each answer of the source has another part of its backends."""
        swaps = sum(change is not _Change.OTHER for change in self._changes)
        is_young = len(self._changes) < _CHANGES
        return self.patience > 1 and swaps >= _SWAPS and (is_young or _Change.RETURN in self._changes)

    @property
    def looks(self) -> int:
        """The number of answers in a row without a backend that remove it now."""
        return ROTATING_LOOKS if self.rotating else self.patience

    def begin_again(self, backends: Iterable[Backend]) -> None:
        """Start with these backends, none of them missing. The evidence of rotating answers stays."""
        self._kept = {one.name: one for one in backends}
        self._missing, self.empty = {}, 0

    def take(self, answer: Sequence[Backend]) -> tuple[Backend, ...]:
        """Return the backends after an answer: those of the answer, and missing ones that are not removed yet."""
        found = {one.name: one for one in answer}
        self._note_change(found.keys())
        self.empty = 0 if found else self.empty + 1
        looks, room = self.looks, max(self.most - len(found), 0)
        missing = {name: self._missing.get(name, 0) + 1 for name in self._kept if name not in found}
        waiting = sorted((name for name, times in missing.items() if times < looks), key=lambda name: missing[name])
        self._missing = {name: missing[name] for name in waiting[:room]}
        left = [name for name in missing if name not in self._missing]
        self._gone = dict.fromkeys([*(name for name in self._gone if name not in found), *left][-_MAX_GONE:])
        kept = {name: one for name, one in self._kept.items() if name in self._missing}
        self._kept = kept | found
        return tuple(sorted(self._kept.values(), key=lambda one: (one.endpoint, one.name))) if kept else tuple(answer)

    def _note_change(self, names: Iterable[str]) -> None:
        now, before = frozenset(names), self._last
        self._last = now
        if before is None or now == before:
            self._equal += before is not None
            has_returned = _Change.RETURN in self._changes
            if self._equal >= (_SETTLED if has_returned else self.patience):
                self._changes.clear()
            return
        self._equal = 0
        came = now - before
        if not came or len(now) != len(before):
            self._changes.append(_Change.OTHER)
        else:
            returned = came & (self._missing.keys() | self._gone.keys())
            self._changes.append(_Change.RETURN if returned else _Change.SWAP)


log = logging.getLogger("qlb")

REMARK_S: Final = 600.0
"""The least time between two log lines on one topic of one source."""
_MAX_ERROR_CHARACTERS: Final = 500

OnFound = Callable[[str, tuple[Backend, ...]], None]
"""Called when the backends of a source have changed: its name, and all its backends."""


@dataclass
class Watched:
    """One source. up: the last question was answered. answered_at: the time of the last answer on the clock, or None.

    error: of the last question, or "". backends: None before the first answer. remarks: on the last answer.
    """

    source: Source
    presence: Presence
    up: bool = False
    answered_at: float | None = None
    error: str = ""
    backends: tuple[Backend, ...] | None = None
    remarks: tuple[Remark, ...] = ()
    logged: dict[str, tuple[str, float]] = field(default_factory=dict)
    """Topic of remarks → the text that was logged last, and its time."""
    task: asyncio.Task[None] | None = None


class Discovery:
    """The sources of one daemon and their tasks."""

    def __init__(self, on_found: OnFound, *, now: Callable[[], float] = time.monotonic) -> None:
        """on_found: called in this thread's event loop."""
        self._on_found = on_found
        self._now = now
        self._watched: dict[str, Watched] = {}

    @property
    def sources(self) -> Mapping[str, Watched]:
        """Every source, by name."""
        return self._watched

    def apply(self, sources: Iterable[Source], known: Mapping[str, tuple[Backend, ...]] = MappingProxyType({})) -> None:
        """Ask these sources from now on, each at once. Until it answers, it has the backends of its predecessor.

        known: source name → the backends that an earlier process has found.
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
        """Stop asking."""
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
            except Exception as error:  # an unexpected error must not end the source
                if watched.up or not watched.error:
                    log.exception("discovery: unexpected error", extra={"source": watched.source.name})
                self._failed(watched, f"{type(error).__name__}: {error}")
            else:
                again_s = self._take(watched, answer)
            await asyncio.sleep(again_s)

    def _take(self, watched: Watched, answer: Answer) -> float:
        """Apply an answer. Return the seconds until the next question.

        An answer without backends is an error until there are `patience` of them in a row. If only some backends are
        missing, and answers do not rotate, the next question comes soon, so that they are removed soon.
        """
        presence = watched.presence
        backends = presence.take(answer.backends)
        if backends and not answer.backends:
            text = f"the source returned no backends ({presence.empty} of {presence.looks} before they are removed)"
            self._failed(watched, f"{text}{_why(answer)}")
            return watched.source.retry_s
        self._answered(watched, backends, (*answer.remarks, *_further_remarks(presence, answer)))
        is_urgent = presence.missing and not presence.rotating
        return min(answer.again_s, watched.source.retry_s) if is_urgent else answer.again_s

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
        """Log new remarks. A topic that comes and goes, or whose text changes, is logged every REMARK_S at most."""
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
            log.warning("discovery fails; the backends that it found before stay", extra=extra)
        watched.up, watched.error = False, error


def _presence(source: Source) -> Presence:
    return Presence(source.patience, source.most)


def _why(answer: Answer) -> str:
    """Return the remarks on an answer as the end of an error text."""
    return "".join(f"; {remark.text}" for remark in answer.remarks)


def _further_remarks(presence: Presence, answer: Answer) -> Iterator[Remark]:
    if not answer.backends and not answer.remarks:
        yield Remark("empty", "no backends: the source has none")
    if presence.rotating:
        text = f"a backend is removed after {ROTATING_LOOKS} answers without it"
        yield Remark("rotating", f"each answer has another part of the backends: {text}")
