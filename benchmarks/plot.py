"""Plot the results of benchmarks.forward.

``python -m benchmarks.plot results/forward.json docs/forwarding.svg`` writes an SVG file.
The bars show the CPU time of a packet as a ratio to nginx: one group for each kind of traffic, one bar for each
forwarder. The same results always give the same file. Needs matplotlib (the extra ``bench``).
"""

import json
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.figures import Row, measured, ratio
from benchmarks.options import command_line

AXES: Final = ("base", "sender", "direction", "flows", "size")
COLOURS: Final = {
    "floor": "#9e9e9e",
    "qlb batch": "#00695c",
    "qlb batch, pieces": "#26a69a",
    "nginx": "#7cb342",
    "Envoy": "#8e24aa",
    "socat": "#bdbdbd",
    "qlb asyncio": "#4db6ac",
    "Python relay": "#cfd8dc",
}


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the bars and write them to an SVG file."""
    groups = _groups(results["rows"])
    names = [name for name in COLOURS if any(name in bars for bars in groups.values())]
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    plot = figure.add_subplot()
    width = 0.85 / max(1, len(names))
    for number, name in enumerate(names):
        places = [place for place, bars in enumerate(groups.values()) if name in bars]
        heights = [bars[name] for bars in groups.values() if name in bars]
        shifted = [place + (number - (len(names) - 1) / 2) * width for place in places]
        drawn = plot.bar(shifted, heights, width, label=name, color=COLOURS[name])
        plot.bar_label(drawn, fmt="%.2f", fontsize=6, rotation=90, padding=2)
    plot.axhline(1, color="black", linewidth=0.8)
    plot.set_xticks(range(len(groups)), list(groups))
    plot.set_ylabel("CPU per packet, nginx = 1")
    plot.margins(y=0.12)
    plot.legend(ncols=len(names), loc="upper center", bbox_to_anchor=(0.5, -0.1), frameon=False, fontsize=8)
    with mpl.rc_context({"svg.hashsalt": "qlb", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def _groups(rows: list[Row]) -> dict[str, dict[str, float]]:
    """Return traffic → forwarder → ratio for the points at which nginx was measured."""
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        nginx = measured(rows, axis=row["axis"], label=row["label"], forwarder="nginx")
        if row["axis"] in AXES and row["rounds"] and nginx:
            groups.setdefault(_label(row), {})[row["forwarder"]] = ratio(row, nginx)
    return groups


def _label(row: Row) -> str:
    return f"{row['label']}\nflows" if row["axis"] == "flows" else row["label"].replace(" ", "\n", 1)


if __name__ == "__main__":
    parser = command_line("benchmarks.plot", __doc__)
    parser.add_argument("results", type=Path, help="JSON file that benchmarks.forward wrote")
    parser.add_argument("svg", type=Path, help="SVG file to write")
    options = parser.parse_args()
    draw(json.loads(options.results.read_text()), options.svg)
