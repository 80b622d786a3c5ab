"""Plot the results of benchmarks.voice.

``python -m benchmarks.voice.plot results/voice.json docs/voice.svg`` writes an SVG file.
The upper plot shows the number of callers in a silence over time. The lower bars show the sums while addresses changed.
The same results always give the same file. Needs matplotlib (the extra ``bench``).
"""

import json
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.options import command_line
from benchmarks.voice import figures
from benchmarks.voice.caller import SILENCE_S
from benchmarks.voice.plan import MOVING, Plan

COLOURS: Final = ("#00695c", "#7cb342", "#c62828")
_BARS: Final = {
    "frames missing": ("missing", "{:,.0f}"),
    "connections lost": ("lost", "{:,.0f}"),
    "longest gap, s": ("longest_gap_s", "{:.1f}"),
}


def draw(results: dict[str, Any], path: Path) -> None:
    """Draw the plots and write them to an SVG file."""
    plan, runs = Plan(**results["plan"]), [run for run in results["runs"] if "shards" in run]
    figure = Figure(figsize=(10, 7), layout="constrained")
    places = figure.subplot_mosaic([["time"] * len(_BARS), list(_BARS)], height_ratios=[3, 2])
    _over_time(places["time"], plan, runs)
    for title, (field, form) in _BARS.items():
        _bars(
            places[title],
            title,
            {run["design"]: getattr(figures.phase(run, plan, MOVING), field) for run in runs},
            form,
        )
    with mpl.rc_context({"svg.hashsalt": "qlb", "svg.fonttype": "none"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def _over_time(plot: Axes, plan: Plan, runs: list[dict[str, Any]]) -> None:
    for run, colour in zip(runs, COLOURS, strict=False):
        moments, counts = zip(*figures.silent(run, plan.end_s), strict=True)
        plot.plot(moments, counts, label=run["design"], color=colour, linewidth=1.6)
    for at_s, event in plan.events():
        plot.axvline(at_s, color="#9e9e9e", linewidth=0.6, linestyle=":")
        plot.text(at_s, 1.01, event, rotation=35, fontsize=7, transform=plot.get_xaxis_transform())
    plot.set_xlim(0, plan.end_s)
    plot.set_ylim(-plan.calls / 50, None)
    plot.set_xlabel("seconds")
    plot.set_ylabel(
        f"callers of {plan.calls} without a packet from their agent for {SILENCE_S:g} s or longer", fontsize=9
    )
    plot.legend(loc="upper left", frameon=False, fontsize=8)


def _bars(plot: Axes, title: str, values: dict[str, float], form: str) -> None:
    drawn = plot.bar(range(len(values)), list(values.values()), color=COLOURS[: len(values)])
    plot.bar_label(drawn, [form.format(value) for value in values.values()], fontsize=8)
    plot.set_xticks(range(len(values)), [name.split(",")[0].replace(" in ", "\nin ") for name in values], fontsize=8)
    plot.set_title(title, fontsize=9)
    plot.margins(y=0.15)


if __name__ == "__main__":
    parser = command_line("benchmarks.voice.plot", __doc__)
    parser.add_argument("results", type=Path, help="JSON file that benchmarks.voice wrote")
    parser.add_argument("svg", type=Path, help="SVG file to write")
    options = parser.parse_args()
    draw(json.loads(options.results.read_text()), options.svg)
