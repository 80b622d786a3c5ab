"""Which packets may open sessions while packets arrive faster than a worker handles them.

To open a session costs several times as much as a packet of an open one. So under overload open sessions are served
first, and the number of new ones is bounded. Packets that were routed by their ID and others are counted apart: a flood
of one kind cannot keep the other kind out. Opens are saved up while the worker keeps up, so that a backlog of many
clients, such as after a restart, is no overload. batch/forward.c does the same.
"""

from typing import Final

from qlb.routing.outcomes import CONFIGS

MAX_OPENS: Final = 512
"""Opens of one kind that can be saved up."""
OPENS_PER_S: Final = 1000.0
"""Further opens of one kind: a fifth of a core."""


class Admission:
    """The sessions that full batches may open."""

    __slots__ = ("_opens", "_refilled_s")

    def __init__(self, now_s: float) -> None:
        """Start with all opens saved up."""
        self._opens = [float(MAX_OPENS)] * 2
        self._refilled_s = now_s

    def refill(self, now_s: float) -> None:
        """Add the opens that the time since the last call has brought."""
        more = (now_s - self._refilled_s) * OPENS_PER_S
        self._opens = [min(opens + more, MAX_OPENS) for opens in self._opens]
        self._refilled_s = now_s

    def admits(self, outcome: int) -> bool:
        """Return whether a packet may open a session; count it if so."""
        kind = outcome < CONFIGS
        if self._opens[kind] < 1:
            return False
        self._opens[kind] -= 1
        return True
