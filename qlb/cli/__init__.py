"""Floor 5: the command line. Exit codes: 0 done; 1 failed while running; 2 command line or configuration wrong."""

import sys

import click

from qlb import __version__
from qlb.cli import control, demo, inspect, kernel, rotate, run, top
from qlb.errors import ConfigError, PlaneUnavailable, QlbError


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
    try:
        cli(standalone_mode=True)
    except (ConfigError, PlaneUnavailable) as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    except QlbError as error:
        click.echo(f"qlb: {error}", err=True)
        sys.exit(1)
