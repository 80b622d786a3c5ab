"""qlb status, and qlb top in a pseudo-terminal, as an operator sees them."""

import asyncio
import os
import pty
import sys
import termios
from pathlib import Path
from typing import Final

import pytest

from lab import datagrams
from lab.daemon import STOP_TIMEOUT_S, Daemon, configuration, running
from lab.echoes import echoes
from lab.ports import free_port
from lab.server import Server
from lab.stage import NAMES, PARAMS

pytestmark = pytest.mark.e2e

_CHUNK_BYTES: Final = 65536


class Terminal:
    """``qlb top`` in a pseudo-terminal."""

    def __init__(self, daemon: Daemon) -> None:
        """daemon: whose status it shows."""
        self._daemon = daemon
        self._master, self._slave = pty.openpty()
        termios.tcsetwinsize(self._slave, (24, 80))
        self.settings = termios.tcgetattr(self._slave)
        self.shown = b""

    async def start(self) -> None:
        """Start ``qlb top``."""
        os.set_blocking(self._master, False)
        asyncio.get_running_loop().add_reader(self._master, self._read)
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "qlb", "top", "--interval", "0.1", "--socket", str(self._daemon.socket)),
            preexec_fn=lambda: os.login_tty(self._slave),  # its own terminal, so that Ctrl-C becomes a signal
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
        )

    async def until_shown(self, text: bytes) -> None:
        """Wait until it shows a text. Text before the last wait does not count."""
        async with asyncio.timeout(STOP_TIMEOUT_S):
            while text not in self.shown:
                await asyncio.sleep(0.02)
        self.shown = b""

    async def press(self, key: bytes) -> int:
        """Press a key that ends it. Return the exit code."""
        os.write(self._master, key)
        return await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)

    def is_as_before(self) -> bool:
        """Return whether the terminal has the same settings as at the start."""
        return termios.tcgetattr(self._slave) == self.settings

    async def end(self) -> None:
        """Make sure that the process is gone, and close the terminal."""
        asyncio.get_running_loop().remove_reader(self._master)
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        os.close(self._master)
        os.close(self._slave)

    def _read(self) -> None:
        self.shown += os.read(self._master, _CHUNK_BYTES)


async def test_the_status_as_tables(tmp_path: Path) -> None:
    """Each backend has a line with its packets: sorted by name in status, and by traffic in top."""
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
async def test_top_runs_until_a_key_ends_it(key: bytes, tmp_path: Path) -> None:
    """The command follows changes, waits while the daemon is gone, and restores the terminal at its end."""
    async with echoes(tmp_path, "127.0.0.1") as on:
        terminal = Terminal(on.daemon)
        try:
            await terminal.start()
            await terminal.until_shown(b"LAST PACKET")
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


async def test_why_a_backend_is_down(tmp_path: Path) -> None:
    """The words of the last probe are below a backend that does not answer, and the first notice is critical."""
    servers = [Server(name, number.to_bytes(4), ("127.0.0.1", free_port())) for number, name in enumerate(NAMES)]
    health = {"probe": "quic", "interval": "1s", "timeout": "500ms", "fall": 1, "all_failing": "obey"}
    config = configuration([("127.0.0.1", free_port())], [PARAMS], servers, health={"probe": "none"})
    async with running(tmp_path / "daemon", config) as daemon:
        await daemon.reload_by_signal({**config, "health": health})
        await daemon.until_applied(lambda found: not any(row["healthy"] for row in found["backends"]))
        code, text = await daemon.command("status")
        assert code == 0
        lines = text.splitlines()
        assert lines[1].startswith("critical: no healthy backend: all 3 backends are down")
        below = [lines[at + 1] for at, line in enumerate(lines) if line.startswith("agent-")]
        assert len(below) == 3
        assert all("ECONNREFUSED" in line for line in below)
