"""Print docs/forwarding.md from the results of benchmarks.forward.

``python -m benchmarks.report results/forward.json > docs/forwarding.md``. The text comes from forwarding.md.in.
"""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from benchmarks.figures import Row, busy, cost_us, measured, rate, ratio, user_share
from benchmarks.options import command_line
from benchmarks.table import markdown

SATURATED: Final = 0.95
"""Below this share of busy time, the load on the other core was the limit, not the forwarder."""
COMPARED: Final = ("connection IDs", "backends")
"""Axes that compare their points with each other. All other axes compare forwarders."""
KIB: Final = 1024
PAGE: Final = Path(__file__).with_name("forwarding.md.in")


def tables(results: dict[str, Any]) -> str:
    """Return all tables in Markdown."""
    rows: list[Row] = results["rows"]
    parts: list[str] = []
    for axis in dict.fromkeys(row["axis"] for row in rows):
        own = [row for row in rows if row["axis"] == axis]
        if axis in COMPARED:
            parts.append(_compared(axis, own))
            continue
        parts += [_side_by_side(axis, label, own) for label in dict.fromkeys(row["label"] for row in own)]
        if axis == "base":
            parts.append(_paced(own))
    return "\n\n".join(part for part in [*parts, _sessions(rows)] if part)


def page(results: dict[str, Any]) -> str:
    """Return the text of docs/forwarding.md."""
    return PAGE.read_text().format(tables=tables(results), command=results["command"], **results["machine"])


def _side_by_side(axis: str, label: str, rows: list[Row]) -> str:
    own = [row for row in rows if row["label"] == label]
    nginx, floor = (measured(own, forwarder=name) for name in ("nginx", "floor"))
    lines = [[row["forwarder"], *_cells(row, nginx, floor)] for row in own if row["rounds"]]
    head = ["", "CPU µs per packet", "user", "system", "÷ nginx", "÷ floor", "packets/s", "busy"]
    missing = "; ".join(f"{row['forwarder']} ({row['missing']})" for row in own if not row["rounds"])
    title = "### The base point" if axis == "base" else f"### {axis.capitalize()}: {label}"
    return f"{title}\n\n{markdown(head, lines)}" + (f"\n\nMissing: {missing}." if missing else "")


def _cells(row: Row, nginx: Row | None, floor: Row | None) -> Iterator[str]:
    us, user = statistics.median(cost_us(row)), user_share(row)
    yield from (f"{us:.2f}", f"{us * user:.2f}", f"{us * (1 - user):.2f}")
    yield from (f"{ratio(row, other):.2f}" if other else "–" for other in (nginx, floor))
    yield f"{'' if busy(row) >= SATURATED else '≥ '}{rate(row):,.0f}"
    yield f"{busy(row):.0%}"


def _compared(axis: str, rows: list[Row]) -> str:
    forwarders = list(dict.fromkeys(row["forwarder"] for row in rows))
    lines = []
    for label in dict.fromkeys(row["label"] for row in rows):
        cells = [label]
        for forwarder in forwarders:
            row, first = measured(rows, forwarder=forwarder, label=label), measured(rows, forwarder=forwarder)
            cells.append(f"{statistics.median(cost_us(row)):.2f} ({ratio(row, first):.2f})" if row and first else "–")
        lines.append(cells)
    title = f"### {axis[0].upper()}{axis[1:]}: CPU µs per packet (and the ratio to the first row)"
    missing = {row["forwarder"]: row["missing"] for row in rows if not row["rounds"]}
    named = "; ".join(f"{forwarder} ({reason})" for forwarder, reason in missing.items())
    return f"{title}\n\n{markdown(['', *forwarders], lines)}" + (f"\n\nMissing: {named}." if named else "")


def _paced(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        if not row["paced"]:
            continue
        most, half, direct = (row["paced"][part] for part in ("most", "half", "direct"))
        lost = 1 - sum(one["received"] for one in most) / sum(one["sent"] for one in most)
        cells = [
            row["forwarder"],
            f"{lost:.2%}",
            f"{statistics.median(one['sent'] / one['send_s'] for one in half):,.0f}",
        ]
        for key in ("p50_us", "p99_us", "p999_us"):
            through, past = (statistics.median(one[key] for one in part) for part in (half, direct))
            cells.append(f"{through - past:,.0f} ({past:,.0f})")
        lines.append(cells)
    head = ["", "lost at 80 %", "datagrams/s at half load", "added p50, µs", "added p99, µs", "added p99.9, µs"]
    title = "### Loss at 80 % of saturation, latency added at 50 % (and latency without a forwarder)"
    return f"{title}\n\n{markdown(head, lines)}" if lines else ""


def _sessions(rows: list[Row]) -> str:
    own = [row for row in rows if row["rounds"] and row["axis"] in ("base", "flows")]
    most = max((row["point"]["flows"] for row in own), default=0)
    lines = []
    for row in own:
        if row["point"]["flows"] == most > 1:
            grown = (row["sessions"][key] / KIB / most for key in ("resident", "slab"))
            before = row["sessions"]["before"] / KIB / KIB
            lines.append([row["forwarder"], f"{before:.1f}", *(f"{each:.2f}" for each in grown)])
    head = ["", "resident with one session, MiB", "resident per session, KiB", "kernel slab per session, KiB"]
    return f"### Memory of {most:,} sessions\n\n{markdown(head, lines)}" if lines else ""


if __name__ == "__main__":
    parser = command_line("benchmarks.report", __doc__)
    parser.add_argument("results", type=Path, help="JSON file that benchmarks.forward wrote")
    print(page(json.loads(parser.parse_args().results.read_text())), end="")
