"""Packets that keep coming, as opposed to a few that anybody can send."""

from typing import Final

LASTS_S: Final = 60.0
"""A streak counts when it has lasted for so long."""
PAUSE_S: Final = 10.0
"""A streak ends when no packet came for so long."""
PACKETS: Final = 60
"""A streak counts when it has so many packets."""


class Streak:
    """A counter that grows without long pauses. A single packet is no evidence; a minute of packets is some."""

    __slots__ = ("_last_s", "_packets", "_since_s", "_total")

    def __init__(self) -> None:
        """Start at a counter of zero."""
        self._total = 0
        self._packets = 0
        self._since_s = 0.0
        self._last_s = 0.0

    def note(self, total: int, now_s: float) -> None:
        """Note what the counter says now."""
        if self._packets and now_s - self._last_s > PAUSE_S:
            self._packets = 0
        if total > self._total:
            if not self._packets:
                self._since_s = now_s
            self._packets += total - self._total
            self._last_s = now_s
        self._total = total

    def end(self) -> None:
        """Begin anew with the next packet."""
        self._packets = 0

    @property
    def counts(self) -> bool:
        """Whether packets have kept coming for LASTS_S, and PACKETS at least, until the last note."""
        return self._packets >= PACKETS and self._last_s - self._since_s >= LASTS_S

    @property
    def has_begun(self) -> bool:
        """Whether packets have come that no long pause has followed, until the last note."""
        return self._packets > 0
