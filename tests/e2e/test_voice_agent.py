"""Voice calls through NAT and balancer while addresses change: no audio frame on a reliable stream is lost."""

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

from lab.browser import DESKTOP, Browser, browser
from lab.nat import NatPort
from lab.ports import until_free
from lab.stage import LIMIT_S, NAMES
from lab.voice.client import VoiceCall, calling
from lab.voice.setup import DELAY_S, first_call, next_call
from lab.voice.stage import status, voice_config, voice_demo

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
    """Change the address of all clients of a port periodically until the end of the block."""
    task = asyncio.create_task(port.rebind_every(period_s))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def converse(port: NatPort) -> VoiceCall:
    """Make one call: a greeting, some prompts, and an answer to each."""
    async with calling(port.address) as call:
        for number in range(PROMPTS):
            await call.prompt(PROMPT_FRAMES)
            await call.answered(number + 2)
    return call


async def test_headless_calls_lose_no_frame(tmp_path: Path) -> None:
    """Several calls whose addresses change several times get all frames in both directions, each from one agent."""
    async with asyncio.timeout(LIMIT_S), voice_demo(tmp_path) as demo:
        async with rebinding(demo.port, PERIOD_S):
            calls = await asyncio.gather(*(converse(demo.port) for _ in range(CALLS)))
        assert [call.lost for call in calls if call.lost] == []
        assert {call.sent for call in calls} == {PROMPTS * PROMPT_FRAMES}
        assert [(call.heard.missing, call.by_agent["missing"]) for call in calls] == [(0, 0)] * CALLS
        assert [call.by_agent["agent"] for call in calls] == [call.agent for call in calls]
        assert min(call.heard.received for call in calls) > PROMPTS * PROMPT_FRAMES, "the answers lack the agent's name"
        assert demo.port.changes >= CALLS * 5
        assert (await status(demo))["outcomes"]["cid_config_1"] > CALLS * PROMPT_FRAMES


async def test_each_rebind_uses_another_address(tmp_path: Path) -> None:
    """Consecutive source addresses differ, and no pair of address and port occurs twice."""
    async with asyncio.timeout(LIMIT_S), voice_demo(tmp_path) as demo, rebinding(demo.port, PERIOD_S):
        async with calling(demo.port.address) as call:
            await call.prompt(PROMPT_FRAMES)
            await call.answered(2)
        hosts = [host for host, _ in demo.port.outsides]
        assert len(demo.port.outsides) >= 4
        assert all(before != after for before, after in pairwise(hosts[1:]))
        assert len(set(demo.port.outsides)) == len(demo.port.outsides)


async def test_round_trips_until_the_first_frame(tmp_path: Path) -> None:
    """On the wire, a new connection needs two round trips. With 0-RTT the request is in the first packet: one."""
    tickets: list[SessionTicket] = []
    async with asyncio.timeout(LIMIT_S), voice_demo(tmp_path, names=["agent-a"], delay_s=DELAY_S) as demo:
        assert (await first_call(demo, tickets.append)).round_trips == 2
        assert (await next_call(demo, tickets[-1])).round_trips == 1


async def test_chromium_loses_no_frame(tmp_path: Path) -> None:
    """A real browser sends and receives audio while its address changes every second."""
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


async def test_chromium_uses_the_microphone(tmp_path: Path) -> None:
    """Audio from the microphone, here the browser's own beeps, reaches the agent and is sent back."""
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
    """Start a call from the page."""
    await window.emulate(DESKTOP)
    await window.click("#call")
    await window.until_shown("#state", lambda shown: shown == "connected")


async def hang_up_after_all_frames(window: Browser) -> None:
    """Wait until each side has all frames of the other one, then hang up."""
    while not await window.evaluate(ALL_THERE):
        assert await window.evaluate("call.lost") is None
        await asyncio.sleep(0.05)
    await window.click("#call")
    await window.until_shown("#state", lambda shown: shown == "hung up")
    assert await window.text("#up-missing, #down-missing") == "0\n0"


async def test_one_command_starts_and_ends_it(tmp_path: Path) -> None:
    """The command prints the page's address, serves it, and ends with 0 and without processes on Ctrl-C."""
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
        output, _ = await process.communicate()
        assert process.returncode == 0
        assert b"Press Ctrl-C to end the demo." in output
        for address in (config["listen"][0], *(backend["address"] for backend in config["backends"])):
            await until_free("127.0.0.1", int(address.rpartition(":")[2]))
