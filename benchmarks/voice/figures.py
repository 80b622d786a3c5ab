"""Figures of one design's run, phase by phase."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.voice.caller import Ending, Setup, Span
from benchmarks.voice.plan import Plan

STEP_S: Final = 0.5
Run = dict[str, Any]


@dataclass(frozen=True)
class Phase:
    """Result of all calls in one phase.

    lost: connections that had audio and were lost. failed: attempts that never had audio. again: connections that
    replaced a lost one. sent, heard: frames. missing_up, missing_down: frames that did not arrive, by the other side's
    last report; counted when the connection ends. longest_gap_s: longest wait of any caller for audio that was due.
    typical_gap_s: median of the callers' longest waits. silent_s: time without any packet of the agent, summed over all
    calls.
    """

    lost: int
    failed: int
    again: int
    sent: int
    heard: int
    missing_up: int
    missing_down: int
    longest_gap_s: float
    typical_gap_s: float
    silent_s: float

    @property
    def missing(self) -> int:
        """Missing frames of both directions."""
        return self.missing_up + self.missing_down


@dataclass(frozen=True)
class Setups:
    """Set-ups of one kind, in both phases.

    typical, most: median and maximum of the round trips until the first audio.
    """

    count: int
    typical: int
    most: int
    typical_s: float


def callers(run: Run) -> list[Run]:
    """Return the records of all callers."""
    return [told for shard in run["shards"] for told in shard["told"]]


def phase(run: Run, plan: Plan, name: str) -> Phase:
    """Return the result of one phase. An event belongs to the phase in which it ended."""
    told = callers(run)
    endings = [ending for each in told for ending in _of(each, "endings", Ending) if plan.phase(ending.at_s) == name]
    longest = [
        max((gap.length_s for gap in _of(each, "gaps", Span) if plan.phase(gap.end_s) == name), default=0.0)
        for each in told
    ]
    silences = (span for each in told for span in _of(each, "silences", Span) if plan.phase(span.end_s) == name)
    setups = (setup for each in told for setup in _of(each, "setups", Setup) if plan.phase(setup.at_s) == name)
    return Phase(
        lost=sum(1 for ending in endings if ending.lost and ending.was_set_up),
        failed=sum(1 for ending in endings if ending.lost and not ending.was_set_up),
        again=sum(setup.after_loss for setup in setups),
        sent=sum(ending.sent for ending in endings),
        heard=sum(ending.heard for ending in endings),
        missing_up=sum(ending.up for ending in endings),
        missing_down=sum(ending.down for ending in endings),
        longest_gap_s=max(longest, default=0.0),
        typical_gap_s=statistics.median(longest or [0.0]),
        silent_s=sum(span.length_s for span in silences),
    )


def setups(run: Run, way: str) -> Setups | None:
    """Return the set-ups of one of the caller's WAYS, or None if there were none."""
    found = [setup for told in callers(run) for setup in _of(told, "setups", Setup) if setup.way == way]
    if not found:
        return None
    round_trips = [setup.round_trips for setup in found]
    took_s = statistics.median(setup.took_s for setup in found)
    return Setups(len(found), statistics.median_low(round_trips), max(round_trips), took_s)


def silent(run: Run, end_s: float) -> list[tuple[float, int]]:
    """Return (time, number of callers in a silence at that time), from the beginning to the end."""
    spans = [span for told in callers(run) for span in _of(told, "silences", Span)]
    moments = [STEP_S * number for number in range(int(end_s / STEP_S))]
    return [(at_s, sum(span.at_s <= at_s < span.end_s for span in spans)) for at_s in moments]


def lag_s(run: Run) -> float:
    """Return the longest delay of the fleet's own event loops."""
    return max((lag for shard in run["shards"] for lag in shard["lags_s"]), default=0.0)


def fleet_cpu_s(run: Run) -> float:
    """Return the CPU time of callers and NAT."""
    total: float = sum(shard["cpu_s"] for shard in run["shards"])
    return total


def _of(told: Run, key: str, make: Callable[..., Any]) -> Sequence[Any]:
    return [make(*fields) for fields in told[key]]
