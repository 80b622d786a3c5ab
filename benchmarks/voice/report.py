"""Tables of a run: ``python -m benchmarks.voice.report results/voice.json > docs/voice.md``."""

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

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
    """Return every table as Markdown."""
    plan = Plan(**results["plan"])
    runs = [run for run in results["runs"] if "shards" in run]
    parts = [_phase(runs, plan, name) for name in PHASES]
    parts += [_setups(runs), _machine(runs)]
    missing = "; ".join(f"{run['design']} ({run['missing']})" for run in results["runs"] if "missing" in run)
    return "\n\n".join([*parts, *([f"Missing: {missing}."] if missing else [])])


def page(results: dict[str, Any]) -> str:
    """Return docs/voice.md."""
    plan = asdict(Plan(**results["plan"]))
    return PAGE.read_text().format(tables=tables(results), command=results["command"], **plan, **results["machine"])


def _phase(runs: list[Run], plan: Plan, name: str) -> str:
    found = {run["design"]: figures.phase(run, plan, name) for run in runs}
    lines = [[label, *map(cell, found.values())] for label, cell in _ROWS.items()]
    lines.append(
        ["time without an agent, each call", *(f"{one.silent_s / plan.calls:.2f} s" for one in found.values())]
    )
    if name != STILL:
        lines.insert(0, ["changes of address", *(f"{_changes(run):,}" for run in runs)])
        lines.insert(
            1, ["frames sent by callers / heard", *(f"{one.sent:,} / {one.heard:,}" for one in found.values())]
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
        ["the whole machine, with whatever else ran, cores", *(f"{run['machine_busy']:.2f}" for run in runs)],
        [
            "an agent or balancer waited for a core, of each second: median / one in ten",
            *(f"{_waited(run)}" for run in runs),
        ],
        ["the callers' own longest delay", *(f"{figures.lag_s(run) * 1000:.0f} ms" for run in runs)],
    ]
    return f"### What the machine had to do\n\n{markdown(['', *(run['design'] for run in runs)], lines)}"


def _waited(run: Run) -> str:
    """The median second, and the one that a tenth of them exceed."""
    deciles = statistics.quantiles(run["waited_s"], n=10)
    return f"{deciles[4] * 1000:.0f} / {deciles[8] * 1000:.0f} ms"


if __name__ == "__main__":
    print(page(json.loads(Path(sys.argv[1]).read_text())), end="")
