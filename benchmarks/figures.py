"""Figures of one row of results/forward.json.

A figure is the median of its rounds. A ratio is the median of the ratios within each round, in which the two took
turns: it holds where the machine's speed drifts, and may differ a little from the ratio of the figures.
"""

import statistics
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def cost_us(row: Row) -> list[float]:
    """CPU µs for one packet, round by round."""
    return [one["cpu_ns"] / max(1, one["packets"]) / 1000 for one in _rounds(row)]


def ratio(row: Row, to: Row) -> float:
    """How many times as much CPU a packet costs as in another row of the same rounds."""
    return statistics.median(one / other for one, other in zip(cost_us(row), cost_us(to), strict=True))


def user_share(row: Row) -> float:
    """The part of the CPU time outside the kernel, 0 to 1."""
    user, system = (sum(one[key] for one in _rounds(row)) for key in ("user_ticks", "system_ticks"))
    return user / max(1, user + system)


def rate(row: Row) -> float:
    """Packets a second while it was kept busy."""
    return statistics.median(one["packets"] / one["elapsed_s"] for one in _rounds(row))


def busy(row: Row) -> float:
    """The part of the time in which it ran, or could have, 0 to 1."""
    return statistics.median((one["cpu_ns"] + one["waited_ns"]) / 1e9 / one["elapsed_s"] for one in _rounds(row))


def measured(rows: Sequence[Row], **fields: str) -> Row | None:
    """Return the first row with these fields that was measured."""
    found = (row for row in rows if all(row[key] == value for key, value in fields.items()))
    return next((row for row in found if row["rounds"]), None)


def _rounds(row: Row) -> list[dict[str, float]]:
    rounds: list[dict[str, float]] = row["rounds"]
    return rounds
