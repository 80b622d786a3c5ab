"""BIRD as a router and on the nodes before it: network namespaces in which it learns and withdraws routes."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.deploy.tools import tool
from lab.hosts import Host

POLL_S: Final = 0.05


@dataclass
class Bird:
    """One BIRD process. control: the path of its control socket."""

    host: Host
    control: Path
    process: asyncio.subprocess.Process

    @property
    def command(self) -> str:
        """The birdc command line for this BIRD."""
        return f"{tool('birdc', 'bird2')} -s {self.control}"

    async def ask(self, question: str) -> str:
        """Return the output of a birdc command."""
        process = await asyncio.create_subprocess_exec(
            *(*self.command.split(), *question.split()), stdout=asyncio.subprocess.PIPE
        )
        return (await process.communicate())[0].decode()


@asynccontextmanager
async def bird(host: Host, folder: Path, text: str) -> AsyncIterator[Bird]:
    """Run BIRD on a host with this configuration until the end of the block."""
    folder.mkdir()
    (folder / "bird.conf").write_text(text)
    control = folder / "ctl"
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(
                *host.prefix,
                tool("bird", "bird2"),
                "-f",
                "-c",
                str(folder / "bird.conf"),
                "-s",
                str(control),
                "-P",
                str(folder / "pid"),
            ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        while not control.exists():
            assert process.returncode is None, (folder / "log").read_text()
            await asyncio.sleep(POLL_S)
        yield Bird(host, control, process)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def announcing(
    program: Path, node: Bird, pattern: str, *arguments: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run deploy/bird/qlb-announce on a node until the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *(*node.host.prefix, str(program), pattern, *arguments), env={"PATH": "/usr/bin:/bin", "BIRDC": node.command}
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def next_hops(host: Host, family: int, destination: str) -> set[str]:
    """Return the interfaces through which a host's kernel reaches a destination."""
    show = (*host.prefix, "ip", f"-{family}", "-json", "route", "show", "exact", destination)
    routes = json.loads(subprocess.run(show, capture_output=True, check=True).stdout or b"[]")
    return {hop["dev"] for route in routes for hop in route.get("nexthops", [route])}


async def until_next_hops(host: Host, destinations: Sequence[tuple[int, str]], wanted: set[str]) -> None:
    """Wait until each destination is reached through exactly these interfaces."""
    while any(next_hops(host, family, destination) != wanted for family, destination in destinations):
        await asyncio.sleep(POLL_S)
