"""100,000 clients at once: each gets a session, and nothing remains of the sessions when they end.

The test runs in its own network namespace with Linux's default of 28,232 local ports. That is less than a third of the
sessions, so each port serves several backends. The number of workers follows from their descriptor limit.
"""

import asyncio
import logging
import resource
import selectors
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from lab import datagrams
from lab.daemon import Daemon, configuration, running
from lab.namespace import in_a_network_of_its_own
from lab.nat import Address
from lab.server import Server
from lab.stage import PARAMS
from lab.udp_servers import open_socket
from qlb.cid import CidCodec
from qlb.dataplane import planes
from qlb.dataplane.limits import SPARE_DESCRIPTORS

log = logging.getLogger(__name__)
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SESSIONS: Final = 100_000
BACKENDS: Final = 10
WINDOW: Final = 500
ROUNDS: Final = 2
LIMIT_S: Final = 300.0
GROWTH_KIB: Final = 8 << 10
"""For all workers between two rounds: allocators retain or move some memory. A leak would be several times as large."""
POLL_S: Final = 0.1
CLIENTS_PORT: Final = 9000
SERVICE: Final = ("127.0.0.1", 9999)


class Pool:
    """Backends that read and do not answer."""

    def __init__(self, stack: ExitStack) -> None:
        """Bind the backends' sockets."""
        addresses = [("127.0.0.1", 10_000 + number) for number in range(BACKENDS)]
        self.sockets = [stack.enter_context(open_socket(address)) for address in addresses]
        self.servers = [Server(f"b{n}", n.to_bytes(4, "big"), address) for n, address in enumerate(addresses)]
        codec = CidCodec(PARAMS)
        ids = [codec.encode(n.to_bytes(4, "big"), bytes(PARAMS.nonce_length)) for n in range(BACKENDS)]
        self.datagrams = [datagrams.short(cid) for cid in ids]
        self._selector = stack.enter_context(selectors.DefaultSelector())
        for sock in self.sockets:
            self._selector.register(sock, selectors.EVENT_READ)

    def call(self, number: int) -> None:
        """Send one datagram from a client with its own address."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.bind((f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", CLIENTS_PORT))
            client.sendto(self.datagrams[number % BACKENDS], SERVICE)

    def take(self, count: int) -> None:
        """Read this number of datagrams."""
        while count:
            ready = self._selector.select(timeout=90)
            assert ready, f"{count} datagrams have not arrived"
            for key, _ in ready:
                sock: socket.socket = key.fileobj  # type: ignore[assignment]
                sock.recv(2048)
                count -= 1


def config(pool: Pool, workers: int, session_timeout: str) -> dict[str, Any]:
    """Return the daemon's configuration."""
    address: Address = SERVICE
    forwarding = {
        "plane": "batch",
        "workers": str(workers),
        "max_sessions": str(SESSIONS),
        "session_timeout": session_timeout,
        "routable_session_timeout": session_timeout,
    }
    return configuration([address], [PARAMS], pool.servers, health={"probe": "none"}, forwarding=forwarding)


async def weigh(daemon: Daemon) -> tuple[int, int]:
    """Return (descriptors, private memory in KiB) of all workers together."""
    pids = [worker["pid"] for worker in (await daemon.status())["workers"]]
    files = sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
    own = ("Private_Clean:", "Private_Dirty:")
    lines = [line.split() for pid in pids for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    return files, sum(int(words[1]) for words in lines if words[0] in own)


def kernel_kib() -> int:
    """Return the memory of the kernel's objects, including sockets, in KiB."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Slab:"))


async def open_and_idle_out(daemon: Daemon, pool: Pool, workers: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Open a session for every client, then let all of them expire. Return weigh() after each of the two."""
    for start in range(0, SESSIONS, WINDOW):
        for number in range(start, start + WINDOW):
            pool.call(number)
        pool.take(WINDOW)
    found = await daemon.metrics()
    assert found.total("qlb_sessions") == SESSIONS
    assert found.total("qlb_sessions_evicted_total") == 0
    full = await weigh(daemon)
    log.info("the kernel's own memory, open: %d KiB", kernel_kib())
    for timeout, sessions in (("1ms", 0), ("1h", 0)):
        daemon.write(config(pool, workers, timeout))
        assert (await daemon.command("reload"))[0] == 0
        while (await daemon.metrics()).total("qlb_sessions") != sessions:
            await asyncio.sleep(POLL_S)
    return full, await weigh(daemon)


def test_a_hundred_thousand(tmp_path: Path) -> None:
    """All sessions open and expire twice. Then descriptors are as before, and memory is as after the first round."""
    if lack := planes.what_lacks("batch"):
        pytest.skip(lack)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = (hard if hard != resource.RLIM_INFINITY else 2 * SESSIONS) - SPARE_DESCRIPTORS
    workers = 1 + SESSIONS * 11 // 10 // room  # the kernel distributes clients over workers only roughly evenly

    async def work() -> None:
        with ExitStack() as stack:
            pool = Pool(stack)
            async with asyncio.timeout(LIMIT_S), running(tmp_path / "daemon", config(pool, workers, "1h")) as daemon:
                before = await weigh(daemon)
                log.info("the kernel's own memory, before: %d KiB", kernel_kib())
                rounds = [await open_and_idle_out(daemon, pool, workers) for _ in range(ROUNDS)]
                found = await daemon.settled()
        log.info("%d workers; descriptors and KiB: before %s, full and empty by turns %s", workers, before, rounds)
        assert found.by("qlb_packets_forwarded_total", "route") == {"cid": ROUNDS * SESSIONS}
        assert found.dropped == 0
        for full, empty in rounds:
            assert full[0] == before[0] + SESSIONS
            assert empty[0] == before[0]
        assert rounds[-1][1][1] - rounds[0][1][1] < GROWTH_KIB, str(rounds)

    in_a_network_of_its_own(work)
