"""Tests of the tables and the plot, on invented results."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import report
from benchmarks.figures import busy, cost_us, rate, ratio, user_share

RUN = {"sent": 100, "received": 99, "send_s": 0.5, "p50_us": 50.0, "p99_us": 90.0, "p999_us": 95.0}


def row(forwarder: str, *costs_us: float, axis: str = "base", label: str = "base", **more: Any) -> dict[str, Any]:
    """Return a row whose rounds moved 1,000 packets each at these costs."""
    rounds = [
        {"packets": 1000, "cpu_ns": us * 1e6, "waited_ns": 0, "elapsed_s": 0.01, "user_ticks": 1, "system_ticks": 3}
        for us in costs_us
    ]
    return {
        "axis": axis, "label": label, "forwarder": forwarder, "rounds": rounds, "missing": None, "paced": None,
        "point": {"flows": 1000}, "sessions": {"before": 1 << 20, "resident": 1_024_000, "slab": 2_048_000}, **more,
    }  # fmt: skip


def results() -> dict[str, Any]:
    """Return results in which nginx costs twice the floor and socat is missing."""
    rows = [
        row("floor", 4.0, 8.0, 4.0, paced={"most": [RUN], "half": [RUN], "direct": [{**RUN, "p50_us": 10.0}]}),
        row("nginx", 8.0, 16.0, 9.0),
        row("socat", missing="not installed"),
        row("qlb asyncio", 10.0, axis="connection IDs", label="plaintext"),
        row("qlb asyncio", 11.0, axis="connection IDs", label="four-pass"),
    ]
    machine = {"cores": 2, "cpu": "a CPU", "system": "a system", "python": "3.11", "date": "a month"}
    return {"command": "a command", "machine": machine, "rows": rows}


def test_figures() -> None:
    """The ratio is the median of the ratios of paired rounds, not the ratio of medians."""
    floor, nginx, *_ = results()["rows"]
    assert cost_us(floor) == [4.0, 8.0, 4.0]
    assert ratio(nginx, floor) == 2.0
    assert (busy(floor), rate(floor), user_share(floor)) == (pytest.approx(0.4), pytest.approx(100_000), 0.25)


def test_page() -> None:
    """The page contains every table, and names each missing forwarder with the reason."""
    page = report.page(results())
    cells = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    assert ["", "nginx", "9.00", "2.25", "6.75", "1.00", "2.00", "≥ 100,000", "90%", ""] in cells
    assert "Missing: socat (not installed)." in page
    assert ["", "floor", "1.00%", "200", "40 (10)", "0 (90)", "0 (95)", ""] in cells
    assert ["", "four-pass", "11.00 (1.10)", ""] in cells
    assert ["", "floor", "1.0", "1.00", "2.00", ""] in cells
    assert "2 cores of a CPU" in page


@pytest.mark.slow
def test_plot_is_the_same_each_time(tmp_path: Path) -> None:
    """The same results give the same file, without a date."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra bench)")
    from benchmarks.plot import draw

    for name in ("one.svg", "other.svg"):
        draw(results(), tmp_path / name)
    drawn = (tmp_path / "one.svg").read_bytes()
    assert drawn == (tmp_path / "other.svg").read_bytes()
    assert b"nginx" in drawn
