"""A daemon's status as tables of text, for ``qlb status`` and ``qlb top``.

The tables are drawn here, because rich needs 0.6 s of processor time for a table of a thousand backends.
"""

import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from shutil import get_terminal_size
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import click

from qlb.observe.streams import escaped

Status = Mapping[str, Any]
"""The answer of /status."""

SEVERITIES: Final[Mapping[str, str]] = MappingProxyType(
    {"critical": "red", "warning": "yellow", "info": "bright_black"}
)
"""Severity of a notice → its colour."""
_EARLIER: Final[Mapping[str, str]] = MappingProxyType({"error": "critical"})
"""Level of a notice → severity, for the daemon of an earlier release; the others have the same name."""
STYLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "up": "green",
        "down": "red",
        "excluded": "red",
        "draining": "yellow",
        "staged": "yellow",
        "retiring": "yellow",
        "dropped": "red",
        "dead": "red",
    }
)
"""Text of a cell → its colour. The usual state, active, has none."""
GAP: Final = "  "
_INDENT: Final = "    "
_MIB: Final = 1 << 20
_LEAST_TEXT: Final = 30
"""The least width of a column of sentences."""


class Column(NamedTuple):
    """One column. rank: in a narrow terminal, the column with the highest rank is omitted first; 0 = never."""

    title: str
    is_number: bool = False
    rank: int = 0


class Row(NamedTuple):
    """One row. note: text for lines of its own below the row."""

    cells: tuple[str, ...]
    note: str = ""


class Table(NamedTuple):
    """One table."""

    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Row]


def readable(answer: Any) -> Any:  # noqa: ANN401 (any part of a JSON document)
    """Return an answer of /status whose texts contain no control characters: servers and DNS write a part of them."""
    if isinstance(answer, str):
        return escaped(answer)
    if isinstance(answer, list):
        return [readable(one) for one in answer]
    return {name: readable(value) for name, value in answer.items()} if isinstance(answer, dict) else answer


def headline(status: Status) -> str:
    """Return version, plane, mode, generation, uptime and addresses in one line."""
    return (
        f"qlb {status['version']}, {'ready' if status['ready'] else 'not ready'}, plane {status['plane']}, mode "
        f"{status['mode']}, generation {status['config']['generation']}, up {status['uptime_s']:.0f} s, listening on "
        f"{', '.join(status['listen'])}"
    )


def notices(status: Status) -> Sequence[Mapping[str, str]]:
    """Return the daemon's notices with their severity, the most severe first; none of an earlier release."""
    found: Sequence[Mapping[str, str]] = status.get("notices", ())
    return [{"severity": _EARLIER.get(row["level"], row["level"]), **row} for row in found]


def backends(status: Status) -> Table:
    """Return the table of backends. Below each one that is not up are the words of the last probe."""
    rows = [
        Row(
            (
                row["name"],
                row["address"],
                "excluded" if row["excluded"] else "drained" if row["drained"] else row["state"],
                "up" if row["healthy"] else "down",
                f"{row['packets_per_second']:,.0f}",
                f"{row['forwarded_packets']:,}",
                ago(row["last_seen_s"]),
                f"{100 * row['fallback_share']:.1f} %",
            ),
            trouble(row),
        )
        for row in status["backends"]
    ]
    columns = (
        Column("BACKEND"),
        Column("ADDRESS", rank=4),
        Column("STATE"),
        Column("HEALTH"),
        Column("PER SECOND", is_number=True),
        Column("PACKETS", is_number=True, rank=2),
        Column("LAST PACKET", rank=1),
        Column("NEW CONNECTIONS", is_number=True, rank=3),
    )
    return Table("Backends", columns, rows)


def trouble(backend: Mapping[str, Any]) -> str:
    """Return why a backend gets no packets or is down, and what is wrong with its IDs; "" if nothing is wrong."""
    detail = "" if backend["healthy"] else backend["detail"]
    found = (backend["excluded"], detail, backend["finding"])
    return "; ".join(dict.fromkeys(text for text in found if text))


def cid_configs(status: Status) -> Table:
    """Return the CID configs."""
    rows = [
        Row(
            (
                str(row["config_id"]),
                row["state"],
                row["algorithm"],
                row["fingerprint"],
                f"{row['packets_per_second']:,.0f}",
                f"{row['packets']:,}",
                ago(row["last_seen_s"]),
            )
        )
        for row in status["cid_configs"]
    ]
    columns = (
        Column("CONFIG ID"),
        Column("STATE"),
        Column("ALGORITHM", rank=3),
        Column("FINGERPRINT", rank=2),
        Column("PER SECOND", is_number=True),
        Column("PACKETS", is_number=True),
        Column("LAST PACKET", rank=1),
    )
    return Table("CID configs", columns, rows)


def workers(status: Status) -> Table:
    """Return the workers with the share of a core that each uses; without rows if the daemon does not report it."""
    rows = [
        Row(
            (
                str(row["index"]),
                str(row["pid"]),
                "alive" if row["alive"] else "dead",
                f"{100 * row['busy_share']:.0f} %",
                f"{row['resident_bytes'] / _MIB:,.0f} MiB" if row["resident_bytes"] else "",
            )
        )
        for row in status["workers"]
        if "busy_share" in row
    ]
    columns = (
        Column("WORKER"),
        Column("PROCESS", is_number=True),
        Column("STATE"),
        Column("BUSY", is_number=True),
        Column("MEMORY", is_number=True),
    )
    return Table("Workers", columns, rows)


def outcomes(status: Status, before: Status | None = None, *, is_short: bool = False) -> Table:
    """Return the outcomes that have packets, in groups. before: an earlier status, for rates. is_short: only groups."""
    seconds = status["uptime_s"] - before["uptime_s"] if before is not None else 0.0

    def cells(name: str, packets: int, earlier: int, text: str) -> tuple[str, ...]:
        rate = f"{max(packets - earlier, 0) / seconds:,.0f}" if seconds > 0 else ""
        return (name, f"{packets:,}", *(() if before is None else (rate,)), text)

    rows = []
    for group in status.get("outcome_groups", ()):
        found = group["outcomes"]
        earlier = [before["outcomes"].get(one["name"], 0) if before is not None else 0 for one in found]
        if found:
            rows.append(Row(cells(group["name"], group["packets"], sum(earlier), group["text"])))
        if not is_short:
            rows += [
                Row(cells(f"  {one['name']}", one["packets"], then, one["text"]))
                for one, then in zip(found, earlier, strict=True)
            ]
    rate = () if before is None else (Column("PER SECOND", is_number=True),)
    columns = (Column("OUTCOME"), Column("PACKETS", is_number=True), *rate, Column("MEANING", rank=1))
    return Table("Outcomes", columns, rows)


def fitted(table: Table, width: int, *, text_width: int = 0) -> Table:
    """Return the table without the columns for which a terminal is too narrow. Titles are never cut.

    text_width: the width that is enough for the last column; 0 = that of its text.
    """
    widths = column_widths(table)
    if text_width:
        widths[-1] = min(widths[-1], text_width)
    shown = list(range(len(table.columns)))
    while sum(widths[column] for column in shown) + len(GAP) * (len(shown) - 1) > width:
        last = max(shown, key=lambda column: table.columns[column].rank)
        if not table.columns[last].rank:
            break
        shown.remove(last)
    rows = [row._replace(cells=tuple(row.cells[column] for column in shown)) for row in table.rows]
    return table._replace(columns=tuple(table.columns[column] for column in shown), rows=rows)


def column_widths(table: Table) -> list[int]:
    """Return the width of every column: that of its title or its longest cell."""
    lines = [tuple(column.title for column in table.columns), *(row.cells for row in table.rows)]
    return [max(map(len, cells)) for cells in zip(*lines, strict=True)]


def in_text(table: Table, width: int | None = None) -> list[str]:
    """Return a table as aligned lines with colours. width: of the terminal; None = no limit."""
    if width is not None:
        table = fitted(table, width, text_width=_LEAST_TEXT)
    widths = column_widths(table)
    head = Row(tuple(column.title for column in table.columns))
    lines: list[str] = []
    for row in (head, *table.rows):
        cells = [_cell(*found) for found in zip(row.cells, table.columns, widths, strict=True)]
        lines += _wrapped(cells, row.cells[-1], width)
        lines += _notes(row.note, width)
    return lines


def _cell(text: str, column: Column, width: int) -> str:
    padded = text.rjust(width) if column.is_number else text.ljust(width)
    return click.style(padded, fg=STYLES[text]) if text in STYLES else padded


def _wrapped(cells: Sequence[str], text: str, width: int | None) -> Iterator[str]:
    """Yield a row; on several lines if the text in its last column does not fit."""
    start = GAP.join((*cells[:-1], ""))
    indent = len(click.unstyle(start))
    if width is None or indent + len(text) <= width or width - indent < _LEAST_TEXT:
        yield GAP.join(cells).rstrip()
        return
    first, *others = textwrap.wrap(text, width - indent)
    yield start + first
    yield from (" " * indent + other for other in others)


def _notes(text: str, width: int | None) -> list[str]:
    if width is None:
        return [_INDENT + text] if text else []
    return textwrap.wrap(text, max(width, _LEAST_TEXT), initial_indent=_INDENT, subsequent_indent=_INDENT)


def print_status(status: Status) -> None:
    """Print the headline, the notices and the tables, in colours and as wide as the terminal if there is one."""
    width = get_terminal_size().columns if sys.stdout.isatty() else None
    tables = (backends(status), cid_configs(status), outcomes(status), workers(status))
    parts = [
        [headline(status), *_in_colour(notices(status))],
        *(in_text(table, width) for table in tables if table.rows),
    ]
    colour = False if os.environ.get("NO_COLOR") else None
    click.echo("\n\n".join("\n".join(part) for part in parts), color=colour)


def _in_colour(found: Iterable[Mapping[str, str]]) -> Iterator[str]:
    for row in found:
        see = f"; see docs/{row['see']}" if "see" in row else ""
        yield click.style(f"{row['severity']}: {row['text']}{see}", fg=SEVERITIES.get(row["severity"]))


def ago(seconds: float | None) -> str:
    """Return a time in the past as text."""
    if seconds is None:
        return "never"
    return f"{seconds:.1f} s ago" if seconds < 120 else f"{seconds / 60:.0f} min ago"
