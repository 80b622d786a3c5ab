"""Commands that show and change a running daemon, over its control socket."""

import json
import sys
import time
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import quote

import click

from qlb.cli.client import ask, complete_backend, daemon_options, json_option
from qlb.errors import QlbError

RELOAD_TIMEOUT_S: Final = 300.0
"""A reload of 65,536 backends takes half a minute on a busy machine."""
_UPGRADE_TIMEOUT_S: Final = 90.0
"""Longer than the daemon waits for the new process."""
_POLL_S: Final = 0.5


@click.command("status", short_help="Show backends, CID configs, outcomes and notices.")
@daemon_options
@json_option
def status(path: Path, as_json: bool) -> None:
    """Show the daemon's notices, backends, CID configs and outcomes.

    Below each backend that is down is the result of its last probe. NO_COLOR=1 turns the colours off.
    """
    from qlb.cli.tables import print_status, readable

    _, answer = ask(path, "GET", "/status")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    print_status(readable(answer))


@click.command("reload", short_help="Load the configuration again.")
@click.option("--force", is_flag=True, help="Reload even if live connections would break.")
@daemon_options
@json_option
def reload(force: bool, path: Path, as_json: bool) -> None:
    """Load the daemon's configuration again, without a restart.

    The daemon refuses a configuration that is wrong (exit code 2), and one that would break live connections (exit
    code 1). A refused reload changes nothing.
    """
    code, answer = ask(path, "POST", "/reload/force" if force else "/reload", timeout_s=RELOAD_TIMEOUT_S)
    if as_json:
        click.echo(json.dumps(answer))
    else:
        for problem in (*answer.get("warnings", ()), *answer.get("problems", ())):
            click.echo(problem, err=True)
        if answer.get("incomplete"):
            click.echo(f"qlb: generation {answer['generation']} is in force, but not in every worker", err=True)
        if code == HTTPStatus.OK:
            no_changes = ", no changes" if answer.get("unchanged") else ""
            click.echo(f"reloaded{no_changes}; generation {answer['generation']}")
            for change in answer.get("changes", ()):
                click.echo(f"  {change}")
    sys.exit({HTTPStatus.OK: 0, HTTPStatus.UNPROCESSABLE_ENTITY: 2}.get(HTTPStatus(code), 1))


@click.command("upgrade", short_help="Replace the process without losing packets.")
@daemon_options
@json_option
def upgrade(path: Path, as_json: bool) -> None:
    """Start a new process that replaces the daemon's process without losing a packet.

    The new process runs the installed code and loads the configuration again. If it cannot start, the old process
    continues, and this command prints the reason and exits with 1.
    """
    code, answer = ask(path, "POST", "/upgrade", timeout_s=_UPGRADE_TIMEOUT_S)
    if as_json:
        click.echo(json.dumps(answer))
    elif code == HTTPStatus.OK:
        click.echo(f"upgraded; process {answer['pid']} has taken over")
        for warning in answer.get("warnings", ()):
            click.echo(f"qlb: {warning}", err=True)
    else:
        for problem in answer.get("problems", ()):
            click.echo(f"qlb: {problem}", err=True)
        click.echo("qlb: not upgraded; the old process continues", err=True)
    if code != HTTPStatus.OK:
        sys.exit(1)


@click.command("drain", short_help="Stop new connections to a backend.")
@click.argument("name", shell_complete=complete_backend)
@click.option("--wait", is_flag=True, help="Return only after no packet has come for drain.quiet_period.")
@daemon_options
@json_option
def drain(name: str, wait: bool, path: Path, as_json: bool) -> None:
    """Stop new connections to the backend NAME. Its live connections continue.

    A drain survives reloads, upgrades, and restarts under a service manager. Undo: qlb undrain NAME.
    """
    _set_state("drain", name, path, as_json)
    if wait:
        while not _is_drained(name, path):
            time.sleep(_POLL_S)
        click.echo(f"{name}: drained", err=as_json)


@click.command("undrain", short_help="Allow new connections to a backend.")
@click.argument("name", shell_complete=complete_backend)
@daemon_options
@json_option
def undrain(name: str, path: Path, as_json: bool) -> None:
    """Allow new connections to the backend NAME again."""
    _set_state("undrain", name, path, as_json)


def _set_state(verb: str, name: str, path: Path, as_json: bool) -> None:
    code, answer = ask(path, "POST", f"/{verb}/{quote(name, safe='')}")
    if as_json:
        click.echo(json.dumps(answer))
    elif code == HTTPStatus.OK:
        click.echo(f"{name}: {answer.get('state', verb)}")
    else:
        click.echo(f"qlb: {answer.get('error', answer)}", err=True)
    if code != HTTPStatus.OK:
        sys.exit(1)


def _is_drained(name: str, path: Path) -> bool:
    """Return whether a backend is drained. Raises QlbError if it has gone or is no longer draining."""
    _, answer = ask(path, "GET", "/status")
    found = next((row for row in answer["backends"] if row["name"] == name), None)
    if found is None or found["state"] != "draining":
        raise QlbError(f"backend {name} is no longer draining")
    return bool(found["drained"])
