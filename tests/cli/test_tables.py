"""The tables of a status in the terminal."""

import pytest

from lab.readings import sample_reading
from qlb.cli.tables import Status, ago, backends, cid_configs, headline, in_text, notices, outcomes
from qlb.observe.notices import notices as daemon_notices
from qlb.observe.status import build_status


@pytest.fixture
def status() -> Status:
    """Return a status with a value in every field."""
    return build_status(sample_reading())


def test_the_headline(status: Status) -> None:
    """The headline has the version, the plane, the addresses, the uptime and the readiness."""
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
    """The notices are those of the daemon. The status of an earlier release has none."""
    assert list(notices(status)) == [notice._asdict() for notice in daemon_notices(sample_reading())]
    texts = [notice["text"] for notice in notices(status)]
    assert "b:2: wrong key" in texts
    assert "b:2 gets no packets: it loops" in texts
    earlier = {name: value for name, value in status.items() if name != "notices"}
    assert list(notices(earlier)) == []


def test_every_row_has_every_column(status: Status) -> None:
    """Every row of every table has all columns. The state of a drained or excluded backend is shown."""
    rows = [{**row, "drained": True, "excluded": None} for row in status["backends"]]
    drained = {**status, "backends": rows}
    for table in (backends(drained), cid_configs(status), outcomes(status), outcomes(status, status)):
        assert table.rows
        assert {len(row) for row in table.rows} == {len(table.columns)}
    assert [row[2] for row in backends(drained).rows] == ["drained"] * len(status["backends"])
    excluded = {**status, "backends": [{**row, "excluded": "it loops"} for row in rows]}
    assert [row[2] for row in backends(excluded).rows] == ["excluded"] * len(rows)


def test_rates_of_outcomes(status: Status) -> None:
    """A rate is the difference in packets between two answers, divided by the difference in time."""
    name, packets = next((name, packets) for name, packets in status["outcomes"].items() if packets)
    before = {**status, "uptime_s": status["uptime_s"] - 2, "outcomes": {**status["outcomes"], name: packets - 6}}
    assert (name, f"{packets:,}", "3") in outcomes(status, before).rows
    assert outcomes(status).columns == ("OUTCOME", "PACKETS")


def test_lines_are_aligned(status: Status) -> None:
    """Names are aligned to the left, numbers to the right, and no line ends with a blank."""
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
    """Up to two minutes the unit is seconds, then minutes."""
    assert ago(seconds) == text
