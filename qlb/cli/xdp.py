"""Commands that attach and detach BPF programs themselves, without a daemon."""

import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from qlb.cli.client import CONFIG, ConfigCommand, config_option

if TYPE_CHECKING:
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

_ENDS: Final = (signal.SIGTERM, signal.SIGINT)
_LOOK_S: Final = 1.0
"""The interval at which `qlb decap` checks that its program is still attached."""


def _address(value: str) -> "IPv4Address | IPv6Address":
    import ipaddress

    try:
        return ipaddress.ip_address(value)
    except ValueError:
        raise click.BadParameter(f"{value!r} is not an IP address") from None


def _network(value: str) -> "IPv4Network | IPv6Network":
    import ipaddress

    try:
        return ipaddress.ip_network(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.command("decap", short_help="Remove tunnel headers on a server.")
@click.argument("interfaces", metavar="INTERFACE...", nargs=-1, required=True)
@click.option(
    "--for",
    "services",
    type=_address,
    metavar="ADDRESS",
    multiple=True,
    required=True,
    help="Service address; may be repeated.",
)
@click.option(
    "--from",
    "sources",
    type=_network,
    metavar="NETWORK",
    multiple=True,
    help="Address or network of balancers; may be repeated.  [default: any]",
)
@click.option("--port", type=click.IntRange(1, 65535), help="UDP port of GUE.  [default: 6080]")
@click.option(
    "--attach",
    type=click.Choice(("auto", "native", "generic")),
    default="auto",
    show_default=True,
    help="native: in the driver; generic: after the driver; auto: native if the driver supports it.",
)
def decap(
    interfaces: tuple[str, ...],
    services: "tuple[IPv4Address | IPv6Address, ...]",
    sources: "tuple[IPv4Network | IPv6Network, ...]",
    port: int | None,
    attach: str,
) -> None:
    """Remove IP and GUE headers from packets for a service that arrive at INTERFACE, until SIGTERM or Ctrl-C.

    This command is for servers (docs/direct-server-return.md). It prints `ready` after it has attached its program, and
    its counters at the end.
    """
    from qlb.dataplane.xdp.decap import DecapSettings, Decapsulator
    from qlb.dataplane.xdp.layout import GUE_PORT

    settings = DecapSettings(
        interfaces=interfaces, services=services, sources=sources, port=port or GUE_PORT, attach=attach
    )
    with _signals_wait(), closing(Decapsulator(settings)) as decapsulator:
        decapsulator.attach()
        click.echo("ready")
        while signal.sigtimedwait(_ENDS, _LOOK_S) is None:
            for text in decapsulator.watch():
                click.echo(text, err=True)
        click.echo(" ".join(f"{name}={count}" for name, count in decapsulator.read_counters().items()))


@contextmanager
def _signals_wait() -> Iterator[None]:
    """Block the signals that end the command, except while it waits for them: it never ends while half attached."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@click.command("detach", cls=ConfigCommand, short_help="Remove an XDP program left behind.")
@click.argument("config", type=CONFIG)
@config_option
def detach(config: Path) -> None:
    """Remove the program that a daemon with keep_attached has left on the interfaces of CONFIG.

    Reads no key files: a service manager removes its credentials when the daemon ends.
    """
    from qlb.config.load import load_interfaces
    from qlb.dataplane.xdp.attach import detach as detach_from

    for interface in load_interfaces(config):
        found = "detached" if detach_from(interface) else "no program was attached"
        click.echo(f"{interface}: {found}")
