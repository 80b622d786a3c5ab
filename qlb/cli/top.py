"""``qlb top``: the status of a daemon in the terminal, updated continuously."""

import contextlib
import select
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from qlb.cli.client import ask, daemon_options
from qlb.cli.drawing import Table, fitted, in_text
from qlb.cli.tables import (
    SEVERITIES,
    Status,
    backends,
    cid_configs,
    headline,
    notices,
    outcomes,
    print_status,
    readable,
)
from qlb.errors import QlbError

if TYPE_CHECKING:
    from rich.console import Group

_NOTICE_LINES: Final = 2
_PART_FOR_OUTCOMES: Final = 5
_TEXT_WIDTH: Final = 60
"""The width that is enough for a sentence, which is then cut."""


@click.command("top", short_help="Watch the traffic in the terminal.")
@daemon_options
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    help="Seconds between two requests to the daemon.",
)
@click.option("--once", is_flag=True, help="Print the tables once, as text, and exit.")
def top(path: Path, interval: float, once: bool) -> None:
    """Show backends, CID configs, outcomes and their rates until q or Ctrl-C.

    Backends with problems come first, then the busiest ones. A narrow terminal shows fewer columns, a low one fewer
    rows. NO_COLOR=1 turns the colours off.
    """
    if once:
        print_status(read_status(path))
        return
    from rich.live import Live

    with (
        contextlib.suppress(KeyboardInterrupt),
        _interrupts() as interrupted,
        _keys() as pressed,
        Live(screen=True, auto_refresh=False) as live,
    ):
        before: Status | None = None
        since: float | None = None
        while not interrupted.is_set():
            try:
                status = read_status(path)
            except QlbError as error:
                since = since or time.time()
                live.update(
                    f"no answer since {time.strftime('%H:%M:%S', time.localtime(since))}: {error}", refresh=True
                )
            else:
                width, height = live.console.size
                live.update(drawable(screen(status, _comparable(before, status), width, height), width), refresh=True)
                before, since = status, None
            if pressed(interval) == "q":
                return


def read_status(path: Path) -> Status:
    """Return the status with the backends with problems first, then the busiest ones."""

    def rank(row: dict[str, Any]) -> tuple[bool, bool, float]:
        return not row["finding"], row["healthy"], -row["packets_per_second"]

    status = readable(ask(path, "GET", "/status")[1])
    return {**status, "backends": sorted(status["backends"], key=rank)}


def drawable(lines: Sequence[str], width: int) -> "Group":
    """Return lines as an object that rich draws, cut to a width."""
    from rich.console import Group
    from rich.text import Text

    texts = [Text.from_ansi(line) for line in lines]
    for text in texts:
        text.truncate(width, overflow="ellipsis")
    return Group(*texts)


def _comparable(before: Status | None, status: Status) -> Status | None:
    """Return the earlier status if it is of the same process, else None: a new process counts from zero."""
    return before if before is not None and before["uptime_s"] < status["uptime_s"] else None


class _Part(NamedTuple):
    """A table on the screen. lines: for its rows."""

    table: Table
    lines: int


def screen(status: Status, before: Status | None, width: int, height: int) -> list[str]:
    """Return the lines of a terminal. before: an earlier status of the same process, for rates."""
    top_lines = [click.style(headline(status), bold=True), *_notice_lines(notices(status), width)]
    configs, rows = cid_configs(status), backends(status)
    groups = outcomes(status, before or status, most=0)
    free = height - len(top_lines) - 1
    others = [_Part(table, len(table.rows) + 2) for table in (groups, configs)]
    while others and free - sum(part.lines for part in others) < min(len(rows.rows), free // 3) + 2:
        others.pop()  # a low terminal shows the backends first
    left = free - sum(part.lines for part in others) - 2
    if others:  # a part of the lines is for the most frequent outcomes, which show what kind of flood this is
        spare = left - sum(1 + bool(row.note) for row in rows.rows)
        detailed = outcomes(status, before or status, most=max(spare, free // _PART_FOR_OUTCOMES))
        others[0] = _Part(detailed, len(detailed.rows) + 2)
        left -= len(detailed.rows) - len(groups.rows)
    shown = _that_fit(rows, left)
    lines = [*top_lines, "", *_drawn(shown, width)]
    for part in reversed(others):
        lines += ["", *_drawn(part.table, width)]
    return [*lines[: height - 1], *[""] * (height - 1 - len(lines)), _footer(len(shown.rows), len(rows.rows))]


def _notice_lines(found: Sequence[Any], width: int) -> list[str]:
    """Return the most severe notices in at most two lines, and the number of the others."""
    lines = [click.style(row["text"], fg=SEVERITIES.get(row["severity"])) for row in found]
    if len(found) == 1 and len(found[0]["text"]) > width:
        first, *rest = textwrap.wrap(found[0]["text"], width)
        return [click.style(part, fg=SEVERITIES.get(found[0]["severity"])) for part in (first, " ".join(rest))]
    if len(lines) > _NOTICE_LINES:
        more = len(lines) - _NOTICE_LINES + 1
        lines[_NOTICE_LINES - 1 :] = [click.style(f"and {more} more notices: see qlb status", dim=True)]
    return lines


def _drawn(table: Table, width: int) -> list[str]:
    return in_text(fitted(table, width, text_width=_TEXT_WIDTH))


def _that_fit(table: Table, lines: int) -> Table:
    """Return a table with as many of its rows as fit into some lines. A note below a row takes a line of its own."""
    rows = []
    for row in table.rows:
        lines -= 1 + bool(row.note)
        if lines < 0:
            break
        rows.append(row)
    return table._replace(rows=rows)


def _footer(shown: int, every: int) -> str:
    some = "" if shown == every else f"{shown:,} of {every:,} backends, those with problems first; "
    return click.style(f"{some}q quits", dim=True)


@contextlib.contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C sets: Python ignores a KeyboardInterrupt that is raised in a finalizer."""
    event = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """Yield a function that waits for some seconds and returns the key that was pressed, or ""."""
    if not sys.stdin.isatty():
        yield time.sleep
        return
    import termios
    import tty

    before = termios.tcgetattr(sys.stdin)

    def pressed(seconds: float) -> str:
        readable, _, _ = select.select([sys.stdin], [], [], seconds)
        return sys.stdin.read(1) if readable else ""

    try:
        tty.setcbreak(sys.stdin)
        yield pressed
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
