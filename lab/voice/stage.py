"""The voice demo for tests: the same processes as for a new user, on free ports."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from examples.voice_agent.demo import Demo, Service, running
from lab.daemon import configuration
from lab.ports import free_port
from lab.server import Server, server_id_of
from lab.stage import NAMES, PARAMS


@asynccontextmanager
async def voice_demo(folder: Path, *, names: Sequence[str] = NAMES, delay_s: float = 0.0) -> AsyncIterator[Demo]:
    """Run the demo. delay_s: of the network, one way."""
    path = folder / "voice.yaml"
    path.touch(mode=0o600)  # the file contains a key
    path.write_text(yaml.safe_dump(voice_config(names)))
    async with running(path, page_port=0, delay_s=delay_s) as demo:
        yield demo


def voice_config(names: Sequence[str]) -> dict[str, Any]:
    """Return a configuration of the balancer with agents of these names."""
    servers = [Server(name, server_id_of(name, PARAMS), ("127.0.0.1", free_port())) for name in names]
    config = configuration([("127.0.0.1", free_port())], [PARAMS], servers)
    return config | {"admin": {"listen": f"127.0.0.1:{free_port()}"}}


async def status(demo: Demo | Service) -> dict[str, Any]:
    """Return the balancer's /status."""
    async with aiohttp.ClientSession() as session, session.get(f"{demo.admin_url}status") as answer:
        found: dict[str, Any] = await answer.json()
        return found
