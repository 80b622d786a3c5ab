"""Commands that check a configuration, and that print keys, schemas and parameters of servers. None sends a packet."""

from pathlib import Path
from typing import Final

import click

from qlb.cli.client import CONFIG, ConfigCommand, complete_configured_backend, config_option
from qlb.errors import QlbError

STACKS: Final = ("aioquic", "envoy", "moq-relay", "nlb", "picoquic", "json")
"""The stacks of qlb.config.server_stacks, repeated here because other commands must not import that module."""


@click.command("check", cls=ConfigCommand, short_help="Validate a configuration.")
@click.argument("config", type=CONFIG)
@click.option("--no-keys", is_flag=True, help="Do not read key files, for a CI system that must not have them.")
@config_option
def check(config: Path, no_keys: bool) -> None:
    """Validate CONFIG and report every problem.

    The problems are those that `qlb run` reports before it opens its sockets. One of them is a backend that is this
    machine itself, at a port of `listen`: packets would loop. Each machine knows only its own addresses, so run this
    command on the balancer.
    """
    from qlb.config import build
    from qlb.config.load import load
    from qlb.daemon.preflight import find_doubts, find_faults, preflight, sessions_here
    from qlb.health.probes import describe
    from qlb.local_addresses import local_hosts

    loaded = load(config, with_keys=not no_keys, find_local=local_hosts)
    chosen = preflight(loaded)
    # A daemon compiles a snapshot of these. That cannot fail, and its ring takes 40 ms to seconds.
    build.cid_params(loaded.config)
    build.backends(loaded.config)
    sessions, shortfalls = sessions_here(loaded.config, chosen)
    doubts, faults = find_doubts(loaded, chosen), find_faults(loaded.config, chosen)
    for warning in (*loaded.warnings, *doubts, *shortfalls, *faults):
        click.echo(f"warning: {warning}", err=True)
    unread = ", key files not read" if no_keys else ""
    room = "" if sessions is None else f", {sessions:,} sessions per worker"
    count = len(loaded.config.backends)
    click.echo(f"{config}: good; {count} backend{'' if count == 1 else 's'}, plane {chosen}{room}{unread}")
    click.echo(describe(loaded.config.health.probe))


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


@click.command("server-config", cls=ConfigCommand, short_help="Print the parameters of a server.")
@click.argument("config", type=CONFIG)
@click.argument("backend", shell_complete=complete_configured_backend)
@click.option("--yang", is_flag=True, help="Print the draft's YANG model as JSON.")
@click.option("--for", "stack", type=click.Choice(STACKS), help="Print the form that this QUIC stack reads.")
@config_option
def server_config(config: Path, backend: str, yang: bool, stack: str | None) -> None:
    """Print the parameters that the server BACKEND must load to issue routable IDs. They contain its secret keys.

    BACKEND is its name, or its IP address if a source of `discovery` derives server IDs from addresses. The draft's
    YANG model describes one CID config: for several CID configs, --yang prints a list of models. With --for, the exit
    code is 2 if the stack cannot issue these IDs; docs/servers.md explains each form.
    """
    import json

    from qlb.config.load import load
    from qlb.config.server_config import server_config_yaml, yang_server_configs
    from qlb.config.server_stacks import stack_config

    if yang and stack is not None:
        raise click.UsageError("--yang and --for exclude each other")
    loaded = load(config).config
    if stack is not None:
        click.echo(stack_config(loaded, backend, stack), nl=False)
        return
    if not yang:
        click.echo(server_config_yaml(loaded, backend), nl=False)
        return
    documents = yang_server_configs(loaded, backend)
    click.echo(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2))
