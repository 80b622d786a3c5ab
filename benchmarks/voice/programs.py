"""Programs of a run. Each has its own process group, so that all its processes end with it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from lab import ports
from qlb.errors import BackendError

START_S: Final = 20.0
STOP_S: Final = 10.0
_POLL_S: Final = 0.02


class Program:
    """A program that can be killed and started again. Its output goes to a file."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        """Set the command. log: file for stdout and stderr."""
        self._command = command
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        """The process ID of the program, once it has been started."""
        assert self._process is not None, "it was started"
        return self._process.pid

    async def start(self, *, udp_port: int = 0, tcp_port: int = 0) -> None:
        """Start the program; return when it has bound its port. Raises BackendError."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(START_S):
                while not await _is_there(udp_port, tcp_port):
                    if self._process.returncode is not None:
                        raise BackendError(f"{self._command[0]} ended: {self._said()}")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise BackendError(f"{self._command[0]} did not start within {START_S:g} s: {self._said()}") from None

    async def until_said(self, text: str) -> None:
        """Wait until the output contains this text."""
        while text not in self._log.read_text(errors="replace"):
            await asyncio.sleep(_POLL_S)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program's first process."""
        os.kill(self.pid, number)

    async def kill(self) -> None:
        """Kill the program and all processes that it has started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            await self._process.wait()

    async def stop(self) -> None:
        """Terminate the program; kill it if it does not end within STOP_S."""
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), STOP_S)
        await self.kill()

    def _said(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-5:]) or "no output"


@asynccontextmanager
async def agent_running(config: Path, name: str, folder: Path) -> AsyncIterator[int]:
    """Run one agent until the end of the block; yield its process ID. folder: contains its certificate."""
    async with child("examples.voice_agent.agent", str(config), name, str(folder)) as process:
        yield process.pid


@asynccontextmanager
async def child(module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a module that prints ``ready`` and ends at the end of its stdin. Raises BackendError."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if await asyncio.wait_for(process.stdout.readline(), START_S) != b"ready\n":
            raise BackendError(f"{module} did not start; see its output above")
        yield process
    finally:
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _is_there(udp_port: int, tcp_port: int) -> bool:
    if tcp_port:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", tcp_port)
        except OSError:
            return False
        writer.close()
        await writer.wait_closed()
        return True
    return ports.is_bound("127.0.0.1", udp_port)
