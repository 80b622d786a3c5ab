"""MoQ through NAT and balancer while addresses change: no object is lost, and each call stays on one backend."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
import yaml

from examples.moq.__main__ import AGENT
from examples.moq.caller import Call, calling
from examples.voice_agent.demo import Service, serving
from examples.voice_agent.frames import SAMPLES_BYTES
from examples.voice_agent.speech import say_name
from lab.nat import Nat, NatPort
from lab.stage import LIMIT_S, NAMES
from lab.voice.stage import status, voice_config

pytestmark = pytest.mark.e2e

CALLS: Final = 3
PROMPTS: Final = 3
PROMPT_FRAMES: Final = 60
PERIOD_S: Final = 0.3
CHANGES: Final = 10


def written(folder: Path) -> Path:
    """Write a configuration of the balancer with three agents. Return its path."""
    path = folder / "moq.yaml"
    path.touch(mode=0o600)  # the file contains a key
    path.write_text(yaml.safe_dump(voice_config(NAMES)))
    return path


def prompt(call: int, number: int) -> list[bytes]:
    """Return a unique prompt in which every frame is unique too."""
    return [bytes([call, number, frame]).ljust(SAMPLES_BYTES, b"\x55") for frame in range(PROMPT_FRAMES)]


async def converse(service: Service, port: NatPort, prompts: Sequence[list[bytes]]) -> Call:
    """Make one call from an address that changes: a greeting, some prompts, and an answer to each."""
    async with calling("moqt://{}:{}".format(*port.address), service.certificate.sha256) as call:
        rebinding = asyncio.create_task(port.rebind_every(PERIOD_S))
        try:
            await call.answered(1)
            for number, samples in enumerate(prompts):
                await call.prompt(samples)
                await call.answered(number + 2)
            assert call.connections == 1
        finally:
            rebinding.cancel()
            with suppress(asyncio.CancelledError):
                await rebinding
    return call


async def test_no_object_is_missing_and_the_agent_stays(tmp_path: Path) -> None:
    """Both tracks of each call are complete, in order and from one agent, although each caller's address changes."""
    prompts = [[prompt(call, number) for number in range(PROMPTS)] for call in range(CALLS)]
    async with asyncio.timeout(LIMIT_S), serving(written(tmp_path), AGENT) as service:
        with Nat() as nat:
            ports = [nat.port(service.address) for _ in prompts]
            calls = await asyncio.gather(*map(converse, [service] * CALLS, ports, prompts))
        for call, spoken in zip(calls, prompts, strict=True):
            jingle = say_name(call.agent)
            assert call.answers == [jingle, *([*samples, *jingle] for samples in spoken)]
            assert (call.sent, call.heard.missing) == (PROMPTS * PROMPT_FRAMES, 0)
        assert min(port.changes for port in ports) >= CHANGES
        found = await status(service)
        serving_packets = {backend["name"] for backend in found["backends"] if backend["forwarded_packets"]}
        assert serving_packets == {call.agent for call in calls}
        assert found["outcomes"]["cid_config_1"] > CALLS * PROMPTS * PROMPT_FRAMES


async def test_one_command_calls_and_ends(tmp_path: Path) -> None:
    """The command prints who answered and that no object is missing, and exits with 0."""
    command = (sys.executable, "-m", "examples.moq", "--config", str(written(tmp_path)), "--prompts", "2")
    async with asyncio.timeout(LIMIT_S):
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
    assert process.returncode == 0, said
    assert said.count(b"all returned; 0 frames of the track missing") == 2
    assert b"connections: 1" in said
