"""Tests of the figures, tables and plot of invented voice calls."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.voice import figures, report
from benchmarks.voice.caller import TICKET_KNOWN, TICKET_UNKNOWN, WITHOUT_TICKET
from benchmarks.voice.figures import Phase, Setups
from benchmarks.voice.plan import DRAIN, KILL, MOVE, MOVING, RESTART, STILL, TABLE, Plan

PLAN = Plan(calls=2, ramp_s=1, still_s=9, moving_s=20)
WELL = {
    "setups": [[0.5, 0.06, 2, WITHOUT_TICKET, False], [3.5, 0.05, 1, TICKET_KNOWN, False]],
    "endings": [[3.4, "", True, 0, 50, 0, 0], [31.0, "", True, 500, 800, 0, 0]],
    "gaps": [[4.0, 0.02], [12.0, 0.3]],
    "silences": [],
    "changes": 20,
}
LOST = {
    "setups": [[0.5, 0.08, 2, WITHOUT_TICKET, False], [16.2, 0.09, 3, TICKET_UNKNOWN, True]],
    "endings": [
        [15.0, "nothing received for 5 s", True, 100, 50, 30, 4],
        [16.1, "nothing received for 5 s", False, 0, 0, 0, 0],
        [31.0, "", True, 200, 300, 0, 1],
    ],
    "gaps": [[4.0, 0.1], [11.0, 7.5]],
    "silences": [[11.0, 6.5]],
    "changes": 19,
}


def run(name: str, *callers: dict[str, Any]) -> dict[str, Any]:
    """Return a run of one design that used two seconds of CPU in ten."""
    shard = {"told": list(callers), "cut_off": 0, "cpu_s": 2.0, "lags_s": [0.01, 0.02]}
    return {
        "design": name, "events": [], "shards": [shard], "elapsed_s": 10.0, "agents_cpu_s": 5.0,
        "waited_s": [0.2] * 19 + [0.5] * 9, "machine_busy": 1.5,
    }  # fmt: skip


def results() -> dict[str, Any]:
    """Return results of a design that loses nothing, one that loses one call of two, and one that is missing."""
    runs = [
        run("qlb", WELL, WELL),
        run("other, with words", WELL, LOST),
        {"design": "third", "missing": "not installed"},
    ]
    plan = {"calls": 2, "ramp_s": 1, "still_s": 9, "moving_s": 20}
    machine = {"cores": 2, "system": "a system", "python": "3.11", "date": "a month"}
    return {"command": "a command", "plan": plan, "machine": machine, "runs": runs}


def test_events_are_in_order() -> None:
    """A balancer and the table die in each phase; a backend is drained at the end."""
    assert [event for _, event in PLAN.events()] == [KILL, RESTART, TABLE, MOVE, KILL, RESTART, TABLE, DRAIN]
    moments = [at_s for at_s, _ in PLAN.events()]
    assert moments == sorted(moments)
    assert {PLAN.phase(at_s) for at_s in moments[:3]} == {STILL}
    assert {PLAN.phase(at_s) for at_s in moments[3:]} == {MOVING}


def test_phases() -> None:
    """A lost call, the failed attempt after it, and the call that replaced it are counted separately."""
    moving = figures.phase(run("any", WELL, LOST), PLAN, MOVING)
    assert moving == Phase(
        lost=1, failed=1, again=1, sent=800, heard=1150, missing_up=30, missing_down=5, longest_gap_s=7.5,
        typical_gap_s=3.9, silent_s=6.5,
    )  # fmt: skip
    assert moving.missing == 35
    still = figures.phase(run("any", WELL, LOST), PLAN, STILL)
    assert (still.lost, still.again, still.missing, still.longest_gap_s, still.silent_s) == (0, 0, 0, 0.1, 0.0)


def test_setups() -> None:
    """Setups with a ticket are counted separately, by whether the agent knew the ticket."""
    found = run("any", WELL, LOST)
    assert figures.setups(found, WITHOUT_TICKET) == Setups(2, 2, 2, 0.07)
    assert figures.setups(found, TICKET_KNOWN) == Setups(1, 1, 1, 0.05)
    assert figures.setups(found, TICKET_UNKNOWN) == Setups(1, 3, 3, 0.09)
    assert figures.setups(run("any", WELL), TICKET_UNKNOWN) is None


def test_silence_over_time() -> None:
    """A caller counts as silent from the last audio that it received until the next."""
    silent = dict(figures.silent(run("any", WELL, LOST, LOST), PLAN.end_s))
    assert (silent[10.5], silent[11.0], silent[17.0], silent[17.5]) == (0, 2, 2, 0)


def test_page() -> None:
    """Every design has a column, and each missing design is named with the reason."""
    page = report.page(results())
    cells = [[cell.strip() for cell in line.split("|")] for line in page.splitlines()]
    assert ["", "", "qlb", "other, with words", ""] in cells
    assert ["", "connections lost", "0", "1", ""] in cells
    assert ["", "of the caller's / of the agent's", "0 / 0", "30 / 5", ""] in cells
    assert ["", "time without an agent, per call", "0.00 s", "3.25 s", ""] in cells
    assert ["", "0-RTT, the agent knew the ticket", "1 / 1 (2; 50 ms)", "1 / 1 (1; 50 ms)", ""] in cells
    assert ["", "callers and NAT, cores", "0.20", "0.20", ""] in cells
    assert [
        "",
        "wait of an agent or balancer for a core, per second: median / 90 %",
        *["200 / 500 ms"] * 2,
        "",
    ] in cells
    assert "`a command` measures these figures" in page
    assert "2 callers talk to three voice agents" in page
    assert "Missing: third (not installed)." in page


@pytest.mark.slow
def test_plot_is_the_same_each_time(tmp_path: Path) -> None:
    """The same results give the same file, without a date."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra bench)")
    from benchmarks.voice.plot import draw

    for name in ("one.svg", "two.svg"):
        draw(results(), tmp_path / name)
    one = (tmp_path / "one.svg").read_text()
    assert one == (tmp_path / "two.svg").read_text()
    assert "callers of 2" in one
    assert "connections lost" in one
