"""Round trips until the first audio frame, counted on the wire by the NAT, for each client and kind of connection.

Run: python -m lab.voice.setup

The network's delay is 100 ms one way, so that the programs' own time does not count as a round trip.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from aioquic.tls import SessionTicket

from examples.voice_agent.demo import Demo
from lab.browser import browser
from lab.nat import NatPort
from lab.voice.client import calling
from lab.voice.stage import voice_demo

DELAY_S: Final = 0.1
_BEGAN: Final = "performance.timeOrigin + call.beganMs"
_FIRST: Final = "call.firstFrameMs"


class Setup(NamedTuple):
    """The time and the round trips until the first audio frame."""

    seconds: float
    round_trips: int


async def first_call(demo: Demo, keep_ticket: Callable[[SessionTicket], None]) -> Setup:
    """Call as a new client, without a session ticket."""
    async with calling(demo.port.address, keep_ticket=keep_ticket) as call:
        await call.until(lambda call: call.first_frame_s is not None)
        assert call.first_frame_s is not None, call.lost
        setup = _setup(demo.port, call.began_s, call.first_frame_s)
        await call.until(lambda call: bool(call.round_trips_s))  # the ticket has arrived before this
    assert not call.early
    return setup


async def next_call(demo: Demo, ticket: SessionTicket) -> Setup:
    """Call with the ticket of an earlier call, so that the request is sent in 0-RTT."""
    async with calling(demo.port.address, ticket=ticket) as call:
        await call.until(lambda call: call.first_frame_s is not None)
    assert call.first_frame_s is not None, call.lost
    assert call.early
    return _setup(demo.port, call.began_s, call.first_frame_s)


async def browser_call(demo: Demo, profile: Path) -> Setup:
    """Call from Chromium. It uses the machine's clock, so its times can be compared with the NAT's."""
    offset_s = time.time() - asyncio.get_running_loop().time()
    async with browser(profile) as window:
        await window.open(demo.page_url)
        await window.click("#call")
        await window.until_shown("#setup", lambda shown: shown.endswith("round trip"))
        began_s = await window.evaluate(_BEGAN) / 1000 - offset_s
        return _setup(demo.port, began_s, began_s + await window.evaluate(_FIRST) / 1000)


async def measure(scratch: Path) -> dict[str, Setup]:
    """Make one call of each kind to one agent, because only the agent that issued a ticket accepts it."""
    tickets: list[SessionTicket] = []
    async with voice_demo(scratch, names=["agent-a"], delay_s=DELAY_S) as demo:
        return {
            "aioquic, first call (1-RTT)": await first_call(demo, tickets.append),
            "aioquic, next call (0-RTT)": await next_call(demo, tickets[-1]),
            "Chromium, first call (1-RTT)": await browser_call(demo, scratch / "profile"),
        }


def _setup(port: NatPort, began_s: float, first_frame_s: float) -> Setup:
    before = [number for when_s, number in port.rounds if when_s < began_s]
    until_then = [number for when_s, number in port.rounds if when_s <= first_frame_s]
    return Setup(first_frame_s - began_s, max(until_then) - max(before, default=0))


def main() -> None:
    """Print the measurements as a table."""
    with tempfile.TemporaryDirectory() as scratch:
        found = asyncio.run(measure(Path(scratch)))
    sys.stdout.write("| caller | round trips | at 200 ms each |\n| --- | --- | --- |\n")
    for name, (seconds, round_trips) in found.items():
        sys.stdout.write(f"| {name} | {round_trips} | {seconds * 1000:.0f} ms |\n")


if __name__ == "__main__":
    main()
