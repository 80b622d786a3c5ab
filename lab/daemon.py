"""The real daemon, ``python -m qlb run``, as a process of its own with a configuration made for one test."""

import asyncio
import json
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from lab import scrape
from lab.nat import Address
from lab.ports import free_port
from lab.scrape import Metrics
from lab.server import Server
from qlb.cid import CidParams

Yaml = dict[str, Any]

START_TIMEOUT_S: Final = 90.0
STOP_TIMEOUT_S: Final = 90.0
UPGRADE_TIMEOUT_S: Final = START_TIMEOUT_S + STOP_TIMEOUT_S
_READY: Final = '"ready"'
_STOPPED: Final = '"stopped"'
_HARMLESS: Final = ("debug", "info", "warning")


def written(address: Address) -> str:
    """Return an address as the configuration writes it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def configuration(
    addresses: Sequence[Address], cid_params: Sequence[CidParams], servers: Sequence[Server], /, **sections: Any
) -> Yaml:
    """Return a configuration. sections: more of it, such as fallback={"flow_table_size": "0"}."""
    return {
        "listen": [written(address) for address in addresses],
        "cid_configs": [cid_config(params) for params in cid_params],
        "backends": [backend_config(server, cid_params) for server in servers],
        **sections,
    }


def cid_config(params: CidParams) -> Yaml:
    """Return an entry of cid_configs."""
    lengths = {"server_id_length": str(params.server_id_length), "nonce_length": str(params.nonce_length)}
    key = {"key": params.key.hex()} if params.key else {}
    return {"config_id": str(params.config_id), **lengths, **key, "cid_length": str(params.cid_length)}


def backend_config(server: Server, cid_params: Sequence[CidParams], **more: str) -> Yaml:
    """Return an entry of backends: its server ID is the same under every config."""
    entry: Yaml = {"name": server.name, "address": written(server.address), **more}
    if server.server_id is not None:
        entry["server_ids"] = {str(params.config_id): server.server_id.hex() for params in cid_params}
    return entry


class Orphan:
    """A process that is nobody's child here."""

    def __init__(self, pid: int) -> None:
        """It is alive still."""
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def kill(self) -> None:
        """Kill it, if it is there."""
        with suppress(OSError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    async def wait(self) -> None:
        """Wait until it has ended."""
        if self._descriptor < 0:
            return
        async with asyncio.timeout(STOP_TIMEOUT_S):
            while not select.select([self._descriptor], [], [], 0)[0]:
                await asyncio.sleep(scrape.POLL_S)
        os.close(self._descriptor)
        self._descriptor = -1


class Daemon:
    """One daemon: its files, its process, and its admin server. It can be killed and started again."""

    def __init__(self, folder: Path, config: Yaml, admin: Address, *, prefix: Sequence[str] = ()) -> None:
        """Use running() instead. prefix: of its command line, which puts it somewhere else."""
        self._prefix = prefix
        self.folder = folder
        self.admin = admin
        self.path = folder / "qlb.yaml"
        self.socket = folder / "qlb.sock"
        self._process: asyncio.subprocess.Process | None = None
        self._successor: Orphan | None = None
        self.write(config)

    @property
    def pid(self) -> int:
        """The supervisor's process ID."""
        if self._successor is not None:
            return self._successor.pid
        assert self._process is not None, "it was started"
        return self._process.pid

    @property
    def log(self) -> str:
        """All that it has written to stderr, over all its lives."""
        return (self.folder / "log").read_text()

    @property
    def log_records(self) -> list[dict[str, Any]]:
        """The lines of the log; a line that is no JSON counts as an error, unless it is still being written."""
        whole, _, rest = self.log.rpartition("\n")
        is_running = self._process is not None and self._process.returncode is None
        return [_record(line) for line in (*whole.splitlines(), *([rest] if rest and not is_running else []))]

    @property
    def errors(self) -> list[dict[str, Any]]:
        """What it has logged above warnings."""
        return [record for record in self.log_records if record["level"].lower() not in _HARMLESS]

    def write(self, config: Yaml) -> None:
        """Write a configuration for the next start or reload."""
        fixed = {
            "admin": {"listen": written(self.admin), "socket": self.socket.name},
            "logging": {"level": "info", "format": "json"},
        }
        self.path.touch(mode=0o600)  # it holds keys
        self.path.write_text(yaml.safe_dump({**config, **fixed}))

    async def start(
        self, environ: Mapping[str, str] | None = None, descriptors: Sequence[int] = (), prefix: Sequence[str] = ()
    ) -> None:
        """Start it; return when it is ready to forward. environ: more of it. descriptors: what it finds open."""
        with (self.folder / "log").open("ab") as log:
            before = self.logged(_READY)
            self._process = await asyncio.create_subprocess_exec(
                *(*self._prefix, *prefix, sys.executable, "-m", "qlb", "run", str(self.path)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environ or {})},
                pass_fds=descriptors,
            )
        self._successor = None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while self.logged(_READY) == before or not await self._is_ready():
                    assert self._process.returncode is None, f"it has ended:\n{self.log}"
                    await asyncio.sleep(scrape.POLL_S)
        except TimeoutError:
            raise AssertionError(f"not ready within {START_TIMEOUT_S:g} s:\n{self.log}") from None

    def terminate(self) -> None:
        """Send SIGTERM and go on."""
        os.kill(self.pid, signal.SIGTERM)

    async def stop(self) -> int:
        """Send SIGTERM; return the exit code."""
        assert self._process is not None, "it was started"
        before = self.logged(_STOPPED)
        self.terminate()
        if self._successor is None:
            return await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        await self._successor.wait()
        return self.logged(_STOPPED) - before - 1  # its code is its new parent's to know

    async def upgrade(self) -> None:
        """Have another process take over by ``qlb upgrade``; return when the one before has ended, with 0."""
        code, output = await self.cli("upgrade", "--json", "--socket", str(self.socket), timeout_s=UPGRADE_TIMEOUT_S)
        assert code == 0, output
        await self.follow(json.loads(output)["pid"])

    async def follow(self, pid: int, *, code: int = 0) -> None:
        """Take another process for the daemon from now on; wait for the end of the one before. code: its exit code."""
        ending, self._successor = self._successor, Orphan(pid)
        if ending is not None:
            await ending.wait()
            return
        assert self._process is not None, "it was started"
        assert await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S) == code

    async def kill(self) -> None:
        """Kill the supervisor at once; its workers must notice and end by themselves."""
        assert self._process is not None, "it was started"
        os.kill(self.pid, signal.SIGKILL)
        await (self._successor or self._process).wait()

    async def kill_worker(self, index: int = 0) -> None:
        """Kill one worker at once; return when another process is in its place."""
        before = await self.status()
        os.kill(before["workers"][index]["pid"], signal.SIGKILL)
        while (await self.status())["workers"][index]["pid"] == before["workers"][index]["pid"]:
            await asyncio.sleep(scrape.POLL_S)

    def hang_up(self) -> None:
        """Send SIGHUP: reload."""
        os.kill(self.pid, signal.SIGHUP)

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Run a command of the CLI against its control socket; return (exit code, all that it printed)."""
        return await self.cli(*arguments, "--socket", str(self.socket))

    async def cli(self, *arguments: str, timeout_s: float = STOP_TIMEOUT_S) -> tuple[int, str]:
        """Run a command of the CLI; return (exit code, all that it printed)."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "qlb", *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await asyncio.wait_for(process.communicate(), timeout_s)
        return process.returncode or 0, output.decode()

    async def status(self) -> dict[str, Any]:
        """Return /status."""
        _, text = await scrape.get(self.admin, "/status")
        found: dict[str, Any] = json.loads(text)
        return found

    async def metrics(self) -> Metrics:
        """Scrape /metrics as it is now."""
        return await scrape.metrics(self.admin)

    async def until(self, holds: Callable[[Metrics], bool]) -> None:
        """Wait until this holds of a scrape."""
        while not holds(await self.metrics()):
            await asyncio.sleep(scrape.POLL_S)

    async def until_applied(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until this holds of /status and every worker goes by it; return it."""
        while True:
            status = await self.status()
            if holds(status) and all(worker["up_to_date"] for worker in status["workers"]):
                return status
            await asyncio.sleep(scrape.POLL_S)

    async def until_ready(self) -> None:
        """Wait until /readyz says that this node should be sent traffic."""
        while not await self._is_ready():
            await asyncio.sleep(scrape.POLL_S)

    async def settled(self) -> Metrics:
        """Scrape /metrics once traffic has stopped, and check its sums."""
        found = await scrape.settled(self.admin)
        found.check_sums()
        return found

    def logged(self, text: str) -> int:
        """Return how many lines of the log hold a text."""
        return sum(text in line for line in self.log.splitlines())

    async def until_logged(self, text: str, *, times: int) -> None:
        """Wait until so many lines of the log hold a text; no error without it may be logged meanwhile."""
        earlier = len(self.errors)
        while self.logged(text) < times:
            assert [error for error in self.errors[earlier:] if text not in str(error)] == [], self.log
            await asyncio.sleep(scrape.POLL_S)

    async def end(self) -> None:
        """Make sure that it is gone, whatever a test has done to it."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._successor is not None:
            self._successor.kill()
            await self._successor.wait()

    async def _is_ready(self) -> bool:
        try:
            status, _ = await scrape.get(self.admin, "/readyz")
        except (aiohttp.ClientError, OSError):
            return False
        return status == 200


@asynccontextmanager
async def running(
    folder: Path,
    config: Yaml,
    *,
    may_log_errors: bool = False,
    admin: Address | None = None,
    prefix: Sequence[str] = (),
) -> AsyncIterator[Daemon]:
    """Run a daemon. After the block it is stopped: it must exit with 0 and have logged no error."""
    folder.mkdir(parents=True)
    daemon = Daemon(folder, config, admin or ("127.0.0.1", free_port()), prefix=prefix)
    try:
        await daemon.start()
        yield daemon
        assert await daemon.stop() == 0, daemon.log
        assert may_log_errors or daemon.errors == [], daemon.log
    finally:
        await daemon.end()


def _record(line: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"level": "not JSON", "line": line}
    return record
