"""Readings of a whole daemon: rows of backends that come and go, and their sums."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from qlb.config.load import load
from qlb.daemon import periodic
from qlb.daemon import rows as departures
from qlb.daemon.supervisor import Supervisor
from qlb.discovery import file as file_source
from qlb.observe.figures import REMOVED_ROW, Reading
from qlb.routing.totals import TOTALS

PATIENCE_S = 240.0
CONFIG = {
    "listen": ["127.0.0.1:0"],
    "cid_configs": [{"config_id": 1, "server_id_length": 4, "nonce_length": 7}],
    "backends": [],
    "fallback": {"flow_timeout": "1ms"},
    "drain": {"quiet_period": "1ms"},
    "health": {"probe": "none"},
    "admin": {"listen": "none"},
}


class Pool:
    """Backends from a file source, and one socket that serves as all of them."""

    def __init__(self, folder: Path) -> None:
        """Start with an empty pool."""
        self.path = folder / "pool.json"
        self.server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.server.bind(("127.0.0.1", 0))
        self.server.setblocking(False)
        self.put()

    def put(self, *numbers: int) -> None:
        """Set the backends by number. Each number has its own name and server ID, and all share one address."""
        rows = [
            {
                "name": f"pod-{n}",
                "address": f"127.0.0.1:{self.server.getsockname()[1]}",
                "server_ids": {"1": f"{n:08x}"},
            }
            for n in numbers
        ]
        self.path.with_suffix(".new").write_text(json.dumps({"backends": rows}))
        self.path.with_suffix(".new").replace(self.path)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """Yield an empty pool."""
    found = Pool(tmp_path)
    yield found
    found.server.close()


@asynccontextmanager
async def running(folder: Path, pool: Pool) -> AsyncIterator[Supervisor]:
    """Run a daemon on the pool until the end of the block."""
    source = {"name": "pool", "file": str(pool.path), "networks": ["127.0.0.0/8"]}
    path = folder / "qlb.yaml"
    path.write_text(json.dumps({**CONFIG, "discovery": [source]}))
    ready = asyncio.Event()
    supervisor = Supervisor(path, load(path), lambda _: ready.set())
    work = asyncio.create_task(supervisor.run())
    async with asyncio.timeout(PATIENCE_S):
        await ready.wait()
    try:
        yield supervisor
    finally:
        supervisor.end()
        async with asyncio.timeout(PATIENCE_S):
            assert await work == 0


async def names_are(supervisor: Supervisor, *names: str) -> None:
    """Wait until these are the backends and every worker has applied the orders."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            present = {one.name for one in supervisor.parts.desired.backends if one is not None}
            engine = supervisor.parts.engine
            assert engine is not None
            if present == set(names) and engine.applied >= supervisor.parts.desired.revision:
                return
            await asyncio.sleep(0.01)


async def send(supervisor: Supervisor, pool: Pool, number: int, packets: int) -> None:
    """Send packets with a backend's ID. Return after the backend has received them and its answers have arrived."""
    loop = asyncio.get_running_loop()
    datagram = b"\x40" + bytes([1 << 5]) + number.to_bytes(4, "big") + bytes(40)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(tuple(supervisor.parts.listen[0]))
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(packets):
                await loop.sock_sendall(client, datagram)
                got, sender = await loop.sock_recvfrom(pool.server, 2048)
                await loop.sock_sendto(pool.server, got, sender)
                assert await loop.sock_recv(client, 2048) == datagram


def sums(reading: Reading) -> tuple[int, int, int]:
    """Return the counts of packets that were received, forwarded or dropped, and returned.

    Check the octets: each packet was forwarded and came back as its own answer.
    """
    forwarded = sum(sum(row.forwarded.values()) for row in reading.backends)
    returned = sum(row.returned for row in reading.backends)
    received_bytes = reading.totals["received_bytes"]
    assert sum(row.forwarded_bytes for row in reading.backends) == reading.totals["bytes_forwarded"] == received_bytes
    assert sum(row.returned_bytes for row in reading.backends) == reading.totals["bytes_returned"] == received_bytes
    return reading.totals["received_packets"], forwarded + sum(reading.dropped.values()), returned


async def test_rows_are_folded_and_indexes_used_again(
    tmp_path: Path, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every reading sums agree, no row decreases, and a new name starts at zero. Many names need few indexes."""
    monkeypatch.setattr(departures, "MAX_DEPARTED", 0)
    monkeypatch.setattr(departures, "_MARGIN_S", 0.0)
    monkeypatch.setattr(periodic, "INTERVAL_S", 0.05)
    monkeypatch.setattr(file_source, "_POLL_S", 0.05)
    sent, removed = 0, 0
    async with running(tmp_path, pool) as supervisor:
        for number in range(1, 5):
            pool.put(number)
            await names_are(supervisor, f"pod-{number}")
            reading = supervisor.parts.read()
            rows = {row.name: row for row in reading.backends}
            assert sum(rows[f"pod-{number}"].forwarded.values()) == rows[f"pod-{number}"].forwarded_bytes == 0
            assert rows[f"pod-{number}"].last_seen_s is None
            assert reading.totals.keys() == {one.name for one in TOTALS}
            await send(supervisor, pool, number, 10 * number)
            sent += 10 * number
            reading = supervisor.parts.read()
            rows = {row.name: row for row in reading.backends}
            assert sums(reading) == (sent, sent, sent)
            assert (rows[f"pod-{number}"].forwarded["cid"], rows[f"pod-{number}"].returned) == (
                10 * number,
                10 * number,
            )
            pool.put()
            await names_are(supervisor)
            async with asyncio.timeout(PATIENCE_S):
                while (
                    not supervisor.parts.desired._indexes._free
                ):  # until its row is folded and its index has been released
                    reading = supervisor.parts.read()
                    assert sums(reading) == (sent, sent, sent)
                    folded = sum(sum(row.forwarded.values()) for row in reading.backends if row.name == REMOVED_ROW)
                    assert folded >= removed
                    removed = folded
                    await asyncio.sleep(0.01)
        assert len(supervisor.parts.desired.names) == 1
        assert [row.name for row in supervisor.parts.read().backends] == [REMOVED_ROW]
        assert sum(supervisor.parts.read().backends[0].forwarded.values()) == sent
        (worker, *_) = supervisor.parts.read().workers
        assert worker.cpu_s > 0
        assert (worker.resident_bytes or 0) > 1 << 20 or sys.platform != "linux"
        towards, back = supervisor.parts.read().latency
        assert (towards.direction, back.direction) == ("backend", "client")
        assert towards.buckets[-1][1] > 0 < back.buckets[-1][1]
