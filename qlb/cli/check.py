"""Commands that check a configuration, and that print keys, schemas and parameters of servers. None sends a packet."""

from pathlib import Path

import click

from qlb.cli.client import CONFIG
from qlb.errors import QlbError


@click.command("check", short_help="Validate a configuration.")
@click.argument("config", type=CONFIG)
@click.option("--no-keys", is_flag=True, help="Do not read key files, for a CI system that must not have them.")
def check(config: Path, no_keys: bool) -> None:
    """Validate CONFIG and report every problem.

    The problems are those that `qlb run` reports before it opens its sockets. One of them is a backend that is this
    machine itself, at a port of `listen`: packets would loop. Each machine knows only its own addresses, so run this
    command on the balancer.
    """
    from qlb.config import build
    from qlb.config.load import load
    from qlb.daemon.preflight import find_doubts, find_faults, preflight
    from qlb.local_addresses import local_hosts

    loaded = load(config, with_keys=not no_keys, find_local=local_hosts)
    chosen = preflight(loaded)
    build.snapshot(loaded.config)
    for warning in (*loaded.warnings, *find_doubts(loaded, chosen), *find_faults(loaded.config, chosen)):
        click.echo(f"warning: {warning}", err=True)
    unread = ", key files not read" if no_keys else ""
    count = len(loaded.config.backends)
    click.echo(f"{config}: good; {count} backend{'' if count == 1 else 's'}, plane {chosen}{unread}")


@click.command("schema", short_help="Print the configuration's JSON Schema.")
def schema() -> None:
    """Print the JSON Schema of the configuration."""
    import json

    from qlb.config.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@click.command("keygen", short_help="Create a new key.")
@click.argument("file", required=False, type=click.Path(path_type=Path))
def keygen(file: Path | None) -> None:
    """Create a new key, 32 hexadecimal digits from the system's random source, and write it to FILE or print it.

    FILE must not exist. Its mode is 0600, and missing folders are created.
    """
    from qlb.rotation.keys import new_key, write_key

    if file is None:
        click.echo(new_key().hex())
        return
    try:
        write_key(file, new_key())
    except FileExistsError:
        raise QlbError(f"{file} exists already, and was not changed: choose another name") from None


@click.command("server-config", short_help="Print the parameters of a server.")
@click.argument("config", type=CONFIG)
@click.argument("backend")
@click.option("--yang", is_flag=True, help="Print the draft's YANG model as JSON.")
def server_config(config: Path, backend: str, yang: bool) -> None:
    """Print the parameters that the server BACKEND must load to issue routable IDs. They contain its secret keys.

    BACKEND is its name, or its IP address if a source of `discovery` derives server IDs from addresses. The draft's
    YANG model describes one CID config: for several CID configs, --yang prints a list of models.
    """
    import json

    from qlb.config.load import load
    from qlb.config.server_config import server_config_yaml, yang_server_configs

    loaded = load(config).config
    if not yang:
        click.echo(server_config_yaml(loaded, backend), nl=False)
        return
    documents = yang_server_configs(loaded, backend)
    click.echo(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2))
