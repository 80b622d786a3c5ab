"""The command line, read from click: every command with its usage, its options and its subcommands.

click's own texts for options differ between its releases, so this module writes them itself: the manual pages are
committed, and must not depend on the release that is installed.
"""

import inspect
from collections.abc import Iterator
from typing import NamedTuple

import click

from qlb.cli import cli
from qlb.cli import sections as headings


class Option(NamedTuple):
    """An option. spelling: with its value, ``--socket PATH``. text: its help, range and default."""

    spelling: str
    text: str


class Command(NamedTuple):
    """A command. name: complete, ``qlb rotate next``. short: one line. usage: what follows the name.

    text: paragraphs. subcommands: their complete names; only groups have some.
    """

    name: str
    short: str
    usage: str
    text: tuple[str, ...]
    options: tuple[Option, ...]
    subcommands: tuple[str, ...]


def sections() -> Iterator[tuple[str, tuple[Command, ...]]]:
    """Yield each heading of ``qlb --help`` with its commands, each before its subcommands."""
    everything = tuple(commands())
    for title, names in headings():
        wanted = [f"qlb {name}" for name in names]
        yield (
            title,
            tuple(one for name in wanted for one in everything if one.name == name or one.name.startswith(f"{name} ")),
        )


def commands() -> Iterator[Command]:
    """Yield qlb itself and all commands below it, each before its subcommands."""
    yield from _commands(cli, click.Context(cli, info_name="qlb"))


def _commands(command: click.Command, context: click.Context) -> Iterator[Command]:
    below = []
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None, name
            below.append((found, click.Context(found, parent=context, info_name=name)))
    options = (one for one in command.params if isinstance(one, click.Option) and not one.hidden)
    yield Command(
        name=context.command_path,
        short=command.short_help or "",
        usage=" ".join(command.collect_usage_pieces(context)),
        text=tuple(" ".join(part.split()) for part in inspect.cleandoc(command.help or "").split("\n\n")),
        options=tuple(Option(_spelling(one), _text(one, context)) for one in options),
        subcommands=tuple(one.command_path for _, one in below),
    )
    for one in below:
        yield from _commands(*one)


def _spelling(option: click.Option) -> str:
    names = ", ".join(sorted(option.opts, key=len))
    if option.is_flag:
        return names
    kind = option.type
    value = "|".join(map(str, kind.choices)) if isinstance(kind, click.Choice) else option.metavar or "N"
    return f"{names} {value}"


def _text(option: click.Option, context: click.Context) -> str:
    """Return the help of an option with its range, and with its default if the help lacks it."""
    text = " ".join((option.help or "").split())
    facts = []
    if isinstance(option.type, click.IntRange | click.FloatRange):
        facts.append(f"{option.type.min} to {option.type.max}")
    if option.show_default:
        facts.append(f"default: {option.get_default(context)}")
    if option.required:
        facts.append("required")
    return f"{text} [{'; '.join(facts)}]" if facts else text
