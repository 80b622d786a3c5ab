"""Tables of text for a terminal: aligned, coloured, and as narrow as the terminal.

They are drawn here, because rich needs 0.6 s of processor time for a table of a thousand rows.
"""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

import click

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

    columns: tuple[Column, ...]
    rows: Sequence[Row]


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
    # Octets in hexadecimal stay in one piece, so that they can be copied.
    wrapper = textwrap.TextWrapper(
        max(width, _LEAST_TEXT), initial_indent=_INDENT, subsequent_indent=_INDENT, break_long_words=False
    )
    return wrapper.wrap(text)
