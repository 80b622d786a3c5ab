"""Commands that reach into the kernel themselves, without a daemon."""

from pathlib import Path

import click

from qlb.cli.run import CONFIG
from qlb.config.load import load


@click.command("detach")
@click.argument("config", type=CONFIG)
def detach(config: Path) -> None:
    """Take the program off CONFIG's interfaces that a daemon with keep_attached has left there."""
    from qlb.dataplane.xdp.attach import detach as detach_from

    for interface in load(config).config.forwarding.interfaces:
        found = "detached" if detach_from(interface) else "nothing was left there"
        click.echo(f"{interface}: {found}")


COMMANDS = (detach,)
