"""Print docs/voice.md from the results of benchmarks.voice.

``python -m benchmarks.voice.report results/voice.json > docs/voice.md``. The text comes from voice.md.in.
"""

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks.options import command_line
from benchmarks.table import markdown
from benchmarks.voice import figures
from benchmarks.voice.caller import WAYS
from benchmarks.voice.figures import Phase, Run
from benchmarks.voice.plan import PHASES, STILL, Plan

PAGE: Final = Path(__file__).with_name("voice.md.in")
_ROWS: Final[dict[str, Callable[[Phase], str]]] = {
    "connections lost": lambda phase: f"{phase.lost:,}",
    "re-established": lambda phase: f"{phase.again:,}",
    "attempts that failed": lambda phase: f"{phase.failed:,}",
    "frames missing": lambda phase: f"{phase.missing:,}",
    "of the caller's / of the agent's": lambda phase: f"{phase.missing_up:,} / {phase.missing_down:,}",
    "longest gap": lambda phase: f"{phase.longest_gap_s:.2f} s",
    "longest gap of the median caller": lambda phase: f"{phase.typical_gap_s:.2f} s",
}


def tables(results: dict[str, Any]) -> str:
    """Return all tables in Markdown."""
    plan = Plan(**results["plan"])
    runs = [run for run in results["runs"] if "shards" in run]
    parts = [_phase(runs, plan, name) for name in PHASES]
    parts += [_setups(runs), _machine(runs)]
    missing = "; ".join(f"{run['design']} ({run['missing']})" for run in results["runs"] if "missing" in run)
    return "\n\n".join([*parts, *([f"Missing: {missing}."] if missing else [])])


def page(results: dict[str, Any]) -> str:
    """Return the text of docs/voice.md."""
    plan = asdict(Plan(**results["plan"]))
    return PAGE.read_text().format(tables=tables(results), command=results["command"], **plan, **results["machine"])


def _phase(runs: list[Run], plan: Plan, name: str) -> str:
    found = {run["design"]: figures.phase(run, plan, name) for run in runs}
    lines = [[label, *map(cell, found.values())] for label, cell in _ROWS.items()]
    lines.append(["time without an agent, per call", *(f"{one.silent_s / plan.calls:.2f} s" for one in found.values())])
    if name != STILL:
        lines.insert(0, ["changes of address", *(f"{_changes(run):,}" for run in runs)])
        lines.insert(
            1, ["frames sent / received by callers", *(f"{one.sent:,} / {one.heard:,}" for one in found.values())]
        )
    length_s = plan.still_s if name == STILL else plan.moving_s
    return f"### {name.capitalize()}: {length_s:g} s\n\n{markdown(['', *found], lines)}"


def _changes(run: Run) -> int:
    return sum(told["changes"] for told in figures.callers(run))


def _setups(runs: list[Run]) -> str:
    lines = []
    for way in WAYS:
        found = [figures.setups(run, way) for run in runs]
        cells = [
            f"{one.typical} / {one.most} ({one.count}; {one.typical_s * 1000:.0f} ms)" if one else "–" for one in found
        ]
        lines.append([way, *cells])
    title = "### Round trips until the first audio: median / most (set-ups; median time)"
    return f"{title}\n\n{markdown(['', *(run['design'] for run in runs)], lines)}"


def _machine(runs: list[Run]) -> str:
    lines = [
        ["callers and NAT, cores", *(f"{figures.fleet_cpu_s(run) / run['elapsed_s']:.2f}" for run in runs)],
        ["agents, cores", *(f"{run['agents_cpu_s'] / run['elapsed_s']:.2f}" for run in runs)],
        ["the whole machine, including other programs, cores", *(f"{run['machine_busy']:.2f}" for run in runs)],
        [
            "wait of an agent or balancer for a core, per second: median / 90 %",
            *(f"{_waited(run)}" for run in runs),
        ],
        ["the callers' own longest delay", *(f"{figures.lag_s(run) * 1000:.0f} ms" for run in runs)],
    ]
    return f"### Load of the machine\n\n{markdown(['', *(run['design'] for run in runs)], lines)}"


def _waited(run: Run) -> str:
    """Return the median, and the value that one second in ten exceeds."""
    deciles = statistics.quantiles(run["waited_s"], n=10)
    return f"{deciles[4] * 1000:.0f} / {deciles[8] * 1000:.0f} ms"


if __name__ == "__main__":
    parser = command_line("benchmarks.voice.report", __doc__)
    parser.add_argument("results", type=Path, help="JSON file that benchmarks.voice wrote")
    print(page(json.loads(parser.parse_args().results.read_text())), end="")
