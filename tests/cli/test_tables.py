"""The tables of a status in the terminal."""

import click
import pytest

from lab.readings import sample_reading
from qlb.cli.drawing import GAP, column_widths, fitted, in_text
from qlb.cli.tables import (
    Status,
    ago,
    backends,
    cid_configs,
    headline,
    notices,
    outcomes,
    print_status,
    readable,
    trouble,
    workers,
)
from qlb.observe.notices import notices as daemon_notices
from qlb.observe.status import build_status


@pytest.fixture
def status() -> Status:
    """Return a status with a value in every field."""
    return build_status(sample_reading())


def plain(lines: list[str]) -> list[str]:
    """Return lines without colours."""
    return [click.unstyle(line) for line in lines]


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
    """The notices are those of the daemon. The status of an earlier release has no severities, or no notices."""
    assert [(row["severity"], row["text"]) for row in notices(status)] == [
        (notice.severity, notice.text) for notice in daemon_notices(sample_reading())
    ]
    earlier = {**status, "notices": [{"level": "error", "kind": "xdp", "text": "lost"}]}
    assert [row["severity"] for row in notices(earlier)] == ["critical"]
    earlier = {name: value for name, value in status.items() if name != "notices"}
    assert list(notices(earlier)) == []


def test_every_row_has_every_column(status: Status) -> None:
    """Every row of every table has all columns. The state of a drained or excluded backend is shown."""
    rows = [{**row, "drained": True, "excluded": None} for row in status["backends"]]
    drained = {**status, "backends": rows}
    for table in (backends(drained), cid_configs(status), outcomes(status), outcomes(status, status)):
        assert table.rows
        assert {len(row.cells) for row in table.rows} == {len(table.columns)}
    assert [row.cells[2] for row in backends(drained).rows] == ["drained"] * len(status["backends"])
    excluded = {**status, "backends": [{**row, "excluded": "it loops"} for row in rows]}
    assert [row.cells[2] for row in backends(excluded).rows] == ["excluded"] * len(rows)


def test_why_a_backend_is_down(status: Status) -> None:
    """Below a backend that is not up are the words of its last probe; below one that is up, only a finding."""
    up, down = status["backends"]
    assert trouble(up) == ""
    assert trouble({**up, "finding": "wrong key"}) == "wrong key"
    assert trouble({**down, "excluded": None, "finding": "no answer"}) == "no answer"
    lines = plain(in_text(backends(status)))
    assert [line for line in lines if line.startswith("    ")] == ["    it loops; no answer; wrong key"]
    assert lines.index("    it loops; no answer; wrong key") == 3


def test_outcomes_are_grouped(status: Status) -> None:
    """Each group is followed by its outcomes, each with its meaning. With a limit, the most frequent ones are shown."""
    lines = plain(in_text(outcomes(status)))
    assert [line.split("  ")[0] or line.split()[0] for line in lines[1:]] == [
        *("by ID", "cid_config_0", "cid_config_1"),
        *("new connection", "fallback_too_short"),
        *("known flow", "four_tuple_no_config"),
    ]
    assert lines[2].endswith("The ID decoded under CID config 0.")
    assert [row.cells[0] for row in outcomes(status, most=0).rows] == ["by ID", "new connection", "known flow"]
    short = outcomes(status, most=1)
    assert [row.cells[0] for row in short.rows] == ["by ID", "  cid_config_1", "new connection", "known flow"]
    assert outcomes({**status, "outcome_groups": []}).rows == []


def test_the_last_dropped_datagram(status: Status) -> None:
    """Below an outcome that is a drop are the octets of the last such datagram, for ``qlb explain``."""
    drop = {"name": "drop_truncated", "packets": 3, "text": "It was cut."}
    group = {"name": "dropped", "text": "Not forwarded.", "packets": 3, "outcomes": [drop]}
    sample = {"octets": "c000", "length": 1200, "seen_s": 2.5}
    dropping = {**status, "outcome_groups": [group], "samples": {"truncated": sample}}
    assert [row.note for row in outcomes(dropping).rows] == ["", "the last one, 1200 octets, 2.5 s ago: c000"]
    assert [row.note for row in outcomes(dropping, most=9).rows] == ["", ""]
    long = {**dropping, "samples": {"truncated": {**sample, "octets": "c0" * 64}}}
    assert "    " + "c0" * 64 in plain(in_text(outcomes(long), 80))


def test_workers(status: Status) -> None:
    """Each worker has its share of a core and its memory. A daemon that does not report them has no such table."""
    without = [
        {name: value for name, value in row.items() if name not in ("busy_share", "resident_bytes")}
        for row in status["workers"]
    ]
    assert workers({**status, "workers": without}).rows == []
    figures = [{"busy_share": 0.873, "resident_bytes": 31 << 20}, {"busy_share": 0.0, "resident_bytes": None}]
    rows = workers({**status, "workers": [row | more for row, more in zip(without, figures, strict=True)]}).rows
    assert [row.cells for row in rows] == [("0", "123", "alive", "87 %", "31 MiB"), ("1", "124", "dead", "0 %", "")]


def test_rates_of_outcomes(status: Status) -> None:
    """A rate is the difference in packets between two answers, divided by the difference in time."""
    earlier = {**status["outcomes"], "cid_config_1": status["outcomes"]["cid_config_1"] - 6}
    before = {**status, "uptime_s": status["uptime_s"] - 2, "outcomes": earlier}
    rows = {row.cells[0].strip(): row.cells for row in outcomes(status, before).rows}
    assert rows["cid_config_1"][1:3] == ("12", "3")
    assert rows["by ID"][1:3] == ("14", "3")
    assert rows["known flow"][2] == "0"
    assert [column.title for column in outcomes(status).columns] == ["OUTCOME", "PACKETS", "MEANING"]


def test_lines_are_aligned(status: Status) -> None:
    """Names are aligned to the left, numbers to the right, and no line ends with a blank."""
    head, *rows = [line for line in plain(in_text(backends(status))) if not line.startswith(" ")]
    for name in ("ADDRESS", "STATE"):
        assert {row[head.index(name) - 1] for row in rows} == {" "}
    end = head.index("PACKETS") + len("PACKETS")
    assert all(row[end - 1].isdigit() and row[end] == " " for row in rows)
    assert all(line == line.rstrip() for line in (head, *rows))


@pytest.mark.parametrize("width", [200, 100, 80, 60, 40])
def test_a_narrow_terminal_shows_fewer_columns(status: Status, width: int) -> None:
    """Columns are omitted until the table fits, the least important first. A title is never cut."""
    for table in (backends(status), cid_configs(status), outcomes(status, status)):
        shown = fitted(table, width, text_width=30)
        titles = [column.title for column in shown.columns]
        every = [column.title for column in table.columns]
        assert titles == [title for title in every if title in titles]
        is_least = all(not column.rank for column in shown.columns)
        widths = column_widths(shown)
        if titles and titles[-1] == "MEANING":
            widths[-1] = min(widths[-1], 30)
        assert is_least or sum(widths) + len(GAP) * (len(widths) - 1) <= width
        assert {len(row.cells) for row in shown.rows} == {len(titles)}
        if width == 200:
            assert titles == every
    narrow = [column.title for column in fitted(backends(status), 60).columns]
    assert narrow == ["BACKEND", "STATE", "HEALTH", "PER SECOND", "PACKETS", "LAST PACKET"][: len(narrow)]


def test_sentences_are_wrapped(status: Status) -> None:
    """In a terminal, the meaning of an outcome continues on the next line, below its beginning."""
    lines = plain(in_text(outcomes(status), 80))
    assert all(len(line) <= 80 for line in lines)
    start = lines[0].index("MEANING")
    assert lines[1][start:].startswith("The connection ID decoded")
    assert not lines[2][:start].strip()
    assert len(plain(in_text(outcomes(status)))) == 1 + len(outcomes(status).rows)


def test_states_have_colours(status: Status) -> None:
    """A state that needs attention has a colour, and the usual state has none."""
    text = "\n".join(in_text(backends(status)))
    assert click.style("down", fg="red") in text.replace("down  ", "down")
    assert click.style("up    ", fg="green") in text
    assert "\x1b[0m  active" not in text


def test_text_from_outside_does_not_command_the_terminal(
    status: Status, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control characters in the words of a server are printed as escapes."""
    hostile = "\x1b]0;owned\x07\r\n\x9b2J"
    rows = [{**row, "detail": hostile, "finding": hostile} for row in status["backends"]]
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_status(readable({**status, "backends": rows, "notices": [{"level": "error", "kind": "x", "text": hostile}]}))
    printed = click.unstyle(capsys.readouterr().out)
    assert "\\x1b]0;owned\\x07\\r\\n\\x9b2J" in printed
    assert all(line.isprintable() for line in printed.splitlines())


def test_the_printed_status(status: Status, capsys: pytest.CaptureFixture[str]) -> None:
    """Each notice has a line with its severity and its page. Without a terminal there are no colours."""
    print_status(status)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == (
        "critical: worker 1 (process 124) has not completed a round of its loop for 7.0 s; "
        "see docs/operating.md#workers-that-hang"
    )
    assert any(line.startswith("warning: the last reload was refused") for line in lines)
    assert not any("\x1b" in line for line in lines)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "never"), (0, "0.0 s ago"), (119.9, "119.9 s ago"), (120, "2 min ago"), (7200, "120 min ago")],
)
def test_ago(seconds: float | None, text: str) -> None:
    """Up to two minutes the unit is seconds, then minutes."""
    assert ago(seconds) == text
