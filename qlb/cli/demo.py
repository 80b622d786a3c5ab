"""Commands that demonstrate qlb with real QUIC clients on this machine."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from qlb.cli.client import CONFIG, CONFIG_VARIABLE, ConfigCommand, config_option
from qlb.cli.invocation import own_command, require_aioquic
from qlb.cli.run import DEMO_READY
from qlb.errors import BackendError

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from qlb.demo.client import DemoClient
    from qlb.demo.drive import DemoReport, Plan

_START_TIMEOUT_S: Final = 60.0
_SHORT_HEADER: Final = "40"
"""The first octet of a packet after the handshake, in hexadecimal. Spec: RFC 8999, section 5.2."""
_PAYLOAD: Final = "00" * 24
_TRIES: Final = 3
"""Attempts of `qlb demo get` to connect: a daemon that was started just before may need some seconds."""
_TIMEOUT_S: Final = 10.0


class _Demo(click.Group):
    """The subcommands of ``qlb demo``. ``qlb demo CONFIG`` is short for ``qlb demo run CONFIG``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``run`` in front, unless a subcommand or the help is requested."""
        is_short = bool(args) and args[0] not in self.commands and args[0] not in ctx.help_option_names
        return super().parse_args(ctx, ["run", *args] if is_short else args)


@click.group("demo", cls=_Demo, short_help="Try qlb with real QUIC clients.")
def demo() -> None:
    """Try qlb with real QUIC clients on this machine.

    `qlb demo CONFIG` is short for `qlb demo run CONFIG`.
    """


@demo.command("run", cls=ConfigCommand, short_help="Count connections lost by address changes.")
@click.argument("config", type=CONFIG)
@config_option
@click.option(
    "--connections",
    type=click.IntRange(1, 1000),
    default=30,
    show_default=True,
    help="Number of connections, all at the same time.",
)
@click.option(
    "--rebinds",
    type=click.IntRange(0, 100),
    default=4,
    show_default=True,
    help="Number of address changes of each connection.",
)
def run(config: Path, connections: int, rebinds: int) -> None:
    """Run the daemon with demo servers, and drive clients through it whose addresses change.

    The daemon has the CID configs, backends and settings of CONFIG, but free ports of the loopback interface: another
    daemon may run at the same time. Prints one table. The exit code is 0 only if no connection was lost.
    """
    import asyncio

    require_aioquic()
    from qlb.config.load import load
    from qlb.demo.drive import Plan

    load(config)
    sys.exit(asyncio.run(_run(config, Plan(connections=connections, rebinds=rebinds))))


async def _run(config: Path, plan: "Plan") -> int:
    import tempfile

    from qlb.demo.drive import render
    from qlb.demo.free_ports import move_to_free_ports

    with tempfile.TemporaryDirectory(prefix="qlb-demo-") as folder:
        report = await _drive(move_to_free_ports(config, Path(folder)), plan)
    click.echo(render(report))
    return 1 if report.lost else 0


async def _drive(config: Path, plan: "Plan") -> "DemoReport":
    """Run a daemon with demo servers, and drive clients through it."""
    import asyncio

    from qlb.config.load import load
    from qlb.demo.drive import drive

    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qlb", "run", str(config), "--demo-backends"), stdout=asyncio.subprocess.PIPE
    )
    assert daemon.stdout is not None, "the process was started with a pipe"
    try:
        line = await asyncio.wait_for(daemon.stdout.readline(), _START_TIMEOUT_S)
        if not line.startswith(DEMO_READY.encode()):
            raise BackendError("the daemon did not start; the reason is above")
        service = load(config).config.listen[0]
        return await drive(service.host, service.port, plan)
    finally:
        if daemon.returncode is None:
            daemon.terminate()
        await daemon.communicate()


@demo.command("get", short_help="Send an HTTP/3 request.")
@click.argument("url")
@click.option(
    "--rebind",
    type=click.IntRange(0, 1000),
    default=0,
    metavar="N",
    help="Repeat the request from N more addresses, on the same connection.",
)
def get(url: str, rebind: int) -> None:
    """Request https://HOST:PORT/PATH over HTTP/3 and print the name of the server that answers.

    Accepts every certificate, and HOST:PORT alone. If the connection is lost, the error shows how to find the reason.
    """
    import asyncio
    from urllib.parse import urlsplit

    require_aioquic()
    parts = urlsplit(url if "://" in url else f"https://{url}")
    try:
        host, port = parts.hostname, parts.port or 443
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="URL") from error
    if parts.scheme != "https" or host is None:
        raise click.BadParameter("must be https://HOST:PORT/PATH", param_hint="URL")
    asyncio.run(_get(host, port, parts.path or "/", rebind))


async def _get(host: str, port: int, path: str, rebinds: int, timeout_s: float = _TIMEOUT_S) -> None:
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:
        client = await _connect(stack, host, port, timeout_s)
        for number in range(rebinds + 1):
            try:
                if number:
                    await client.rebind(new_connection_id=number % 2 == 0)
                answer = await client.get(path)
            except BackendError as error:
                raise BackendError(f"{error}\n{_advice(client.server_connection_id, has_moved=number > 0)}") from None
            server = answer.backend or "a server without a name"
            click.echo(f"{answer.status} from {server}, to port {client.local_port}")


async def _connect(stack: "AsyncExitStack", host: str, port: int, timeout_s: float) -> "DemoClient":
    """Return a connected client, closed at the end of the stack. Raises BackendError after the last attempt."""
    from qlb.demo.client import connect

    for attempt in range(2, _TRIES + 1):
        try:
            return await stack.enter_async_context(connect(host, port, timeout_s=timeout_s))
        except BackendError as error:
            click.echo(f"qlb: {error}; trying again ({attempt} of {_TRIES})", err=True)
    try:
        return await stack.enter_async_context(connect(host, port, timeout_s=timeout_s))
    except BackendError as error:
        raise BackendError(
            f"{error} at {host} port {port}: check that qlb listens there and that a backend is up: "
            f"{own_command()} status --config CONFIG"
        ) from None


def _advice(cid: bytes, *, has_moved: bool) -> str:
    """Return what to do about a lost connection. cid: the destination ID of the client's packets."""
    import os

    when = "after the client's address changed" if has_moved else "although its address is the same"
    config = "" if os.environ.get(CONFIG_VARIABLE) else "CONFIG "
    return (
        f"The connection was lost {when}. The server's connection IDs may not lead back to it. This shows where they "
        f"lead:\n  {own_command()} explain {config}{_SHORT_HEADER}{cid.hex()}{_PAYLOAD}"
    )
