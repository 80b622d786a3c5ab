"""Which backends a source still has, where one answer may lack some of them.

Zones are edited, and some registries answer with a part of what they know, another part each time: Consul with three
records, AWS Cloud Map with eight. Whoever drained all that one answer lacks would drain most of the pool with every
answer.

- A backend that answers lack is kept until `patience` answers in a row lack it.
- Answers rotate where one after the other has the same size, lacks some backends and brings others. While they do, a
  backend must be lacking from many more answers until it counts as gone.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from qlb.routing.backends import Backend

ROTATING_LOOKS: Final = 50
"""With 3 of 20 backends in each answer, one is missing from 50 in a row once in 3,400 times; with 3 of 9 never."""
_CHANGES: Final = 16
"""So many changes of the answer are looked at to see whether answers rotate."""
_SWAPS: Final = 2
_SETTLED: Final = 8
"""So many equal answers in a row show that answers rotate no more."""
_MAX_GONE: Final = 4096


class _Change(Enum):
    """What an answer did to the one before."""

    OTHER = "some came or some went"
    SWAP = "some came, as many went"
    RETURN = "some that were missing came back, as many went"


@dataclass
class Presence:
    """What is known of the backends of one source. patience: answers in a row that show that one is gone.

    most: backends that are kept, those of the last answer included. Those that are missing for longest go first.
    """

    patience: int
    most: int

    def __post_init__(self) -> None:
        """Begin with no backends."""
        self._kept: dict[str, Backend] = {}
        self._missing: dict[str, int] = {}
        self._gone: dict[str, None] = {}
        self._last: frozenset[str] | None = None
        self._changes: deque[_Change] = deque(maxlen=_CHANGES)
        self._equal = 0
        self.empty = 0
        """Answers in a row that had no backends at all."""

    @property
    def missing(self) -> int:
        """The number of backends that the last answer lacked and that are kept."""
        return len(self._missing)

    @property
    def rotating(self) -> bool:
        """Whether the source answers with another part of its backends each time."""
        swaps = sum(change is not _Change.OTHER for change in self._changes)
        is_young = len(self._changes) < _CHANGES
        return self.patience > 1 and swaps >= _SWAPS and (is_young or _Change.RETURN in self._changes)

    @property
    def looks(self) -> int:
        """The number of answers in a row that must lack a backend until it counts as gone."""
        return ROTATING_LOOKS if self.rotating else self.patience

    def begin_again(self, backends: Iterable[Backend]) -> None:
        """Look anew: these backends are known, and none of them is missing. What shows that answers rotate stays."""
        self._kept = {one.name: one for one in backends}
        self._missing, self.empty = {}, 0

    def take(self, answer: Sequence[Backend]) -> tuple[Backend, ...]:
        """Return the backends that there are after an answer: its own, and those that do not count as gone yet."""
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
