"""Figures of one row of results/forward.json.

A figure is the median of its rounds. A ratio compares two rows round by round, and is the median of those ratios.
The two rows are measured in turns within each round, so the ratio stays valid while the machine's speed drifts.
It may differ slightly from the ratio of the two figures.
"""

import statistics
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def cost_us(row: Row) -> list[float]:
    """Return the CPU time of one packet, in µs, for each round."""
    return [one["cpu_ns"] / max(1, one["packets"]) / 1000 for one in _rounds(row)]


def ratio(row: Row, to: Row) -> float:
    """Return the CPU time of a packet divided by that of another row of the same rounds."""
    return statistics.median(one / other for one, other in zip(cost_us(row), cost_us(to), strict=True))


def user_share(row: Row) -> float:
    """Return the share of the CPU time that is spent in user space, 0 to 1."""
    user, system = (sum(one[key] for one in _rounds(row)) for key in ("user_ticks", "system_ticks"))
    return user / max(1, user + system)


def rate(row: Row) -> float:
    """Return the packets per second while the forwarder was kept busy."""
    return statistics.median(one["packets"] / one["elapsed_s"] for one in _rounds(row))


def busy(row: Row) -> float:
    """Return the share of the time in which the forwarder ran or waited for its core, 0 to 1."""
    return statistics.median((one["cpu_ns"] + one["waited_ns"]) / 1e9 / one["elapsed_s"] for one in _rounds(row))


def measured(rows: Sequence[Row], **fields: str) -> Row | None:
    """Return the first measured row with these fields, or None."""
    found = (row for row in rows if all(row[key] == value for key, value in fields.items()))
    return next((row for row in found if row["rounds"]), None)


def _rounds(row: Row) -> list[dict[str, float]]:
    rounds: list[dict[str, float]] = row["rounds"]
    return rounds
