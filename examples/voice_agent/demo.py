"""All processes of the demo on this machine: agents, balancer, a NAT in front of it, and the page's server."""

import asyncio
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

from examples.voice_agent.agent import PATH
from examples.voice_agent.network import Network
from examples.voice_agent.web import serving_page
from lab.nat import Address, Nat, NatPort
from qlb.config.load import load
from qlb.demo.http3 import Certificate, make_certificate
from qlb.errors import BackendError

START_TIMEOUT_S: Final = 30.0
_STOP_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.05
_AGENT: Final = "examples.voice_agent.agent"


@dataclass(frozen=True)
class Service:
    """Agents behind a balancer. address, admin_url: of the balancer. certificate: of all agents."""

    address: Address
    admin_url: str
    certificate: Certificate
    daemon: asyncio.subprocess.Process
    agents: dict[str, asyncio.subprocess.Process]


@dataclass(frozen=True)
class Demo:
    """A running demo.

    page_url: for the browser. admin_url: the balancer's status page. port: of the NAT, towards the balancer.
    daemon, agents: the processes.
    """

    page_url: str
    admin_url: str
    port: NatPort
    daemon: asyncio.subprocess.Process
    agents: dict[str, asyncio.subprocess.Process]


@asynccontextmanager
async def running(config: Path, *, page_port: int, delay_s: float) -> AsyncIterator[Demo]:
    """Run the demo until the end of the block. config: of the balancer. delay_s: of the network, one way.

    Raises ConfigError; BackendError if a process does not start; OSError if the page's port is in use.
    """
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(serving(config))
        port = stack.enter_context(Nat()).port(service.address, delay_s=delay_s)
        call_url = "https://{}:{}{}".format(*port.address, PATH)
        network = Network(port)
        stack.callback(network.keep_changing, False)
        sha256 = service.certificate.sha256
        page = serving_page("127.0.0.1", page_port, call_url=call_url, sha256=sha256, network=network)
        page_url = await stack.enter_async_context(page)
        yield Demo(page_url, service.admin_url, port, service.daemon, service.agents)


@asynccontextmanager
async def serving(config: Path, agent: str = _AGENT) -> AsyncIterator[Service]:
    """Run an agent for each backend, and the balancer. config: of the balancer. agent: module that runs an agent.

    Raises ConfigError; BackendError if a process does not start.
    """
    loaded = load(config).config
    certificate = make_certificate()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qlb-voice-")))
        certificate.write(folder)
        agents = {
            backend.name: await stack.enter_async_context(_process(agent, str(config), backend.name, str(folder)))
            for backend in loaded.backends
        }
        for name, process in agents.items():
            await _agent_ready(name, process)
        daemon = await stack.enter_async_context(_process("qlb", "run", str(config)))
        admin, listen = loaded.admin.listen, loaded.listen[0]
        assert admin is not None, "the demo needs admin.listen to ask whether the balancer is ready"
        admin_url = f"http://{admin}/"
        await _balancer_ready(daemon, f"{admin_url}readyz")
        yield Service((listen.host, listen.port), admin_url, certificate, daemon, agents)


@asynccontextmanager
async def _process(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a Python module until the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C must reach only this process, which then ends the others
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.communicate(), _STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _agent_ready(name: str, process: asyncio.subprocess.Process) -> None:
    assert process.stdout is not None, "it was started with a pipe"
    if not await asyncio.wait_for(process.stdout.readline(), START_TIMEOUT_S):
        raise BackendError(f"{name} did not start; see its output above")


async def _balancer_ready(process: asyncio.subprocess.Process, url: str) -> None:
    async with asyncio.timeout(START_TIMEOUT_S), aiohttp.ClientSession() as session:
        while process.returncode is None:
            with suppress(aiohttp.ClientError):
                async with session.get(url) as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(_POLL_S)
    raise BackendError("the balancer did not start; see its output above")
