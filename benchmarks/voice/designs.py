"""The compared designs. Each has two balancers in front of the same three agents."""

import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from benchmarks.forwarders.base import Missing, Place
from benchmarks.forwarders.nginx import nginx_command
from benchmarks.processes import children
from benchmarks.voice.programs import Program
from lab import daemon, ports
from lab.nat import Address
from qlb.errors import BackendError

BALANCERS: Final = 2


@dataclass(frozen=True)
class Site:
    """Surroundings of a design.

    config: of qlb, without listen. backends: name → UDP port. ports: of the balancers.
    """

    folder: Path
    config: dict[str, Any]
    backends: dict[str, int]
    ports: tuple[int, ...]

    @property
    def addresses(self) -> list[Address]:
        """Addresses of the balancers."""
        return [("127.0.0.1", port) for port in self.ports]


class Design(Protocol):
    """Two running balancers."""

    async def kill(self, index: int) -> None:
        """Kill a balancer with SIGKILL."""

    async def restart(self, index: int) -> None:
        """Start a killed balancer again."""

    async def drain(self, backend: str) -> None:
        """Drain a backend in the way that this design provides: it gets no new calls."""

    async def restart_table(self) -> bool:
        """Kill the table that the balancers share, and start it again; return whether there is one."""

    def pids(self) -> list[int]:
        """Return the running processes of the balancers."""


class Qlb:
    """``qlb run`` with the default plane, twice. The two balancers share no state."""

    def __init__(self, site: Site) -> None:
        """Write the configurations."""
        self._daemons = []
        for index, port in enumerate(site.ports):
            folder = site.folder / f"qlb-{index}"
            folder.mkdir()
            config = {**site.config, "listen": [f"127.0.0.1:{port}"]}
            self._daemons.append(daemon.Daemon(folder, config, ("127.0.0.1", ports.free_port())))
        self._ports = site.ports

    async def start(self) -> None:
        """Start both."""
        for each in self._daemons:
            await each.start()

    async def kill(self, index: int) -> None:
        """Kill the supervisor, and its workers before they react to its end."""
        workers = [os.pidfd_open(pid) for pid in children(self._daemons[index].pid)]
        await self._daemons[index].kill()
        for worker in workers:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(worker, signal.SIGKILL)
            os.close(worker)

    async def restart(self, index: int) -> None:
        """Start it again on its port."""
        await ports.until_free("127.0.0.1", self._ports[index])
        await self._daemons[index].start()

    async def drain(self, backend: str) -> None:
        """Run ``qlb drain`` on both."""
        for each in self._daemons:
            code, said = await each.command("drain", backend)
            if code:
                raise BackendError(f"qlb drain: {said}")

    async def restart_table(self) -> bool:
        """Return False: the balancers share no table."""
        return False

    async def stop(self) -> None:
        """Stop both."""
        for each in self._daemons:
            await each.end()

    def pids(self) -> list[int]:
        """Return the supervisors and workers."""
        return _families(each.pid for each in self._daemons)


class _Programs:
    """Two balancers that are ordinary programs."""

    def __init__(self, site: Site, programs: Sequence[Program]) -> None:
        """programs: one for each of the site's ports."""
        self._site = site
        self._programs = programs

    async def start(self) -> None:
        """Start both."""
        for index in range(BALANCERS):
            await self.restart(index)

    async def kill(self, index: int) -> None:
        """Kill one balancer with all its processes."""
        await self._programs[index].kill()

    async def restart(self, index: int) -> None:
        """Start one balancer. It has no state of an earlier process."""
        await self._programs[index].start(udp_port=self._site.ports[index])

    async def stop(self) -> None:
        """Stop both."""
        for program in self._programs:
            await program.stop()


class NginxHash(_Programs):
    """nginx's stream module with a consistent hash of address and port (benchmarks/forwarders/nginx.py)."""

    def __init__(self, site: Site) -> None:
        """Write the configurations. Raises Missing."""
        self._places = []
        for index, port in enumerate(site.ports):
            folder = site.folder / f"nginx-{index}"
            folder.mkdir()
            self._places.append(Place(folder, port, list(site.backends.values())))
        super().__init__(site, [Program(nginx_command(place), place.folder / "log") for place in self._places])

    async def drain(self, backend: str) -> None:
        """Mark the backend ``down`` and reload. The old workers retain their sessions."""
        for place, program in zip(self._places, self._programs, strict=True):
            nginx_command(place, down=[self._site.backends[backend]])
            program.signal(signal.SIGHUP)

    async def restart_table(self) -> bool:
        """Return False: the balancers share no table."""
        return False

    def pids(self) -> list[int]:
        """Return the masters and workers."""
        return _families(program.pid for program in self._programs)


class SharedTable(_Programs):
    """Two processes of benchmarks/forwarders/shared_table.py with one Redis."""

    def __init__(self, site: Site) -> None:
        """Write the configurations. Raises Missing."""
        server = shutil.which("redis-server")
        if server is None:
            raise Missing("redis-server is not installed (Debian: redis-server)")
        self._redis_port = ports.free_port()
        self._redis = Program(redis_command(server, site.folder, self._redis_port), site.folder / "redis.log")
        self._settings = [site.folder / f"table-{index}.json" for index in range(BALANCERS)]
        command = [sys.executable, "-m", "benchmarks.forwarders.shared_table"]
        super().__init__(site, [Program([*command, str(path)], path.with_suffix(".log")) for path in self._settings])
        self._write(drained=[])

    async def start(self) -> None:
        """Start Redis, then both forwarders."""
        await self._redis.start(tcp_port=self._redis_port)
        await super().start()

    async def drain(self, backend: str) -> None:
        """Exclude the backend from new entries. Existing entries stay valid."""
        self._write(drained=[self._site.backends[backend]])
        for program in self._programs:
            program.signal(signal.SIGHUP)

    async def restart_table(self) -> bool:
        """Kill Redis and start it again. It reads its log."""
        await self._redis.kill()
        await self._redis.start(tcp_port=self._redis_port)
        return True

    async def stop(self) -> None:
        """Stop both forwarders, then Redis."""
        await super().stop()
        await self._redis.stop()

    def pids(self) -> list[int]:
        """Return the forwarders and Redis."""
        return [program.pid for program in (*self._programs, self._redis)]

    def _write(self, drained: list[int]) -> None:
        fixed = {"redis_port": self._redis_port, "backends": list(self._site.backends.values()), "drained": drained}
        for port, path in zip(self._site.ports, self._settings, strict=True):
            path.write_text(json.dumps({"listen_port": port, **fixed}))


DESIGNS: Final[dict[str, Callable[[Site], Qlb | NginxHash | SharedTable]]] = {
    "qlb": Qlb,
    "nginx, hash of the 4-tuple": NginxHash,
    "shared table in Redis": SharedTable,
}


@asynccontextmanager
async def design_running(name: str, site: Site) -> AsyncIterator[Design]:
    """Run a design until the end of the block. Raises Missing, and BackendError if it does not start."""
    design = DESIGNS[name](site)
    try:
        await design.start()
        yield design
    finally:
        await design.stop()


def redis_command(server: str, folder: Path, port: int) -> list[str]:
    """Return the command of Redis: its log synced every second, and entries evicted if memory is full."""
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory": "256mb",
        "maxmemory-policy": "volatile-ttl",
    }
    return [server, *(word for key, value in options.items() for word in (f"--{key}", value))]


def _families(pids: Iterable[int]) -> list[int]:
    found = []
    for pid in pids:
        with suppress(OSError):  # it is dead: one balancer is, for a time
            found += [pid, *children(pid)]
    return found
