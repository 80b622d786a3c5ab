"""``qlb top``: the status of a daemon in the terminal, updated continuously."""

import contextlib
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import click

from qlb.cli.client import ask, daemon_options
from qlb.cli.tables import Status, Table, backends, cid_configs, headline, in_text, notices, outcomes, summary
from qlb.errors import QlbError

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES: Final = MappingProxyType(
    {
        "down": "red",
        "up": "green",
        "drained": "green",
        "draining": "yellow",
        "staged": "yellow",
        "retiring": "yellow",
    }
)
_LEVELS: Final = MappingProxyType({"error": "red", "warning": "yellow", "info": "green"})
"""Level of a notice → its colour."""
_MAX_ROWS: Final = 200


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

    Backends with problems come first, then the busiest ones.
    """
    if once:
        status = _busiest_first(ask(path, "GET", "/status")[1])
        tables = (backends(status), cid_configs(status), outcomes(status))
        click.echo("\n\n".join(["\n".join(summary(status)), *("\n".join(in_text(table)) for table in tables)]))
        return
    try:
        from rich.live import Live
    except ImportError as error:
        raise QlbError("qlb top needs the top extra: pip install 'qlb[top]' (--once does not need it)") from error
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
                status = _busiest_first(ask(path, "GET", "/status")[1])
            except QlbError as error:
                since = since or time.time()
                live.update(
                    f"no answer since {time.strftime('%H:%M:%S', time.localtime(since))}: {error}", refresh=True
                )
            else:
                live.update(_screen(status, _comparable(before, status)), refresh=True)
                before, since = status, None
            if pressed(interval) == "q":
                return


def _comparable(before: Status | None, status: Status) -> Status | None:
    """Return the earlier status if it is of the same process, else None: a new process counts from zero."""
    return before if before is not None and before["uptime_s"] < status["uptime_s"] else None


def _busiest_first(status: dict[str, Any]) -> Status:
    def rank(row: dict[str, Any]) -> tuple[bool, bool, float]:
        return not row["finding"], row["healthy"], -row["packets_per_second"]

    return {**status, "backends": sorted(status["backends"], key=rank)[:_MAX_ROWS]}


def _screen(status: Status, before: Status | None) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [Text(headline(status), style="bold")]
    parts += [Text(notice["text"], style=_LEVELS.get(notice["level"], "yellow")) for notice in notices(status)]
    parts += [_rich(table) for table in (backends(status), cid_configs(status), outcomes(status, before))]
    return Group(*parts, Text("q quits", style="dim"))


def _rich(table: Table) -> "RenderableType":
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(title=table.title, title_justify="left", box=None, pad_edge=False)
    for number, name in enumerate(table.columns):
        drawn.add_column(name, justify="right" if number in table.numbers else "left", no_wrap=True)
    for row in table.rows:
        drawn.add_row(*(Text(cell, style=_STYLES.get(cell, "red" if cell.startswith("drop_") else "")) for cell in row))
    return drawn


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
