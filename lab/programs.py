"""Programs that a user would start in a shell: qlb itself, servers, and blocks of commands."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

LIMIT_S: Final = 300.0
ENVIRONMENT: Final = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
"""The shell finds the qlb that is installed beside this Python."""


@asynccontextmanager
async def started(*command: object, folder: Path, **environ: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a program in a session of its own until the end of the block; then end the whole session.

    environ: additional variables.
    """
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        cwd=folder,
        env={**ENVIRONMENT, **environ},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.communicate()


async def run(*command: object, folder: Path, **environ: str) -> tuple[int, str, str]:
    """Run a program to its end. Return (exit code, stdout, stderr)."""
    async with asyncio.timeout(LIMIT_S), started(*command, folder=folder, **environ) as process:
        out, err = await process.communicate()
        return process.returncode or 0, out.decode(), err.decode()


async def until(stream: asyncio.StreamReader | None, text: str) -> None:
    """Read lines until one contains a text."""
    assert stream is not None, "the process was started with pipes"
    async with asyncio.timeout(LIMIT_S):
        while text not in (line := (await stream.readline()).decode()):
            assert line, f"the process has ended without {text!r}"
