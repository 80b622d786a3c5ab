"""Commands that reach into the kernel themselves, without a daemon. What they need is imported when they are called."""

import ipaddress
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

import click

from qlb.cli.run import CONFIG
from qlb.config.load import load_interfaces

_ENDS: Final = (signal.SIGTERM, signal.SIGINT)
_LOOK_S: Final = 1.0
"""How often `qlb decap` looks whether its program is still there."""


class Address(click.ParamType[IPv4Address | IPv6Address]):
    """An IPv4 or IPv6 address."""

    name = "address"

    def convert(
        self, value: str | IPv4Address | IPv6Address, param: click.Parameter | None, ctx: click.Context | None
    ) -> IPv4Address | IPv6Address:
        """Return the address, or end with a usage error."""
        try:
            return ipaddress.ip_address(value)
        except ValueError:
            self.fail(f"{value!r} is no IP address", param, ctx)


class Network(click.ParamType[IPv4Network | IPv6Network]):
    """An IPv4 or IPv6 network, ADDRESS/BITS, or one address."""

    name = "network"

    def convert(
        self, value: str | IPv4Network | IPv6Network, param: click.Parameter | None, ctx: click.Context | None
    ) -> IPv4Network | IPv6Network:
        """Return the network, or end with a usage error."""
        try:
            return ipaddress.ip_network(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.command("decap")
@click.argument("interfaces", metavar="INTERFACE...", nargs=-1, required=True)
@click.option("--for", "services", type=Address(), multiple=True, required=True, help="A service address; repeatable.")
@click.option(
    "--from", "sources", type=Network(), multiple=True, help="Where balancers send from; repeatable.  [default: any]"
)
@click.option("--port", type=click.IntRange(1, 65535), help="UDP port of GUE.  [default: 6080]")
@click.option(
    "--attach",
    type=click.Choice(("auto", "native", "generic")),
    default="auto",
    show_default=True,
    help="In the driver, after it, or in the driver where it can.",
)
def decap(
    interfaces: tuple[str, ...],
    services: tuple[IPv4Address | IPv6Address, ...],
    sources: tuple[IPv4Network | IPv6Network, ...],
    port: int | None,
    attach: str,
) -> None:
    """Take IP and GUE headers off packets for a service, as they come in at INTERFACE, until SIGTERM or Ctrl-C.

    It is for servers (docs/direct-server-return.md). Prints `ready` when it is attached, and at the end what it has
    counted.
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
    """Keep the signals that end it back until it asks for them: it never ends half attached."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@click.command("detach")
@click.argument("config", type=CONFIG)
def detach(config: Path) -> None:
    """Take the program off CONFIG's interfaces that a daemon with keep_attached has left there.

    Key files need not be there: a service manager takes its credentials away with the daemon.
    """
    from qlb.dataplane.xdp.attach import detach as detach_from

    for interface in load_interfaces(config):
        found = "detached" if detach_from(interface) else "nothing was left there"
        click.echo(f"{interface}: {found}")


COMMANDS = (decap, detach)
