"""Commands that show qlb at work: real QUIC clients, on this machine."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click

from qlb.cli.run import CONFIG
from qlb.config.load import load
from qlb.errors import BackendError

if TYPE_CHECKING:
    from qlb.demo.drive import Plan

_START_TIMEOUT_S: Final = 60.0
_READY: Final = b"qlb forwards QUIC"
"""How the line begins that ``qlb run --demo-backends`` prints when packets are forwarded."""


@click.command("demo")
@click.argument("config", type=CONFIG)
@click.option("--connections", type=click.IntRange(1, 1000), default=30, show_default=True)
@click.option("--rebinds", type=click.IntRange(0, 100), default=4, show_default=True, help="Of each connection.")
def demo(config: Path, connections: int, rebinds: int) -> None:
    """Run the daemon and demo servers, drive clients through it whose addresses change, and count the lost."""
    _require_aioquic()
    from qlb.demo.drive import Plan

    load(config)
    sys.exit(asyncio.run(_demo(config, Plan(connections=connections, rebinds=rebinds))))


async def _demo(config: Path, plan: "Plan") -> int:
    from qlb.demo.drive import drive, render

    daemon = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "qlb", "run", str(config), "--demo-backends"), stdout=asyncio.subprocess.PIPE
    )
    assert daemon.stdout is not None, "it was started with a pipe"
    try:
        line = await asyncio.wait_for(daemon.stdout.readline(), _START_TIMEOUT_S)
        if not line.startswith(_READY):
            raise BackendError("the daemon did not start; what it said is above")
        service = load(config).config.listen[0]
        report = await drive(service.host, service.port, plan)
    finally:
        if daemon.returncode is None:
            daemon.terminate()
        await daemon.communicate()
    click.echo(render(report))
    return 1 if report.lost else 0


@click.command("get")
@click.argument("url")
@click.option("--rebind", type=click.IntRange(0, 1000), default=0, help="Ask again from so many other addresses.")
def get(url: str, rebind: int) -> None:
    """GET https://HOST:PORT/PATH over HTTP/3, trusting any certificate, and say which server answered."""
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
            click.echo(
                f"{answer.status} from {answer.backend or 'a server without a name'}, to port {client.local_port}"
            )


def _require_aioquic() -> None:
    try:
        import aioquic  # noqa: F401
    except ImportError as error:
        raise BackendError("this command needs the aioquic extra: pip install 'qlb[aioquic]'") from error


COMMANDS = (demo, get)
