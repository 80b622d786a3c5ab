"""``qlb rotate``: rotate the key of the connection IDs, one safe step at a time.

The commands edit the YAML, which contains the states of a rotation. They ask every balancer whether a step is safe.
"""

import functools
import json
import sys
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import click

from qlb.cli.client import (
    CONFIG,
    ConfigCommand,
    ask,
    ask_balancer,
    balancer_name,
    config_option,
    json_option,
    socket_of,
    socket_option,
)
from qlb.cli.operate import RELOAD_TIMEOUT_S
from qlb.errors import QlbError

if TYPE_CHECKING:
    from qlb.config.model import Config
    from qlb.rotation.phases import Balancer
    from qlb.rotation.steps import RotationSteps, Step

_POLL_S: Final = 1.0
_ID: Final = click.IntRange(0, 6)


class _Rotate(click.Group):
    """The subcommands of ``qlb rotate``."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 (click's signature)
        """Return the names in the order of a rotation."""
        return list(self.commands)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[Any, Any, list[str]]:
        """Return the subcommand. If the first word is not a subcommand, the error lists them."""
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            raise click.UsageError(f"{args[0]!r} is not a subcommand: use qlb rotate status|next|abort|run CONFIG", ctx)
        return super().resolve_command(ctx, args)


_COMMON: Final = (
    click.argument("config", type=CONFIG),
    config_option,
    socket_option,
    click.option("--config-id", "old_id", type=_ID, help="Config ID to replace, if several are active."),
    click.option(
        "--balancer",
        "balancers",
        type=balancer_name,
        metavar="URL|SOCKET",
        multiple=True,
        help="Balancer to ask, instead of rotation.balancers; may be repeated.",
    ),
)
_NEW: Final = (
    click.option("--new-config-id", "new_id", type=_ID, help="Config ID of the new CID config."),
    click.option(
        "--key-file",
        type=click.Path(path_type=Path),
        metavar="PATH",
        help="File to write the new key to, and to name in CONFIG.  [default: beside the old key]",
    ),
    click.option(
        "--key-name",
        metavar="NAME",
        help="Name of that file in CONFIG, if not PATH: credential:keys_2.hex with systemd.",
    ),
)
_YES: Final = click.option("--yes", is_flag=True, help="Edit CONFIG without asking.")
_EDIT: Final = (
    click.option("--force", is_flag=True, help="Do the step even if packets, which any host can send, prevent it."),
    _YES,
    click.option(
        "--print", "show", flag_value="text", help="Only print the changed CONFIG, and on stderr the plan to apply it."
    ),
    click.option(
        "--diff", "show", flag_value="diff", help="The same with the changes in place of CONFIG; without keys."
    ),
)


class _Plan(NamedTuple):
    """The command line of one subcommand."""

    config: Path
    socket: Path | None
    balancers: tuple[str, ...]
    old_id: int | None
    new_id: int | None = None
    force: bool = False
    yes: bool = False
    key_file: Path | None = None
    key_name: str | None = None

    def begin(self) -> "RotationSteps":
        """Read the configuration. Raises ConfigError or QlbError."""
        from qlb.rotation.steps import Choices, RotationSteps

        choices = Choices(self.old_id, self.new_id, self.force, self.key_file, self.key_name)
        return RotationSteps(self.config, self.ask_all, choices)

    def ask_all(self) -> "list[Balancer]":
        """Ask every balancer. Raises QlbError if one does not answer, because its state is then unknown."""
        from qlb.config.load import load
        from qlb.rotation.phases import read_balancer

        config = load(self.config, with_keys=False).config
        names = self.balancers or config.rotation.balancers or self._own_daemon(config)
        return [read_balancer(name, ask_balancer(name)) for name in names]

    def _own_daemon(self, config: "Config") -> tuple[str, ...]:
        socket = self.control_socket(config)
        if socket is not None:
            return (str(socket.absolute()),)
        if config.admin.listen is not None:
            return (f"http://{config.admin.listen}",)
        raise QlbError("no balancer to ask: set rotation.balancers or admin.socket, or give --balancer or --socket")

    def control_socket(self, config: "Config") -> Path | None:
        """Return the control socket of the daemon to reload; None if it has none."""
        return self.socket or socket_of(self.config, config.admin.socket)


@click.group("rotate", cls=_Rotate, short_help="Rotate the key of connection IDs.")
def rotate() -> None:
    """Rotate the key of the connection IDs, one safe step at a time.

    The steps: stage a CID config with a new key, which every balancer must then decode; activate it, so that servers
    issue from it; remove the old CID config after no packet has carried it for rotation.quiet_period. Each step edits
    CONFIG and reloads its daemon. The runbook is docs/runbooks/rotation.md.
    """


def _subcommand(name: str, short_help: str, *options: Callable[[Any], Any]) -> Callable[[Any], click.Command]:
    """Return a decorator that makes a function a subcommand. The function gets a _Plan and the other options."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def with_plan(**values: Any) -> None:  # noqa: ANN401 (every option has its own type)
            function(_Plan(**{field: values.pop(field) for field in _Plan._fields if field in values}), **values)

        for option in reversed((*_COMMON, *options)):
            with_plan = option(with_plan)
        return rotate.command(name, cls=ConfigCommand, short_help=short_help)(with_plan)

    return decorate


@_subcommand("status", "Show the state of the rotation.", json_option)
def status(plan: _Plan, as_json: bool) -> None:
    """Show the CID configs of CONFIG on every balancer, and whether the next step is safe."""
    from qlb.rotation.plans import status_lines, status_rows
    from qlb.rotation.steps import StepRefused

    steps, balancers = plan.begin(), plan.ask_all()
    is_under_way = steps.parts.staged is not None or bool(steps.parts.retiring)
    reasons: list[str] = []
    if is_under_way:
        try:
            steps.next_step()
        except StepRefused as error:
            reasons = str(error).splitlines()
    rows = status_rows(plan.config, steps.config, balancers)
    if as_json:
        click.echo(json.dumps({"cid_configs": rows, "under_way": is_under_way, "not_safe_because": reasons}, indent=2))
        return
    for line in status_lines(rows):
        click.echo(line)
    if not is_under_way:
        click.echo("no rotation is under way; the next step adds a CID config with a new key: qlb rotate next")
    elif reasons:
        click.echo("\n".join(("the next step is not safe yet:", *reasons)))
    else:
        click.echo("the next step is safe: qlb rotate next")


@_subcommand("next", "Do the next step if it is safe.", *_NEW, *_EDIT)
def next_step(plan: _Plan, show: str | None) -> None:
    """Do the next step of the rotation, or report why it is not safe yet.

    The command prints the changes to CONFIG, and asks before it edits CONFIG and reloads its daemon. With --print or
    --diff it writes nothing, and prints the plan on stderr: what to apply where, in which order, and how to verify it.
    Use them for a CONFIG that comes from a git repository or a ConfigMap.
    """
    _do_or_show(plan, lambda steps: steps.next_step(), show)


@_subcommand("abort", "Undo the last step.", *_EDIT)
def abort(plan: _Plan, show: str | None) -> None:
    """Undo: remove the staged CID config, or reactivate the retiring one.

    The command asks before it edits CONFIG and reloads its daemon. With --print or --diff it writes nothing.
    """
    _do_or_show(plan, lambda steps: steps.abort(), show)


@_subcommand("run", "Do each step when it is safe.", *_NEW, _YES)
def run(plan: _Plan) -> None:
    """Do every step until the old CID config has been removed. Wait before each step until it is safe.

    During these waits, another program must copy CONFIG and its keys to the other balancers and to the servers. There
    is no --force: to force all steps, one after another, would break every connection.
    """
    _require_answer(plan)
    while True:
        steps = _do(plan, lambda: _when_safe(plan))
        if steps.parts.retiring and steps.parts.staged is None:
            return


def _do_or_show(plan: _Plan, choose: "Callable[[RotationSteps], Step]", show: str | None) -> None:
    """Do a step, or only print its result. show: "text", "diff", or None to do it."""

    def advance() -> "tuple[RotationSteps, Step]":
        steps = plan.begin()
        return steps, choose(steps)

    if show is None:
        _require_answer(plan)
        _do(plan, advance)
        return
    steps, step = advance()
    click.echo(step.text if show == "text" else "\n".join(steps.difference(step)), nl=show == "diff")
    for note in (*step.notes, "nothing was written", steps.plan(step, with_difference=show == "text")):
        click.echo(note, err=True)


def _require_answer(plan: _Plan) -> None:
    """Raise UsageError if the command has to ask, and no operator can answer."""
    if not plan.yes and not _is_terminal():
        raise click.UsageError(
            f"cannot ask before {plan.config} is edited, because standard input is not a terminal: add --yes to edit "
            "it without asking, or use `qlb rotate next` or `abort` with --print or --diff, which write nothing"
        )


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _when_safe(plan: _Plan) -> "tuple[RotationSteps, Step]":
    """Wait until the next step is safe. Print the reason for the wait once. Read CONFIG again before each try."""
    from qlb.rotation.steps import StepRefused

    is_reported = False
    while True:
        steps = plan.begin()
        try:
            return steps, steps.next_step()
        except StepRefused as error:
            if not is_reported:
                click.echo(f"waiting: {error}")
            is_reported = True
            time.sleep(_POLL_S)


def _do(plan: _Plan, advance: "Callable[[], tuple[RotationSteps, Step]]") -> "RotationSteps":
    """Show a step, ask, write its files and reload the daemon. If the daemon refuses, restore the files."""
    steps, step = advance()
    click.echo("\n".join((*steps.difference(step), *step.notes)))
    if not plan.yes:
        if not click.confirm(f"Write these changes to {steps.path} and reload its daemon?"):
            raise QlbError("nothing was changed")
        if advance()[1].summary != step.summary:  # an answer can take hours
            raise QlbError("the next step is no longer the one above, and nothing was changed: run this again")
    steps.write(step)
    problems = () if step.needs_restart else _reload(plan.control_socket(steps.config), force=plan.force)
    if problems:
        steps.undo(step)
        raise QlbError("the daemon refuses, and the file is as it was:\n" + "\n".join(problems))
    click.echo("\n".join((step.summary, *step.instructions)))
    return steps


def _reload(socket: Path | None, *, force: bool) -> tuple[str, ...]:
    """Reload the daemon, if it runs; return its reasons if it refuses."""
    if socket is None or not socket.is_socket():
        click.echo("no daemon was reloaded: there is no control socket (admin.socket)", err=True)
        return ()
    code, answer = ask(socket, "POST", "/reload/force" if force else "/reload", timeout_s=RELOAD_TIMEOUT_S)
    problems = tuple(answer.get("problems", ())) or (str(answer),)
    if answer.get("incomplete"):  # most workers use the new file; restoring the old one would leave the others behind
        raise QlbError("the step is done in the file, but not in every worker; run this again:\n" + "\n".join(problems))
    return () if code == HTTPStatus.OK else problems
