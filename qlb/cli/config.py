"""``qlb config``: print a configuration without secrets, from its file or from a running daemon."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

import click

from qlb.cli.client import CONFIG, ConfigCommand, ask, config_option, find_socket, json_option, socket_option
from qlb.errors import QlbError


@click.command("config", cls=ConfigCommand, short_help="Print a configuration without secrets.")
@click.argument("config", type=CONFIG, required=False)
@click.option("--effective", is_flag=True, help="Also print the keys that have their default values.")
@click.option("--live", is_flag=True, help="Print the configuration of the running daemon of CONFIG, not the file.")
@click.option("--no-keys", is_flag=True, help="Do not read key files. The fingerprints are then left out.")
@config_option
@socket_option
@json_option
def config(config: Path | None, effective: bool, live: bool, no_keys: bool, socket: Path | None, as_json: bool) -> None:
    """Print CONFIG as YAML in its normal form, without secrets and without keys that have their default values.

    Without CONFIG, or with --live or --socket, the running daemon is asked for the configuration that is in force: the
    last one that it accepted, which may differ from the file. States that `qlb drain` has set, and backends from
    `discovery`, are in `qlb status`.

    Paths are absolute. A key file is shown as its path. An inline key is replaced by "(not shown)", so qlb does not
    accept the output as a configuration. The fingerprint of each CID config is no secret: compare it between balancers.
    """
    if config is None or live or socket is not None:
        if no_keys:
            raise click.UsageError("--no-keys is for a file: a running daemon has read its keys")
        heading, found = _ask(find_socket(config, socket), effective=effective)
    else:
        heading, found = "", _read(config, effective=effective, with_keys=not no_keys)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    from qlb.config.dump import as_yaml

    click.echo(heading + as_yaml(found), nl=False)


def _read(config: Path, *, effective: bool, with_keys: bool) -> Mapping[str, object]:
    from qlb.config.dump import as_data
    from qlb.config.load import load

    return as_data(load(config, with_keys=with_keys).config, with_defaults=effective, with_keys=with_keys)


def _ask(path: Path, *, effective: bool) -> tuple[str, Mapping[str, object]]:
    """Return a comment about the daemon's configuration, and the configuration."""
    code, answer = ask(path, "POST", "/config/effective" if effective else "/config")
    if code == HTTPStatus.NOT_FOUND:
        raise QlbError(f"the daemon at {path} has an older version that cannot print its configuration: qlb upgrade")
    if code != HTTPStatus.OK:
        raise QlbError(f"the daemon at {path} cannot print its configuration: {answer.get('error', answer)}")
    return f"# in force: generation {answer['generation']}\n", answer["config"]
