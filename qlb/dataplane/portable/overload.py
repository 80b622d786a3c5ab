"""Which packets may open sessions while packets arrive faster than a worker handles them.

To open a session costs several times as much as a packet of an open one. So under overload open sessions are served
first, and the number of new ones in a batch is bounded. Packets that were routed by their ID and others have a share
each: a flood of one kind cannot keep the other kind out.
"""

from collections.abc import Hashable, Iterable
from typing import Final

from qlb.routing.outcomes import CONFIGS

_NEW_SESSIONS: Final = 8
"""In one batch, under overload."""
_SHARE: Final = _NEW_SESSIONS // 2


class Admission:
    """The sessions that one batch may open."""

    __slots__ = ("_left",)

    def __init__(self, wanted: Iterable[tuple[int, Hashable]]) -> None:
        """wanted: outcome and session key of each packet that has no session."""
        keys: tuple[set[Hashable], set[Hashable]] = (set(), set())
        for outcome, key in wanted:
            keys[outcome < CONFIGS].add(key)
        self._left = [_NEW_SESSIONS - min(len(others), _SHARE) for others in reversed(keys)]

    def admits(self, outcome: int) -> bool:
        """Return whether a packet may open a session; count it if so."""
        kind = outcome < CONFIGS
        self._left[kind] -= 1
        return self._left[kind] >= 0
