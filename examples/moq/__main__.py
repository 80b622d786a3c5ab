"""Run the MoQ demo: ``python -m examples.moq``. It makes one call through a NAT and through qlb."""

import asyncio
import sys
from contextlib import suppress
from pathlib import Path
from string import ascii_lowercase
from typing import Final

import click

from examples.moq.caller import Call, calling
from examples.voice_agent.__main__ import CONFIG
from examples.voice_agent.demo import serving
from examples.voice_agent.network import PERIOD_S
from examples.voice_agent.speech import say_name
from lab.nat import Nat, NatPort
from qlb.errors import ConfigError, QlbError

AGENT: Final = "examples.moq.agent"
WAIT_S: Final = 10.0
GREETINGS: Final = 1


@click.command()
@click.option("--config", type=click.Path(path_type=Path), default=CONFIG, help="Configuration of the balancer.")
@click.option(
    "--prompts",
    type=click.IntRange(1),
    default=10,
    show_default=True,
    help="Number of prompts, of about a second each.",
)
def main(config: Path, prompts: int) -> None:
    """Call a voice agent over MoQ from a new address each second. The exit code is 1 if audio is missing."""
    try:
        complete = asyncio.run(_run(config, prompts))
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    except (OSError, QlbError, TimeoutError) as error:
        click.echo(f"moq demo: {error or 'timeout: no answer from the agent'}", err=True)
        sys.exit(1)
    sys.exit(0 if complete else 1)


async def _run(config: Path, prompts: int) -> bool:
    async with serving(config, AGENT) as service:
        click.echo(f"three agents are running; the balancer's status page is at {service.admin_url}")
        with Nat() as nat:
            port = nat.port(service.address)
            async with calling("moqt://{}:{}".format(*port.address), service.certificate.sha256) as call:
                click.echo(f"{call.agent} answered; the address changes each second from now on")
                async with asyncio.timeout(WAIT_S):
                    await call.answered(GREETINGS)
                rebinding = asyncio.create_task(port.rebind_every(PERIOD_S))
                try:
                    said = [await _say(call, port, ascii_lowercase[number % 26]) for number in range(prompts)]
                finally:
                    rebinding.cancel()
                    with suppress(asyncio.CancelledError):
                        await rebinding
                counts = f"connections: {call.connections}, addresses: {port.changes + 1}"
                click.echo(f"agent for the whole call: {call.agent}; {counts}")
                return all(said) and call.heard.missing == 0 and call.connections == 1


async def _say(call: Call, port: NatPort, letter: str) -> bool:
    """Speak a letter; return whether the agent returned exactly this audio."""
    samples = say_name(letter)
    answered = len(call.answers) + 1
    await call.prompt(samples)
    async with asyncio.timeout(WAIT_S):
        await call.answered(answered)
    complete = call.answers[answered - 1][: len(samples)] == samples
    source = "{}:{}".format(*port.outsides[-1])
    returned = "all returned" if complete else "NOT all returned"
    click.echo(
        f"  {source:>21}  {len(samples)} frames sent, {returned}; {call.heard.missing} frames of the track missing"
    )
    return complete


if __name__ == "__main__":
    main()
