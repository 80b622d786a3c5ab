"""Voice calls through NAT and balancer while addresses change: no audio frame of a reliable stream goes missing."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Final

import aiohttp
import pytest
import yaml
from aioquic.tls import SessionTicket

from tests.e2e.browser import DESKTOP, Browser, browser
from tests.e2e.nat import NatPort
from tests.e2e.ports import until_free
from tests.e2e.stage import LIMIT_S, NAMES
from tests.e2e.voice_client import VoiceCall, calling
from tests.e2e.voice_setup import DELAY_S, first_call, next_call
from tests.e2e.voice_stage import status, voice_config, voice_demo

pytestmark = pytest.mark.e2e

CALLS: Final = 5
PROMPTS: Final = 2
PROMPT_FRAMES: Final = 60
PERIOD_S: Final = 0.3
BROWSER_CHANGES: Final = 6
FAKE_MICROPHONE: Final = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
ALL_THERE: Final = """call.framesSent > 0 && !call.inPrompt && call.heardByAgent.received === call.framesSent
    && call.heard.received === call.heardByAgent.sent && call.heard.missing === 0 && call.heardByAgent.missing === 0"""


@asynccontextmanager
async def rebinding(port: NatPort, period_s: float) -> AsyncIterator[None]:
    """Change the address of all clients of a port every so often, until the end of the block."""
    task = asyncio.create_task(port.rebind_every(period_s))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def converse(port: NatPort) -> VoiceCall:
    """Make one call: a greeting, some prompts, an answer to each."""
    async with calling(port.address) as call:
        for number in range(PROMPTS):
            await call.prompt(PROMPT_FRAMES)
            await call.answered(number + 2)
    return call


async def test_headless_calls_lose_no_frame(tmp_path: Path) -> None:
    """Several calls at once, each address changed several times: all frames there both ways, on one agent each."""
    async with asyncio.timeout(LIMIT_S), voice_demo(tmp_path) as demo:
        async with rebinding(demo.port, PERIOD_S):
            calls = await asyncio.gather(*(converse(demo.port) for _ in range(CALLS)))
        assert [call.lost for call in calls if call.lost] == []
        assert {call.sent for call in calls} == {PROMPTS * PROMPT_FRAMES}
        assert [(call.heard.missing, call.by_agent["missing"]) for call in calls] == [(0, 0)] * CALLS
        assert [call.by_agent["agent"] for call in calls] == [call.agent for call in calls]
        assert min(call.heard.received for call in calls) > PROMPTS * PROMPT_FRAMES, "prompts came back, and a name"
        assert demo.port.changes >= CALLS * 5
        assert (await status(demo))["outcomes"]["cid_config_1"] > CALLS * PROMPT_FRAMES


async def test_nat_is_another_address_each_time(tmp_path: Path) -> None:
    """Source addresses differ from one to the next, and no pair of address and port comes twice."""
    async with asyncio.timeout(LIMIT_S), voice_demo(tmp_path) as demo, rebinding(demo.port, PERIOD_S):
        async with calling(demo.port.address) as call:
            await call.prompt(PROMPT_FRAMES)
            await call.answered(2)
        hosts = [host for host, _ in demo.port.outsides]
        assert len(demo.port.outsides) >= 4
        assert all(before != after for before, after in pairwise(hosts[1:]))
        assert len(set(demo.port.outsides)) == len(demo.port.outsides)


async def test_round_trips_until_the_first_frame(tmp_path: Path) -> None:
    """Counted on the wire: two on a new connection; one with 0-RTT, where the request is in the first packet."""
    tickets: list[SessionTicket] = []
    async with asyncio.timeout(LIMIT_S), voice_demo(tmp_path, names=["agent-a"], delay_s=DELAY_S) as demo:
        assert (await first_call(demo, tickets.append)).round_trips == 2
        assert (await next_call(demo, tickets[-1])).round_trips == 1


async def test_chromium_loses_no_frame(tmp_path: Path) -> None:
    """A real browser speaks and listens while its address changes each second."""
    async with asyncio.timeout(LIMIT_S), voice_demo(tmp_path) as demo, browser(tmp_path / "profile") as window:
        await window.open(demo.page_url)
        await call_from(window)
        agent = await window.until_shown("#agent", lambda shown: shown.startswith("agent-"))
        await window.click("#each-second")
        await window.until_shown("#changes", lambda shown: int(shown) >= BROWSER_CHANGES)
        await window.click("#each-second")
        await hang_up_after_all_frames(window)
        assert await window.text("#agent") == agent
        assert demo.port.changes >= BROWSER_CHANGES
        assert int(await window.text("#up-received")) > 100
        assert int(await window.text("#down-received")) > 100
        assert await window.console() == []
        found = await status(demo)
        packets = {backend["name"]: backend["forwarded_packets"] for backend in found["backends"]}
        assert packets == {name: packets[agent] if name == agent else 0 for name in packets}


async def test_chromium_takes_the_microphone(tmp_path: Path) -> None:
    """What a microphone hears, here the browser's own beeps, reaches the agent and comes back."""
    async with (
        asyncio.timeout(LIMIT_S),
        voice_demo(tmp_path) as demo,
        browser(tmp_path / "profile", *FAKE_MICROPHONE) as window,
    ):
        await window.open(demo.page_url)
        await window.click("#voice option[value=microphone]")
        await call_from(window)
        await window.until_shown("#up-received", lambda shown: shown.isdigit() and int(shown) > 20)
        await window.click("#change")
        await hang_up_after_all_frames(window)
        assert await window.console() == []


async def call_from(window: Browser) -> None:
    """Call from the page."""
    await window.emulate(DESKTOP)
    await window.click("#call")
    await window.until_shown("#state", lambda shown: shown == "connected")


async def hang_up_after_all_frames(window: Browser) -> None:
    """Wait until each side has all that the other one has sent; hang up."""
    while not await window.evaluate(ALL_THERE):
        assert await window.evaluate("call.lost") is None
        await asyncio.sleep(0.05)
    await window.click("#call")
    await window.until_shown("#state", lambda shown: shown == "hung up")
    assert await window.text("#up-missing, #down-missing") == "0\n0"


async def test_one_command_starts_and_ends_it(tmp_path: Path) -> None:
    """It says where the page is, serves it, and ends with 0 on Ctrl-C, its processes with it."""
    path, config = tmp_path / "voice.yaml", voice_config(NAMES)
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    command = (sys.executable, "-m", "examples.voice_agent", "--config", str(path), "--page-port", "0")
    async with asyncio.timeout(LIMIT_S):
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        page = (await process.stdout.readline()).decode().rpartition(" ")[2].strip()
        async with aiohttp.ClientSession() as session, session.get(page) as answer:
            assert "Voice agent" in await answer.text()
        process.send_signal(signal.SIGINT)
        said, _ = await process.communicate()
        assert process.returncode == 0
        assert b"Press Ctrl-C to end the demo." in said
        for address in (config["listen"][0], *(backend["address"] for backend in config["backends"])):
            await until_free("127.0.0.1", int(address.rpartition(":")[2]))
