"""Commands that speak to a running daemon over its Unix socket."""

import http.client
import json
import socket
import sys
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import click

from qlb.cli.tables import backends, cid_configs, in_text, outcomes, summary
from qlb.errors import QlbError

_TIMEOUT_S: Final = 30.0
_RELOAD_TIMEOUT_S: Final = 300.0
"""65,536 backends take half a minute on a busy machine."""
_UPGRADE_TIMEOUT_S: Final = 90.0
"""More than the daemon grants the next process."""
_POLL_S: Final = 0.5
_DEFAULT_SOCKET: Final = "/run/qlb/qlb.sock"

socket_option = click.option(
    "--socket",
    "path",
    type=click.Path(path_type=Path),
    default=_DEFAULT_SOCKET,
    envvar="QLB_SOCKET",
    show_default=True,
    show_envvar=True,
    help="The daemon's control socket.",
)
_json = click.option("--json", "as_json", is_flag=True, help="For programs.")


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str, target: str, *, timeout_s: float = _TIMEOUT_S) -> tuple[int, Any]:
    """Send a request and return (HTTP status, decoded JSON). Raises QlbError where no daemon answers."""
    connection = _UnixConnection(path, timeout_s)
    try:
        connection.request(method, target)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise QlbError(f"no daemon answers at {path}: {error}; name its admin.socket with --socket") from error
    finally:
        connection.close()


@click.command("status")
@socket_option
@_json
def status(path: Path, as_json: bool) -> None:
    """Show what the daemon is doing."""
    _, answer = ask(path, "GET", "/status")
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    tables = (backends(answer), cid_configs(answer), outcomes(answer))
    parts = [summary(answer), *(in_text(table) for table in tables if table.rows)]
    click.echo("\n\n".join("\n".join(part) for part in parts))


@click.command("reload")
@click.option("--force", is_flag=True, help="Even where connections that live would be lost.")
@socket_option
@_json
def reload(force: bool, path: Path, as_json: bool) -> None:
    """Read the configuration file again; a bad one changes nothing, nor one that would break living connections."""
    code, answer = ask(path, "POST", "/reload/force" if force else "/reload", timeout_s=_RELOAD_TIMEOUT_S)
    if as_json:
        click.echo(json.dumps(answer))
    else:
        for problem in (*answer.get("warnings", ()), *answer.get("problems", ())):
            click.echo(problem, err=True)
        if answer.get("incomplete"):
            click.echo(f"qlb: generation {answer['generation']} is in force, but not in every worker", err=True)
        if code == http.HTTPStatus.OK:
            no_changes = ", no changes" if answer.get("unchanged") else ""
            click.echo(f"reloaded{no_changes}; generation {answer['generation']}")
            for change in answer.get("changes", ()):
                click.echo(f"  {change}")
    sys.exit({http.HTTPStatus.OK: 0, http.HTTPStatus.UNPROCESSABLE_ENTITY: 2}.get(http.HTTPStatus(code), 1))


@click.command("upgrade")
@socket_option
@_json
def upgrade(path: Path, as_json: bool) -> None:
    """Let a new process take over without losing a packet: the code and the configuration as they are on disk now.

    Where it cannot, the daemon goes on as it was, and this says why.
    """
    code, answer = ask(path, "POST", "/upgrade", timeout_s=_UPGRADE_TIMEOUT_S)
    if as_json:
        click.echo(json.dumps(answer))
    elif code == http.HTTPStatus.OK:
        click.echo(f"upgraded; process {answer['pid']} has taken over")
        for warning in answer.get("warnings", ()):
            click.echo(f"qlb: {warning}", err=True)
    else:
        for problem in answer.get("problems", ()):
            click.echo(f"qlb: {problem}", err=True)
        click.echo("qlb: not upgraded; the daemon goes on as it was", err=True)
    if code != http.HTTPStatus.OK:
        sys.exit(1)


@click.command("drain")
@click.argument("name")
@click.option("--wait", is_flag=True, help="Return when it is drained: no packet for drain.quiet_period.")
@socket_option
@_json
def drain(name: str, wait: bool, path: Path, as_json: bool) -> None:
    """Give the backend NAME no new connections; it keeps those that it has."""
    _set_state("drain", name, path, as_json)
    if wait:
        while not _is_drained(name, path):
            time.sleep(_POLL_S)
        click.echo(f"{name}: drained", err=as_json)


@click.command("undrain")
@click.argument("name")
@socket_option
@_json
def undrain(name: str, path: Path, as_json: bool) -> None:
    """Give the backend NAME new connections again."""
    _set_state("undrain", name, path, as_json)


def _set_state(verb: str, name: str, path: Path, as_json: bool) -> None:
    code, answer = ask(path, "POST", f"/{verb}/{quote(name, safe='')}")
    if as_json:
        click.echo(json.dumps(answer))
    elif code == http.HTTPStatus.OK:
        click.echo(f"{name}: {answer.get('state', verb)}")
    else:
        click.echo(f"qlb: {answer.get('error', answer)}", err=True)
    if code != http.HTTPStatus.OK:
        sys.exit(1)


def _is_drained(name: str, path: Path) -> bool:
    """Whether a backend is drained. Raises QlbError where it is not there or not draining any more."""
    _, answer = ask(path, "GET", "/status")
    found = next((row for row in answer["backends"] if row["name"] == name), None)
    if found is None or found["state"] != "draining":
        raise QlbError(f"backend {name} is not draining any more")
    return bool(found["drained"])


COMMANDS = (status, reload, upgrade, drain, undrain)
