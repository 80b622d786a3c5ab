"""Floor 5: the command line. Exit codes: 0 done; 1 failed while running; 2 command line or configuration wrong."""

import sys
from contextlib import suppress
from typing import NoReturn

import click

from qlb import __version__
from qlb.cli import control, demo, inspect, kernel, rotate, run, top
from qlb.errors import ConfigError, PlaneUnavailable, QlbError
from qlb.observe.streams import discard_unwritable, open_missing_streams


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qlb")
def cli() -> None:
    """A QUIC load balancer without shared state."""


for command in (
    *run.COMMANDS,
    *inspect.COMMANDS,
    *control.COMMANDS,
    *demo.COMMANDS,
    *kernel.COMMANDS,
    *rotate.COMMANDS,
    *top.COMMANDS,
):
    cli.add_command(command)


def main() -> None:
    """Run a command and exit with its code; what qlb raises becomes lines on stderr, never a traceback."""
    open_missing_streams()
    try:
        cli(standalone_mode=True)
    except (ConfigError, PlaneUnavailable) as error:
        _end(2, str(error))
    except (QlbError, OSError) as error:  # the latter mostly because standard output is full
        _end(1, f"qlb: {error}")
    finally:
        discard_unwritable()


def _end(code: int, text: str) -> NoReturn:
    """Exit with a code, and with a text on standard error where that can be written to."""
    with suppress(OSError):
        click.echo(text, err=True)
    sys.exit(code)
