"""Floor 5: the command line. Exit codes: 0 done; 1 failed while running; 2 command line or configuration wrong.

A command's module is imported when the command is called, and a module imports the rest of qlb inside its functions:
``qlb keygen`` must not load what only the daemon needs.
"""

import sys
from contextlib import suppress
from importlib import import_module
from typing import Final, NamedTuple, NoReturn

import click

from qlb import __version__
from qlb.errors import ConfigError, PlaneUnavailable, QlbError
from qlb.observe.streams import discard_unwritable, open_missing_streams


class _Section(NamedTuple):
    """A heading of ``qlb --help`` with the commands below it, each as (name, module in qlb.cli)."""

    title: str
    commands: tuple[tuple[str, str], ...]


_SECTIONS: Final = (
    _Section("Run", (("init", "init"), ("run", "run"), ("decap", "xdp"), ("demo", "demo"))),
    _Section(
        "Inspect",
        (("check", "check"), ("config", "config"), ("explain", "explain"), ("status", "operate"), ("top", "top")),
    ),
    _Section(
        "Operate",
        (
            ("drain", "operate"),
            ("undrain", "operate"),
            ("reload", "operate"),
            ("rotate", "rotate"),
            ("upgrade", "operate"),
            ("detach", "xdp"),
        ),
    ),
    _Section(
        "Tools",
        (
            ("cid", "explain"),
            ("completion", "completion"),
            ("keygen", "check"),
            ("schema", "check"),
            ("server-config", "check"),
        ),
    ),
)


def sections() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return each heading of ``qlb --help`` with the names of its commands."""
    return tuple((section.title, tuple(name for name, _ in section.commands)) for section in _SECTIONS)


class _Commands(click.Group):
    """The commands of qlb. Each is the object in its module that has its name, with ``_`` for ``-``."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Return the names of all commands, in the order of ``qlb --help``."""
        return [name for section in _SECTIONS for name, _ in section.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 (click's)
        """Import a command's module and return the command; None if there is no such command."""
        modules = {name: module for section in _SECTIONS for name, module in section.commands}
        if cmd_name not in modules:
            return None
        command = getattr(import_module(f"qlb.cli.{modules[cmd_name]}"), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command), f"{cmd_name} is not a command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one list of commands for each section."""
        width = max(map(len, self.list_commands(ctx)))
        for section in _SECTIONS:
            with formatter.section(section.title):
                found = [(name, self.get_command(ctx, name)) for name, _ in section.commands]
                formatter.write_dl(
                    [(name.ljust(width), command.get_short_help_str(80)) for name, command in found if command]
                )


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="qlb")
def cli() -> None:
    """Balance QUIC connections over servers, without shared state.

    Each command has its own help: qlb COMMAND --help.
    """


def main() -> None:
    """Run a command and exit with its code. Errors become lines on standard error, never a traceback."""
    open_missing_streams()
    try:
        cli(standalone_mode=True)
    except (ConfigError, PlaneUnavailable) as error:
        _end(2, str(error))
    except (QlbError, OSError) as error:  # mostly QlbError; OSError, for example, if standard output is full
        _end(1, f"qlb: {error}")
    finally:
        discard_unwritable()


def _end(code: int, text: str) -> NoReturn:
    """Write a text to standard error, if that is possible, and exit with a code."""
    with suppress(OSError):
        click.echo(text, err=True)
    sys.exit(code)
