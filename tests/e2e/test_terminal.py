"""What an operator reads in the terminal: qlb status, and qlb top in a terminal that is real to it."""

import asyncio
import os
import pty
import sys
import termios
from pathlib import Path
from typing import Final

import pytest

from lab import datagrams
from lab.daemon import STOP_TIMEOUT_S, Daemon
from lab.echoes import echoes

pytestmark = pytest.mark.e2e

_CHUNK_BYTES: Final = 65536


class Terminal:
    """``qlb top`` in a pseudo-terminal."""

    def __init__(self, daemon: Daemon) -> None:
        """daemon: whose status it shows."""
        self._daemon = daemon
        self._master, self._slave = pty.openpty()
        termios.tcsetwinsize(self._slave, (50, 160))
        self.settings = termios.tcgetattr(self._slave)
        self.shown = b""

    async def start(self) -> None:
        """Start it."""
        os.set_blocking(self._master, False)
        asyncio.get_running_loop().add_reader(self._master, self._read)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "qlb", "top", "--interval", "0.1", "--socket", str(self._daemon.socket)),
            preexec_fn=lambda: os.login_tty(self._slave),  # its own, so that Ctrl-C is a signal
            env={**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "50"},
        )

    async def until_shown(self, text: bytes) -> None:
        """Wait until it has shown a text after what was waited for last."""
        async with asyncio.timeout(STOP_TIMEOUT_S):
            while text not in self.shown:
                await asyncio.sleep(0.02)
        self.shown = b""

    async def press(self, key: bytes) -> int:
        """Press a key that ends it; return the exit code."""
        os.write(self._master, key)
        return await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)

    def is_as_before(self) -> bool:
        """Whether the terminal's settings are those that it began with."""
        return termios.tcgetattr(self._slave) == self.settings

    async def end(self) -> None:
        """Make sure that it is gone."""
        asyncio.get_running_loop().remove_reader(self._master)
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        os.close(self._master)
        os.close(self._slave)

    def _read(self) -> None:
        self.shown += os.read(self._master, _CHUNK_BYTES)


async def test_the_status_as_tables(tmp_path: Path) -> None:
    """Each backend has its line, by name in status and the busiest first in top; packets are those that were sent."""
    async with echoes(tmp_path, "127.0.0.1") as on:
        for _ in range(3):
            await on.ask(datagrams.short(on.id_of(on.servers[2]), b"?"))
        await on.daemon.settled()
        await on.daemon.until(lambda found: found.forwarded == 3)
        for command in (("status",), ("top", "--once")):
            code, text = await on.daemon.command(*command)
            assert code == 0
            rows = [line.split() for line in text.splitlines() if line.startswith("agent-")]
            assert {row[0]: row[5] for row in rows} == {"agent-a": "0", "agent-b": "0", "agent-c": "3"}
            assert "cid_config_1" in text
            assert all(line == line.rstrip() and "\x1b" not in line for line in text.splitlines())


@pytest.mark.parametrize("key", [b"q", b"\x03"])
async def test_top_goes_on_until_it_is_told(key: bytes, tmp_path: Path) -> None:
    """It follows what happens, waits for a daemon that is gone, and leaves the terminal as it was."""
    async with echoes(tmp_path, "127.0.0.1") as on:
        terminal = Terminal(on.daemon)
        try:
            await terminal.start()
            await terminal.until_shown(b"agent-c")
            assert (await on.daemon.command("drain", "agent-b"))[0] == 0
            await terminal.until_shown(b"draining")
            await on.daemon.stop()
            await terminal.until_shown(b"no answer since")
            await on.daemon.start()
            await terminal.until_shown(b"agent-a")
            assert await terminal.press(key) == 0
            assert terminal.is_as_before()
        finally:
            await terminal.end()
