"""``python -m examples.moq``: agents, the balancer, a NAT that rebinds each second, and one call through them all."""

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
@click.option("--config", type=click.Path(path_type=Path), default=CONFIG, help="Of the balancer.")
@click.option("--prompts", type=click.IntRange(1), default=10, show_default=True, help="Of about a second.")
def main(config: Path, prompts: int) -> None:
    """Call an agent over MoQ, from a new address each second; exit with 1 where audio is missing."""
    try:
        complete = asyncio.run(_run(config, prompts))
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(2)
    except (OSError, QlbError, TimeoutError) as error:
        click.echo(f"moq demo: {error or 'nothing was heard for too long'}", err=True)
        sys.exit(1)
    sys.exit(0 if complete else 1)


async def _run(config: Path, prompts: int) -> bool:
    async with serving(config, AGENT) as service:
        click.echo(f"three agents; the balancer's own page is at {service.admin_url}")
        with Nat() as nat:
            port = nat.port(service.address)
            async with calling("moqt://{}:{}".format(*port.address), service.certificate.sha256) as call:
                click.echo(f"{call.agent} answers; the address changes each second from now on")
                async with asyncio.timeout(WAIT_S):
                    await call.answered(GREETINGS)
                rebinding = asyncio.create_task(port.rebind_every(PERIOD_S))
                try:
                    said = [await _say(call, port, ascii_lowercase[number % 26]) for number in range(prompts)]
                finally:
                    rebinding.cancel()
                    with suppress(asyncio.CancelledError):
                        await rebinding
                click.echo(
                    f"{call.agent} all the while; connections: {call.connections}, addresses: {port.changes + 1}"
                )
                return all(said) and call.heard.missing == 0 and call.connections == 1


async def _say(call: Call, port: NatPort, letter: str) -> bool:
    """Say a letter; return whether the agent gave it back as it was."""
    samples = say_name(letter)
    answered = len(call.answers) + 1
    await call.prompt(samples)
    async with asyncio.timeout(WAIT_S):
        await call.answered(answered)
    complete = call.answers[answered - 1][: len(samples)] == samples
    source = "{}:{}".format(*port.outsides[-1])
    came = "came back whole" if complete else "did not come back whole"
    click.echo(f"  {source:>21}  said {len(samples)} frames, which {came}; {call.heard.missing} of the track missing")
    return complete


if __name__ == "__main__":
    main()
