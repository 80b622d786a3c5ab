"""Commands that demonstrate qlb with real QUIC clients on this machine."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from qlb.cli.client import CONFIG
from qlb.cli.run import DEMO_READY
from qlb.errors import BackendError

if TYPE_CHECKING:
    from qlb.demo.drive import Plan

_START_TIMEOUT_S: Final = 60.0


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


@demo.command("run", short_help="Count connections lost by address changes.")
@click.argument("config", type=CONFIG)
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

    Prints one table. The exit code is 0 only if no connection was lost.
    """
    import asyncio

    _require_aioquic()
    from qlb.config.load import load
    from qlb.demo.drive import Plan

    load(config)
    sys.exit(asyncio.run(_run(config, Plan(connections=connections, rebinds=rebinds))))


async def _run(config: Path, plan: "Plan") -> int:
    import asyncio

    from qlb.config.load import load
    from qlb.demo.drive import drive, render

    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qlb", "run", str(config), "--demo-backends"), stdout=asyncio.subprocess.PIPE
    )
    assert daemon.stdout is not None, "the process was started with a pipe"
    try:
        line = await asyncio.wait_for(daemon.stdout.readline(), _START_TIMEOUT_S)
        if not line.startswith(DEMO_READY.encode()):
            raise BackendError("the daemon did not start; its output is above")
        service = load(config).config.listen[0]
        report = await drive(service.host, service.port, plan)
    finally:
        if daemon.returncode is None:
            daemon.terminate()
        await daemon.communicate()
    click.echo(render(report))
    return 1 if report.lost else 0


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

    Accepts every certificate.
    """
    import asyncio
    from urllib.parse import urlsplit

    _require_aioquic()
    parts = urlsplit(url if "://" in url else f"https://{url}")
    try:
        host, port = parts.hostname, parts.port or 443
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="URL") from error
    if parts.scheme != "https" or host is None:
        raise click.BadParameter("must be https://HOST:PORT/PATH", param_hint="URL")
    asyncio.run(_get(host, port, parts.path or "/", rebind))


async def _get(host: str, port: int, path: str, rebinds: int) -> None:
    from qlb.demo.client import connect

    async with connect(host, port) as client:
        for number in range(rebinds + 1):
            if number:
                await client.rebind(new_connection_id=number % 2 == 0)
            answer = await client.get(path)
            server = answer.backend or "a server without a name"
            click.echo(f"{answer.status} from {server}, to port {client.local_port}")


def _require_aioquic() -> None:
    from importlib.util import find_spec

    if find_spec("aioquic") is None:
        raise BackendError("this command needs the aioquic extra: pip install 'qlb[aioquic]'")
