"""``python -m benchmarks.voice``: the same calls through every design, one design after the other.

It prints what came of them, and writes results/voice.json and results/voice.svg.
"""

import asyncio
import json
import os
import platform
import shlex
import signal
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from benchmarks.forwarders.base import Missing
from benchmarks.voice.designs import DESIGNS
from benchmarks.voice.plan import Plan
from benchmarks.voice.plot import draw
from benchmarks.voice.report import tables
from benchmarks.voice.run import run


def measure(plan: Plan, names: list[str]) -> dict[str, Any]:
    """Run these designs; return all results. One that is not installed is named with the reason."""
    runs = []
    for name in names:
        print(f"{name}: {plan.calls} calls, {plan.end_s:g} s", file=sys.stderr, flush=True)
        try:
            runs.append(asyncio.run(run(name, plan)))
        except Missing as error:
            runs.append({"design": name, "missing": str(error)})
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": f"{datetime.now(UTC):%B %Y}",
    }
    options = f' VOICE="{shlex.join(sys.argv[1:])}"' if sys.argv[1:] else ""
    return {"command": f"make voice{options}", "plan": asdict(plan), "machine": machine, "runs": runs}


@click.command()
@click.option("--calls", type=click.IntRange(1, 10_000), default=Plan.calls, show_default=True, help="At once.")
@click.option("--still-s", type=click.FloatRange(1), default=Plan.still_s, show_default=True, help="Addresses stay.")
@click.option("--moving-s", type=click.FloatRange(1), default=Plan.moving_s, show_default=True, help="They change.")
@click.option("--period-s", type=click.FloatRange(0.1), default=Plan.period_s, show_default=True, help="Of changes.")
@click.option("--ramp-s", type=click.FloatRange(0), default=Plan.ramp_s, show_default=True, help="Calls begin.")
@click.option("--thinking-s", type=click.FloatRange(0), default=Plan.thinking_s, show_default=True, help="Of callers.")
@click.option("--patience-s", type=click.FloatRange(1), default=Plan.patience_s, show_default=True, help="Of callers.")
@click.option("--shards", type=click.IntRange(1, 64), default=Plan.shards, show_default=True, help="Fleet processes.")
@click.option("--only", type=click.Choice(list(DESIGNS)), multiple=True, help="These designs.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Folder.")
def main(only: tuple[str, ...], out: Path, calls: int, shards: int, **seconds: float) -> None:
    """Measure, print, and write voice.json and voice.svg."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it ends what it has started, as on Ctrl-C
    plan = Plan(**seconds | {"calls": calls, "shards": shards})  # type: ignore[arg-type]
    results = measure(plan, list(only or DESIGNS))
    out.mkdir(parents=True, exist_ok=True)
    (out / "voice.json").write_text(json.dumps(results))
    draw(results, out / "voice.svg")
    print(tables(results))


if __name__ == "__main__":
    main()
