"""Tests of docs/runbooks/: every qlb command in them exists and has the named options."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from lab.deploy import runbooks
from qlb.cli import cli

RUNBOOKS: Final = sorted(runbooks.RUNBOOKS.glob("*.md"))
_INLINE: Final = re.compile(r"`(qlb [^`]+)`")


def commands(path: Path) -> Iterator[str]:
    """Yield each command line of qlb, from code blocks, also behind `kubectl exec POD --`, and from the text."""
    for line in runbooks.lines(path):
        command = line.rpartition(" -- ")[2] if line.startswith("kubectl ") else line
        if command.startswith("qlb "):
            yield command
    yield from _INLINE.findall(path.read_text())


@pytest.mark.parametrize(
    ("name", "line"), [(path.name, line) for path in RUNBOOKS for line in dict.fromkeys(commands(path))]
)
def test_a_command_can_be_typed(name: str, line: str) -> None:
    """Its name, options and number of arguments are those of the command line."""
    _, *arguments = shlex.split(line)
    command: click.Command = cli
    while isinstance(command, click.Group) and arguments:
        word = arguments.pop(0)
        found = command.get_command(click.Context(command), word)
        assert found is not None, f"{name}: there is no {word} in {line}"
        command = found
    context = click.Context(command, info_name=command.name)
    values, rest, _ = command.make_parser(context).parse_args(arguments)
    assert not rest, f"{name}: {line} has too many arguments"
    needed = [one.name for one in command.params if isinstance(one, click.Argument) and one.required]
    assert len(arguments) == 0 or all(values.get(one) is not None for one in needed if one), f"{name}: {line}"


def test_the_runbooks_exist() -> None:
    """Each incident has a runbook with commands."""
    assert [path.stem for path in RUNBOOKS] == ["drain", "flood", "loss-of-a-node", "rotation", "upgrade"]
    assert all(any(commands(path)) for path in RUNBOOKS)
