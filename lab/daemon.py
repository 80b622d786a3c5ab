"""The real daemon, ``python -m qlb run``, as a separate process with a configuration for one test."""

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
    """Return an address in the notation of the configuration."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def configuration(
    addresses: Sequence[Address], cid_params: Sequence[CidParams], servers: Sequence[Server], /, **sections: Any
) -> Yaml:
    """Return a configuration. sections: further sections, such as fallback={"flow_table_size": "0"}."""
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
    """Return an entry of backends. Its server ID is the same under every CID config."""
    entry: Yaml = {"name": server.name, "address": written(server.address), **more}
    if server.server_id is not None:
        entry["server_ids"] = {str(params.config_id): server.server_id.hex() for params in cid_params}
    return entry


class Orphan:
    """A process that is not a child of this process."""

    def __init__(self, pid: int) -> None:
        """pid: of a process that is still alive."""
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def kill(self) -> None:
        """Kill the process, if it still exists."""
        with suppress(OSError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    async def wait(self) -> None:
        """Wait until the process has ended."""
        if self._descriptor < 0:
            return
        async with asyncio.timeout(STOP_TIMEOUT_S):
            while not select.select([self._descriptor], [], [], 0)[0]:
                await asyncio.sleep(scrape.POLL_S)
        os.close(self._descriptor)
        self._descriptor = -1


class Daemon:
    """One daemon: its files, its process and its admin server. A test can kill it and start it again."""

    def __init__(self, folder: Path, config: Yaml, admin: Address, *, prefix: Sequence[str] = ()) -> None:
        """Use running() instead. prefix: of the command line, for example to run it on another host."""
        self._prefix = prefix
        self.folder = folder
        self.admin = admin
        self.path = folder / "qlb.yaml"
        self.socket = folder / "qlb.sock"
        self._process: asyncio.subprocess.Process | None = None
        self._new_process: Orphan | None = None
        self.write(config)

    @property
    def pid(self) -> int:
        """Return the supervisor's process ID."""
        if self._new_process is not None:
            return self._new_process.pid
        assert self._process is not None, "the daemon was not started"
        return self._process.pid

    @property
    def log(self) -> str:
        """Return its whole output to stderr, from all its processes."""
        return (self.folder / "log").read_text()

    @property
    def log_records(self) -> list[dict[str, Any]]:
        """Return the records of the log. A complete line that is not JSON counts as an error."""
        whole, _, rest = self.log.rpartition("\n")
        is_running = self._process is not None and self._process.returncode is None
        return [_record(line) for line in (*whole.splitlines(), *([rest] if rest and not is_running else []))]

    @property
    def errors(self) -> list[dict[str, Any]]:
        """Return the log records above the level of warnings."""
        return [record for record in self.log_records if record["level"].lower() not in _HARMLESS]

    def write(self, config: Yaml) -> None:
        """Write a configuration for the next start or reload."""
        fixed = {
            "admin": {"listen": written(self.admin), "socket": self.socket.name},
            "logging": {"level": "info", "format": "json"},
        }
        self.path.touch(mode=0o600)  # the file contains keys
        self.path.write_text(yaml.safe_dump({**config, **fixed}))

    async def start(
        self, environ: Mapping[str, str] | None = None, descriptors: Sequence[int] = (), prefix: Sequence[str] = ()
    ) -> None:
        """Start it. Return when it is ready to forward. environ: additional variables. descriptors: inherited ones."""
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
        self._new_process = None
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while self.logged(_READY) == before or not await self._is_ready():
                    assert self._process.returncode is None, f"the daemon has ended:\n{self.log}"
                    await asyncio.sleep(scrape.POLL_S)
        except TimeoutError:
            raise AssertionError(f"the daemon is not ready within {START_TIMEOUT_S:g} s:\n{self.log}") from None

    def terminate(self) -> None:
        """Send SIGTERM and return at once."""
        os.kill(self.pid, signal.SIGTERM)

    async def stop(self) -> int:
        """Send SIGTERM, wait for the end, and return the exit code."""
        assert self._process is not None, "the daemon was not started"
        before = self.logged(_STOPPED)
        self.terminate()
        if self._new_process is None:
            return await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S)
        await self._new_process.wait()
        return self.logged(_STOPPED) - before - 1  # only its new parent process can read the exit code

    async def upgrade(self) -> None:
        """Run ``qlb upgrade``. Return when the old process has ended with 0."""
        code, output = await self.cli("upgrade", "--json", "--socket", str(self.socket), timeout_s=UPGRADE_TIMEOUT_S)
        assert code == 0, output
        await self.follow(json.loads(output)["pid"])

    async def follow(self, pid: int, *, code: int = 0) -> None:
        """Treat another process as the daemon, and wait for the end of the old one. code: the old one's exit code."""
        ending, self._new_process = self._new_process, Orphan(pid)
        if ending is not None:
            await ending.wait()
            return
        assert self._process is not None, "the daemon was not started"
        assert await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT_S) == code

    async def kill(self) -> None:
        """Kill the supervisor at once. Its workers must detect that and end by themselves."""
        assert self._process is not None, "the daemon was not started"
        os.kill(self.pid, signal.SIGKILL)
        await (self._new_process or self._process).wait()

    async def kill_worker(self, index: int = 0) -> None:
        """Kill one worker at once. Return when another process has its slot."""
        before = await self.status()
        os.kill(before["workers"][index]["pid"], signal.SIGKILL)
        while (await self.status())["workers"][index]["pid"] == before["workers"][index]["pid"]:
            await asyncio.sleep(scrape.POLL_S)

    async def reload_by_signal(self, config: Yaml) -> None:
        """Write a configuration and reload it by SIGHUP."""
        self.write(config)
        reloads = self.logged("reloaded")
        self.hang_up()
        await self.until_logged("reloaded", times=reloads + 1)

    def hang_up(self) -> None:
        """Send SIGHUP, which reloads."""
        os.kill(self.pid, signal.SIGHUP)

    async def command(self, *arguments: str) -> tuple[int, str]:
        """Run a command of the CLI with the daemon's control socket. Return (exit code, output)."""
        return await self.cli(*arguments, "--socket", str(self.socket))

    async def cli(self, *arguments: str, timeout_s: float = STOP_TIMEOUT_S) -> tuple[int, str]:
        """Run a command of the CLI. Return (exit code, output)."""
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
        """Return the current /metrics."""
        return await scrape.metrics(self.admin)

    async def until(self, condition: Callable[[Metrics], bool]) -> None:
        """Wait until a condition is true for a scrape."""
        while not condition(await self.metrics()):
            await asyncio.sleep(scrape.POLL_S)

    async def until_applied(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until a condition is true for /status and every worker has applied it. Return the status."""
        while True:
            status = await self.status()
            if condition(status) and all(worker["up_to_date"] for worker in status["workers"]):
                return status
            await asyncio.sleep(scrape.POLL_S)

    async def until_ready(self) -> None:
        """Wait until /readyz returns 200."""
        while not await self._is_ready():
            await asyncio.sleep(scrape.POLL_S)

    async def settled(self) -> Metrics:
        """Return /metrics after traffic has stopped, and check its sums."""
        found = await scrape.settled(self.admin)
        found.check_sums()
        return found

    def logged(self, text: str) -> int:
        """Return the number of log lines that contain a text."""
        return sum(text in line for line in self.log.splitlines())

    async def until_logged(self, text: str, *, times: int) -> None:
        """Wait until this number of log lines contain a text. No other error may be logged while it waits."""
        earlier = len(self.errors)
        while self.logged(text) < times:
            assert [error for error in self.errors[earlier:] if text not in str(error)] == [], self.log
            await asyncio.sleep(scrape.POLL_S)

    async def end(self) -> None:
        """Make sure that the process is gone, whatever the test has done to it."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._new_process is not None:
            self._new_process.kill()
            await self._new_process.wait()

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
    """Run a daemon. At the end of the block it is stopped: it must exit with 0 and have logged no error."""
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
