"""Compare qlb with other UDP forwarders on the same traffic in one run: CPU, rate, loss, latency, memory.

``python -m benchmarks.forward [--quick] [--only NAME]... [--axis NAME]...`` prints tables and writes every round to
results/forward.json. benchmarks.report and benchmarks.plot make the page and the plot from that file.
Needs a C compiler. Forwarders that are not installed are listed as missing.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from benchmarks import report
from benchmarks.forwarders import Forwarder, all_forwarders
from benchmarks.network import namespace_options
from benchmarks.options import command_line
from benchmarks.points import Axis, axes
from benchmarks.programs import compile_program
from benchmarks.rounds import Bench, Pace, Row
from qlb.errors import PlaneUnavailable

FULL: Final = Pace(rounds=15, round_s=0.15)
QUICK: Final = Pace(rounds=5, round_s=0.1)
DESCRIPTORS: Final = 65_536
RESULTS: Final = Path("results", "forward.json")
MOST_FLOWS_SHARED: Final = 1000
"""Flows up to which all forwarders fit into one network, in which they share the machine's ports."""


def main(arguments: Sequence[str] = ()) -> None:
    """Measure, print the tables, and write the results to a file."""
    options = _parser().parse_args(arguments)
    _raise_file_limit()
    pace = QUICK if options.quick else FULL
    if len(os.sched_getaffinity(0)) == 1:
        print("\nForwarders and load share the only core: rates and latencies mean little", file=sys.stderr)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            program = compile_program("load", folder)
        except PlaneUnavailable as error:
            print(f"\nForwarders side by side: not measured, {error}")
            return
        bench = Bench(folder, program, pace)
        forwarders = [each for each in all_forwarders(folder) if each.name in (options.only or [each.name])]
        chosen = [axis for axis in axes(quick=options.quick) if axis.name in (options.axis or [axis.name])]
        rows = [row for axis in chosen for row in _measure(axis, bench, forwarders)]
    results = {"command": _command(arguments), "machine": _machine(), "rows": [asdict(row) for row in rows]}
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(results, indent=1))
    print(f"\nForwarders side by side\n\n{report.tables(results)}")


def _measure(axis: Axis, bench: Bench, forwarders: Sequence[Forwarder]) -> list[Row]:
    rows: list[Row] = []
    for points in [axis.points] if axis.together else [{label: point} for label, point in axis.points.items()]:
        group = [
            (Row(axis.name, label, forwarder.name, point), forwarder)
            for label, point in points.items()
            for forwarder in forwarders
            if axis.measures(forwarder.name)
        ]
        rows += [row for row, _ in group]
        start = time.monotonic()
        if namespace_options() or all(point.flows <= MOST_FLOWS_SHARED for point in points.values()):
            bench.measure(group, paced=axis.name == "base")
        else:
            for row, _ in group:
                row.missing = (
                    "needs more ports than one network has, and this user may not create others (unshare --net)"
                )
        print(f"{axis.name}: {', '.join(points)}: {time.monotonic() - start:.0f} s", file=sys.stderr)
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = command_line("benchmarks.forward", __doc__)
    parser.add_argument(
        "--quick", action="store_true", help="measure two points, in fewer and shorter rounds: a minute"
    )
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="measure only this forwarder")
    parser.add_argument("--axis", action="append", default=[], metavar="NAME", help="measure only this axis")
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="FILE",
        help="write every round to this file (default: %(default)s)",
    )
    return parser


def _command(arguments: Sequence[str]) -> str:
    return " ".join(["python", "-m", "benchmarks.forward", *arguments])


def _machine() -> dict[str, Any]:
    model = "unknown CPU"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": model,
        "system": f"{platform.system()} {platform.release().partition('-')[0]}, {platform.machine()}",
        "python": platform.python_version(),
        "date": time.strftime("%B %Y"),
    }


def _raise_file_limit() -> None:
    """Raise the limit of open files, so that the forwarders, which inherit it, can open a socket per session."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limits in ((DESCRIPTORS, max(hard, DESCRIPTORS)), (max(soft, hard), hard)):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            return


if __name__ == "__main__":
    main(sys.argv[1:])
