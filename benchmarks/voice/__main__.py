"""Run the same calls through every design, one design after the other: ``python -m benchmarks.voice``.

It prints tables, and writes results/voice.json and results/voice.svg.
"""

import asyncio
import json
import os
import platform
import shlex
import signal
import sys
from collections.abc import Callable
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
    """Run these designs; return all results. A design that is not installed is listed with the reason."""
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


def _option(name: str, kind: click.ParamType[Any], text: str) -> Callable[[Any], Any]:
    """Return the option of a field of Plan, with the plan's default."""
    default = getattr(Plan, name[2:].replace("-", "_"))
    return click.option(name, type=kind, default=default, show_default=True, help=text)


@click.command()
@_option("--calls", click.IntRange(1, 10_000), "Number of callers.")
@_option("--still-s", click.FloatRange(1), "Length of the phase in which addresses stay.")
@_option("--moving-s", click.FloatRange(1), "Length of the phase in which addresses change.")
@_option("--period-s", click.FloatRange(0.1), "Time between changes of a caller's address.")
@_option("--ramp-s", click.FloatRange(0), "Time in which all calls begin.")
@_option("--thinking-s", click.FloatRange(0), "Average pause before a caller speaks again.")
@_option("--patience-s", click.FloatRange(1), "Silence after which a caller hangs up and calls again.")
@_option("--shards", click.IntRange(1, 64), "Number of processes that run the callers.")
@click.option("--only", type=click.Choice(list(DESIGNS)), multiple=True, help="Run only this design (repeatable).")
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True, help="Folder for the results."
)
def main(only: tuple[str, ...], out: Path, calls: int, shards: int, **seconds: float) -> None:
    """Run the same voice calls through every design, and compare what is lost.

    Prints tables, and writes voice.json and voice.svg.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # on SIGTERM too, end the programs that were started
    plan = Plan(**seconds | {"calls": calls, "shards": shards})  # type: ignore[arg-type]
    results = measure(plan, list(only or DESIGNS))
    out.mkdir(parents=True, exist_ok=True)
    (out / "voice.json").write_text(json.dumps(results))
    draw(results, out / "voice.svg")
    print(tables(results))


if __name__ == "__main__":
    main()
