"""Tables in Markdown, and the measurement of Python calls."""

import time
from collections.abc import Callable
from typing import NamedTuple

ROUNDS = 5
ROUND_S = 0.2


class Row(NamedTuple):
    """One figure. cost_us: microseconds of one operation."""

    name: str
    cost_us: float


def cost_us(operation: Callable[[], object], operations: int = 1) -> float:
    """Return the µs of one operation: the minimum of several rounds. operations: performed by one call."""
    calls, elapsed_s = 1, 0.0
    while elapsed_s < ROUND_S / 10:
        calls *= 2
        elapsed_s = _timed(operation, calls)
    calls = max(1, int(calls * ROUND_S / elapsed_s))
    return min(_timed(operation, calls) for _ in range(ROUNDS)) / calls / operations * 1e6


def print_table(title: str, rows: list[Row]) -> None:
    """Print the rows, each with its ratio to the first row."""
    width = max(len(row.name) for row in rows)
    print(f"\n{title}\n")
    print(f"| {'':{width}} | µs | ratio |\n| {'-' * width} | --- | --- |")
    for row in rows:
        print(f"| {row.name:{width}} | {row.cost_us:.2f} | {row.cost_us / rows[0].cost_us:.2f} |")


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """Return a Markdown table whose columns are aligned in the source text too."""
    widths = [max(3, *(len(line[at]) for line in [head, *lines])) for at in range(len(head))]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in [head, ["-" * width for width in widths], *lines]
    )


def _timed(operation: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        operation()
    return time.perf_counter() - start
