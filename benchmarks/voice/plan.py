"""Schedule of one run. It is the same for every design."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

STILL: Final = "addresses stay"
MOVING: Final = "addresses change"
PHASES: Final = (STILL, MOVING)

KILL: Final = "a balancer killed"
RESTART: Final = "balancer back"
MOVE: Final = "addresses begin to change"
TABLE: Final = "table restarted"
DRAIN: Final = "a backend drained"


@dataclass(frozen=True)
class Plan:
    """Parameters of a run.

    calls: number of callers. ramp_s: time in which they begin. still_s, moving_s: length of the two phases.
    period_s: from one change of a caller's address to the next. thinking_s: average pause before a caller speaks
    again. patience_s: silence after which a caller hangs up and calls again; QUIC itself gives up after 10 s.
    shards: number of processes that run the callers. seed: of the callers' random choices.
    """

    calls: int = 100
    ramp_s: float = 5.0
    still_s: float = 15.0
    moving_s: float = 60.0
    period_s: float = 1.0
    thinking_s: float = 5.0
    patience_s: float = 5.0
    shards: int = 2
    seed: int = 1

    @property
    def moving_at_s(self) -> float:
        """Time at which addresses begin to change."""
        return self.ramp_s + self.still_s

    @property
    def end_s(self) -> float:
        """Time from which no caller begins to speak."""
        return self.moving_at_s + self.moving_s

    def events(self) -> Iterator[tuple[float, str]]:
        """Yield (time, event) in order.

        In each phase a balancer is killed and returns, and then the table is restarted. The drain comes last.
        """
        for begin_s, length_s in ((self.ramp_s, self.still_s), (self.moving_at_s, self.moving_s)):
            if begin_s == self.moving_at_s:
                yield begin_s, MOVE
            for share, event in ((0.15, KILL), (0.35, RESTART), (0.7, TABLE)):
                yield begin_s + share * length_s, event
        yield self.moving_at_s + 0.85 * self.moving_s, DRAIN

    def phase(self, at_s: float) -> str:
        """Return the phase at a time."""
        return STILL if at_s < self.moving_at_s else MOVING
