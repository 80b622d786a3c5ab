"""Run the voice demo: ``python -m examples.voice_agent``. Ctrl-C ends it."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Final

import click

from examples.voice_agent.demo import Demo, running
from qlb.config.load import load
from qlb.errors import ConfigError, QlbError

CONFIG: Final = Path(__file__).with_name("voice.yaml")


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default=CONFIG, help="Configuration of the balancer.")
@click.option(
    "--page-port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="TCP port of the page; 0 = any free port.",
)
@click.option(
    "--delay-ms", type=click.FloatRange(0, 2000), default=20.0, show_default=True, help="Network delay, one way."
)
def main(config: Path, page_port: int, delay_ms: float) -> None:
    """Run three voice agents, the balancer, a NAT in front of it, and the page; print the page's URL."""
    try:
        asyncio.run(_run(config, page_port, delay_ms / 1000))
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    except (OSError, QlbError) as error:
        click.echo(f"voice demo: {error}", err=True)
        sys.exit(1)


async def _run(config: Path, page_port: int, delay_s: float) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(config, page_port=page_port, delay_s=delay_s) as demo:
        click.echo(_what_to_try(demo, config))
        await stop.wait()


def _what_to_try(demo: Demo, config: Path) -> str:
    loaded = load(config).config
    lines = [
        f"The voice agent is at {demo.page_url}",
        "",
        "Open it in Chromium, Chrome or Edge on this machine. Then",
        "  1. press Call: an agent greets you with its letter, and a generated voice talks to it;",
        "  2. press Change my address, or check 'each second': no audio is lost, and the agent stays the same;",
        "  3. select the microphone, call again, and speak: the agent repeats it.",
        "",
        f"  {demo.admin_url}  # the balancer's status page",
    ]
    if isinstance(loaded.admin.socket, Path):
        drain = f".venv/bin/qlb drain {loaded.backends[0].name} --socket {loaded.admin.socket}"
        lines.append(f"  {drain}  # active calls continue, new calls go to other agents")
    return "\n".join([*lines, "", "Press Ctrl-C to end the demo."])


if __name__ == "__main__":
    main()
