"""The screen of ``qlb top``."""

import dataclasses
import io
from typing import Any

import click
import pytest
from rich.console import Console

from lab.readings import sample_reading
from qlb.cli.top import _comparable, drawable, screen
from qlb.observe.figures import Reading
from qlb.observe.status import build_status
from qlb.routing.outcomes import OUTCOMES

TITLES = {
    *("BACKEND", "ADDRESS", "STATE", "HEALTH", "PER SECOND", "PACKETS", "LAST PACKET", "NEW CONNECTIONS"),
    *("CONFIG ID", "ALGORITHM", "FINGERPRINT", "OUTCOME", "MEANING"),
}
WORDS = "no answer within 1 s; 3 times in a row"


def reading_of(backends: int, down: int = 0) -> Reading:
    """Return a reading with so many backends, the first of which are down."""
    reading = sample_reading()
    row = reading.backends[0]
    rows = tuple(
        dataclasses.replace(row, name=f"agent-{n}", address=f"192.0.2.{n % 250}:443", healthy=n >= down, detail=WORDS)
        for n in range(backends)
    )
    return dataclasses.replace(reading, backends=rows)


def lines_of(status: dict[str, Any], width: int = 80, height: int = 24) -> list[str]:
    """Return the lines of the screen without colours."""
    return [click.unstyle(line) for line in screen(status, None, width, height)]


@pytest.mark.parametrize("size", [(80, 24), (160, 50), (80, 10), (40, 12), (20, 5)])
@pytest.mark.parametrize("backends", [0, 1, 3, 100, 1000])
def test_the_screen_has_the_height_of_the_terminal(backends: int, size: tuple[int, int]) -> None:
    """The screen never has more lines than the terminal, and its last line names the key that ends it."""
    lines = lines_of(build_status(reading_of(backends, down=backends // 2)), *size)
    assert len(lines) == size[1]
    assert lines[-1].endswith("q quits")


@pytest.mark.parametrize("backends", [3, 100])
def test_80_columns_and_24_lines(backends: int) -> None:
    """All three tables fit. No title is cut, and names, states and verdicts of backends are whole."""
    lines = lines_of(build_status(reading_of(backends, down=1)))
    heads = [line for line in lines if line.startswith(("BACKEND", "CONFIG ID", "OUTCOME"))]
    assert len(heads) == 3
    found = [title.strip() for head in heads for title in head.split("  ") if title.strip()]
    assert set(found) <= TITLES
    assert all(len(line) <= 80 for line in heads)
    at = lines.index(heads[0])
    assert lines[at + 1].split()[:3] == ["agent-0", "active", "down"]
    assert lines[at + 2].strip() == WORDS
    assert lines[at + 3].split()[:3] == ["agent-1", "active", "up"]
    assert any(line.startswith("by ID") for line in lines)


def test_notices_take_at_most_two_lines() -> None:
    """Many notices take two lines: the most severe one, and the number of the others. A long one may take both."""
    status = build_status(sample_reading())
    lines = lines_of(status)
    assert lines[1].startswith("worker 1 (process 124) has not completed")
    assert lines[2] == f"and {len(status['notices']) - 1} more notices: see qlb status"
    assert lines[3] == ""
    one = {
        **status,
        "notices": [{"level": "error", "severity": "critical", "kind": "x", "text": "y" * 70 + " " + "y" * 29}],
    }
    assert [line.strip("y") for line in lines_of(one)[1:4]] == ["", "", ""]
    assert [len(line) for line in lines_of(one)[1:3]] == [70, 29]
    two = {**status, "notices": status["notices"][:2]}
    assert [line.startswith(("worker 1", "another process")) for line in lines_of(two)[1:4]] == [True, True, False]
    assert lines_of({**status, "notices": []})[1] == ""


def test_the_footer_counts_what_is_missing() -> None:
    """If not all backends fit, the last line has both numbers."""
    lines = lines_of(build_status(reading_of(1000)))
    shown = sum(line.startswith("agent-") for line in lines)
    assert lines[-1] == f"{shown} of 1,000 backends, those with problems first; q quits"
    assert shown >= 5
    assert lines_of(build_status(reading_of(2)))[-1] == "q quits"


def test_the_most_frequent_outcomes_are_shown() -> None:
    """A high terminal shows every outcome, a low one those that are frequent now, a very low one only backends."""
    status = build_status(reading_of(5))
    assert sum(line.startswith("  ") for line in lines_of(status, 120, 40)) == 4
    full = build_status(dataclasses.replace(reading_of(100), outcomes={one.name: 1000 for one in OUTCOMES}))
    flood = {**full["outcomes"], "drop_truncated": 10, "fallback_too_short": 20} | {"cid_config_0": 999}
    before = {**full, "uptime_s": full["uptime_s"] - 1, "outcomes": flood}
    lines = [click.unstyle(line) for line in screen(full, before, 80, 24)]
    shown = [line.split()[0] for line in lines if line.startswith("  ")]
    assert {"cid_config_0", "drop_truncated", "fallback_too_short"} <= set(shown)
    assert 3 <= len(shown) <= 5
    assert sum(line.startswith("agent-") for line in lines) >= 4
    assert not any(line.startswith("OUTCOME") for line in lines_of(status, 80, 8))


def test_rates_need_an_earlier_status_of_the_same_process() -> None:
    """A new process counts from zero, so its first status has nothing to be compared with."""
    status = build_status(sample_reading())
    earlier = {**status, "uptime_s": status["uptime_s"] - 1}
    assert _comparable(earlier, status) is earlier
    assert _comparable(status, earlier) is None
    assert _comparable(None, status) is None


def test_what_is_drawn_fits_the_terminal() -> None:
    """Lines that are too long are cut with an ellipsis, so that no line moves the others down."""
    status = build_status(reading_of(100, down=3))
    console = Console(width=80, height=24, file=io.StringIO(), force_terminal=True)
    console.print(drawable(screen(status, None, 80, 24), 80))
    assert isinstance(console.file, io.StringIO)
    lines = click.unstyle(console.file.getvalue()).rstrip("\n").split("\n")
    assert len(lines) == 24
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].endswith("…")
