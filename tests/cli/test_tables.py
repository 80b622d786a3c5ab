"""Tables of the status: what the terminal shows of it."""

from typing import Any

import pytest

from qlb.cli.tables import Status, ago, backends, cid_configs, headline, in_text, notices, outcomes
from qlb.observe.status import build_status
from tests.observe.readings import sample_reading


@pytest.fixture
def status() -> Status:
    """A status with something in every field."""
    return build_status(sample_reading())


def test_the_headline(status: Status) -> None:
    """What runs, where, how long, and whether it is ready."""
    text = headline(status)
    for part in (
        "qlb 1.2.3",
        "ready",
        "plane asyncio",
        "mode proxy",
        "generation 3",
        "12 s",
        "127.0.0.1:4433, [::1]:4433",
    ):
        assert part in text
    assert "not ready" in headline({**status, "ready": False})


def test_notices(status: Status) -> None:
    """Each thing that somebody should look at has its line; where there is nothing, there is none."""
    found = list(notices(status))
    assert found[0].startswith("the last reload was refused")
    assert found[1].startswith("all probes fail at once")
    assert found[2].startswith("this node cannot send probes (EAGAIN)")
    assert "b:2: wrong key" in found
    assert "source pool of backends fails, and what it found before is kept: gone" in found
    assert any(line.startswith(f"rotation, {status['rotation']['phase']}: ") for line in found)
    assert any(f"config ID {row['config_id']}" in found[-1] for row in status["unconfigured_cids"])
    calm: dict[str, Any] = {
        **status,
        "config": {**status["config"], "last_reload_ok": True},
        "all_probes_failing": False,
        "probe_error": None,
        "backends": [{**row, "finding": None} for row in status["backends"]],
        "discovery": [],
        "rotation": {**status["rotation"], "phase": "idle"},
        "unconfigured_cids": [],
    }
    assert list(notices(calm)) == []


def test_every_row_has_every_column(status: Status) -> None:
    """Whatever the table, and a drained backend is called that."""
    drained = {**status, "backends": [{**row, "drained": True} for row in status["backends"]]}
    for table in (backends(drained), cid_configs(status), outcomes(status), outcomes(status, status)):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.columns)}
    assert [row[2] for row in backends(drained).rows] == ["drained"] * len(status["backends"])


def test_rates_of_outcomes(status: Status) -> None:
    """They come from two answers of one daemon: the difference in packets by the difference in time."""
    name, packets = next((name, packets) for name, packets in status["outcomes"].items() if packets)
    before = {**status, "uptime_s": status["uptime_s"] - 2, "outcomes": {**status["outcomes"], name: packets - 6}}
    assert (name, f"{packets:,}", "3") in outcomes(status, before).rows
    assert outcomes(status).columns == ("OUTCOME", "PACKETS")


def test_lines_are_aligned(status: Status) -> None:
    """Names to the left, numbers to the right, and nothing behind the last column."""
    head, *rows = in_text(backends(status))
    for name in ("ADDRESS", "STATE"):
        assert {row[head.index(name) - 1] for row in rows} == {" "}
    end = head.index("PACKETS") + len("PACKETS")
    assert all(row[end - 1].isdigit() and row[end] == " " for row in rows)
    assert all(line == line.rstrip() for line in (head, *rows))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "never"), (0, "0.0 s ago"), (119.9, "119.9 s ago"), (120, "2 min ago"), (7200, "120 min ago")],
)
def test_ago(seconds: float | None, text: str) -> None:
    """Seconds while that is worth reading, minutes then."""
    assert ago(seconds) == text
