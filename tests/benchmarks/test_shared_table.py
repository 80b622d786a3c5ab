"""Tests of the forwarder with a shared table, with a real Redis."""

import asyncio
import json
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from benchmarks.voice.designs import redis_command
from benchmarks.voice.programs import Program
from lab.ports import free_port

pytestmark = pytest.mark.e2e

LIMIT_S: Final = 240.0


class Tables:
    """Two forwarders, one Redis and three backends that are plain sockets."""

    def __init__(self, folder: Path) -> None:
        """Bind the backends and write the configurations."""
        self.backends = [_bound() for _ in range(3)]
        self.redis_port = free_port()
        server = shutil.which("redis-server")
        assert server is not None
        self.redis = Program(redis_command(server, folder, self.redis_port), folder / "redis.log")
        self.ports = [free_port(), free_port()]
        self._paths = [folder / f"{port}.json" for port in self.ports]
        module = "benchmarks.forwarders.shared_table"
        self.forwarders = [
            Program([sys.executable, "-m", module, str(path)], path.with_suffix(".log")) for path in self._paths
        ]
        self.write(drained=[])

    def write(self, *, drained: list[int]) -> None:
        """Write the configuration of both forwarders. drained: indexes of backends."""
        backends = [sock.getsockname()[1] for sock in self.backends]
        fixed = {"redis_port": self.redis_port, "backends": backends, "drained": [backends[at] for at in drained]}
        for port, path in zip(self.ports, self._paths, strict=True):
            path.write_text(json.dumps({"listen_port": port, **fixed}))

    async def backend_of(self, client: socket.socket, forwarder: int) -> int:
        """Send a datagram through a forwarder, answer it, and return the index of the backend that received it."""
        loop = asyncio.get_running_loop()
        text = f"{client.getsockname()} {forwarder}".encode()
        got = [asyncio.create_task(loop.sock_recvfrom(sock, 100)) for sock in self.backends]
        await loop.sock_sendto(client, text, ("127.0.0.1", self.ports[forwarder]))
        done, pending = await asyncio.wait(got, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        number = got.index(done.pop())
        datagram, source = got[number].result()
        assert datagram == text
        await loop.sock_sendto(self.backends[number], b"answer", source)
        assert await loop.sock_recvfrom(client, 100) == (b"answer", ("127.0.0.1", self.ports[forwarder]))
        return number


def _bound() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    sock.bind(("127.0.0.1", 0))
    return sock


@pytest.fixture(name="clients")
def _clients() -> Iterator[list[socket.socket]]:
    """Twelve client sockets."""
    socks = [_bound() for _ in range(12)]
    yield socks
    for sock in socks:
        sock.close()


@asynccontextmanager
async def tables_running(folder: Path) -> AsyncIterator[Tables]:
    """Run Redis and both forwarders."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: redis-server)")
    tables = Tables(folder)
    try:
        async with asyncio.timeout(LIMIT_S):
            await tables.redis.start(tcp_port=tables.redis_port)
            for port, forwarder in zip(tables.ports, tables.forwarders, strict=True):
                await forwarder.start(udp_port=port)
            yield tables
    finally:
        for program in (*tables.forwarders, tables.redis):
            await program.stop()
        for sock in tables.backends:
            sock.close()


async def test_both_forwarders_agree(tmp_path: Path, clients: list[socket.socket]) -> None:
    """A client has the same backend at both forwarders, also after one was killed; every backend gets clients."""
    async with tables_running(tmp_path) as tables:
        first = [await tables.backend_of(client, 0) for client in clients]
        assert set(first) == {0, 1, 2}
        assert [await tables.backend_of(client, 1) for client in clients] == first
        await tables.forwarders[0].kill()
        await tables.forwarders[0].start(udp_port=tables.ports[0])
        assert [await tables.backend_of(client, 0) for client in clients] == first


async def test_the_table_outlives_a_restart_of_redis(tmp_path: Path, clients: list[socket.socket]) -> None:
    """Entries synced to disk survive a restart of Redis. Without Redis, both forwarders choose the same backend."""
    async with tables_running(tmp_path) as tables:
        old, new = clients[:6], clients[6:]
        first = [await tables.backend_of(client, 0) for client in old]
        await tables.redis.stop()
        hashed = [await tables.backend_of(client, 0) for client in new]
        assert [await tables.backend_of(client, 1) for client in new] == hashed
        assert [await tables.backend_of(client, 0) for client in old] == first
        await tables.redis.start(tcp_port=tables.redis_port)
        assert [await tables.backend_of(client, 1) for client in old] == first


async def test_a_drained_backend_keeps_its_clients(tmp_path: Path, clients: list[socket.socket]) -> None:
    """A drained backend retains its clients and receives no new ones."""
    async with tables_running(tmp_path) as tables:
        old, new = clients[:6], clients[6:]
        first = [await tables.backend_of(client, 0) for client in old]
        tables.write(drained=[0])
        tables.forwarders[0].signal(signal.SIGHUP)
        await tables.forwarders[0].until_said("reloaded")
        assert {await tables.backend_of(client, 0) for client in new} == {1, 2}
        assert [await tables.backend_of(client, 0) for client in old] == first
