"""µs of CPU time for one packet forwarded by the asyncio plane, beside a Python relay that knows no QUIC.

Traffic: interleaved clients, datagrams of 300 octets, at most a window of them under way, each echoed by
the backend: one packet there and one back. The figure is the forwarding process's own CPU time (user and
system, as the kernel counts it) over the packets, so neither the sender nor a slow machine enters it.
"""

import asyncio
import itertools
import json
import socket
import sys
import tempfile
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from benchmarks.table import Row, print_table
from qlb.cid import CidGenerator, CidParams

CLIENTS = 100
WINDOW = 64
PACKETS = 12_800
ROUNDS = 4
SIZE_BYTES = 300
KEY = bytes(range(16))
SHAPES = {
    "plaintext": CidParams(0, 4, 10),
    "single-pass": CidParams(1, 4, 12, KEY),
    "four-pass": CidParams(2, 4, 10, KEY),
}
SERVER_ID = b"\1\2\3\4"


def main() -> None:
    """Print one table."""
    asyncio.run(_main())


async def _main() -> None:
    rounds: dict[str, list[float]] = {}
    with _echo() as backend_port:
        async with _relay(backend_port) as relay, _Daemon(backend_port) as daemon:
            for _ in range(ROUNDS):  # in turns, so that a machine whose speed drifts slows all alike
                for name, traffic in _traffic():
                    forwarder = daemon if traffic else relay
                    rounds.setdefault(name, []).append(forwarder.cost_us(traffic))
    print_table("CPU of the forwarder for one packet and its echo", [Row(name, min(us)) for name, us in rounds.items()])


def _traffic() -> Iterator[tuple[str, Iterator[bytes] | None]]:
    """Yield what is measured, and its datagrams; None for the relay, to which all datagrams are alike."""
    yield "relay, no QUIC (floor)", None
    for name, params in SHAPES.items():
        generator = CidGenerator(params, SERVER_ID)
        repeated = [_datagram(generator.generate()) for _ in range(CLIENTS)]
        yield f"qlb asyncio, {name}, repeated IDs", itertools.cycle(repeated)
        yield f"qlb asyncio, {name}, fresh IDs", (_datagram(generator.generate()) for _ in itertools.count())


def _datagram(cid: bytes) -> bytes:
    return (b"\x40" + cid).ljust(SIZE_BYTES, b"\0")


@contextmanager
def _echo() -> Iterator[int]:
    """Echo datagrams on a thread until the end of the block."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.bind(("127.0.0.1", 0))

    def echo() -> None:
        while True:
            datagram, sender = sock.recvfrom(65535)
            if len(datagram) == 0:
                return
            sock.sendto(datagram, sender)

    thread = threading.Thread(target=echo)
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stopper:
            stopper.sendto(b"", sock.getsockname())
        thread.join()
        sock.close()


def _drive(port: int, datagrams: Iterator[bytes]) -> None:
    """Send PACKETS from interleaved clients and wait for every echo, a window at a time."""
    clients = []
    for _ in range(CLIENTS):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(5)
        sock.connect(("127.0.0.1", port))
        clients.append(sock)
    order = itertools.cycle(clients)
    for _ in range(PACKETS // WINDOW):
        window = [next(order) for _ in range(WINDOW)]
        for sock in window:
            sock.send(next(datagrams))
        for sock in window:
            sock.recv(65535)
    for sock in clients:
        sock.close()


def _cpu_us(pid: int) -> float:
    """CPU time of a process so far, in µs."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1000


def _measured(pid: int, port: int, datagrams: Iterator[bytes]) -> float:
    before = _cpu_us(pid)
    _drive(port, datagrams)
    return (_cpu_us(pid) - before) / (PACKETS // WINDOW * WINDOW)


class _Relay:
    """The relay, running."""

    def __init__(self, pid: int, port: int) -> None:
        self._pid, self._port = pid, port

    def cost_us(self, _: Iterator[bytes] | None) -> float:
        """CPU µs of the relay for one packet and its echo."""
        return _measured(self._pid, self._port, itertools.repeat(_datagram(bytes(15))))


@asynccontextmanager
async def _relay(backend_port: int) -> AsyncIterator[_Relay]:
    port = _free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.relay", str(port), str(backend_port)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    try:
        yield _Relay(process.pid, port)
    finally:
        process.kill()
        await process.wait()


class _Daemon:
    """The daemon in front of one backend with a server ID under every shape."""

    def __init__(self, backend_port: int) -> None:
        self.port, self.admin_port = _free_port(), _free_port()
        configs = [
            {
                "config_id": params.config_id,
                "server_id_length": params.server_id_length,
                "nonce_length": params.nonce_length,
                **({"key": params.key.hex()} if params.key else {}),
            }
            for params in SHAPES.values()
        ]
        self.config = {
            "listen": [f"127.0.0.1:{self.port}"],
            "cid_configs": configs,
            "backends": [
                {
                    "name": "echo",
                    "address": f"127.0.0.1:{backend_port}",
                    "server_ids": {str(params.config_id): SERVER_ID.hex() for params in SHAPES.values()},
                }
            ],
            "health": {"probe": "none"},
            "forwarding": {"plane": "asyncio"},
            "admin": {"listen": f"127.0.0.1:{self.admin_port}"},
            "logging": {"level": "error"},
        }

    async def __aenter__(self) -> "_Daemon":
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name, "qlb.yaml")
        path.write_text(json.dumps(self.config))
        self._process = await asyncio.create_subprocess_exec(sys.executable, "-m", "qlb", "run", str(path))
        self._worker = await self._worker_pid()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._process.terminate()
        await self._process.wait()
        self._folder.cleanup()

    def cost_us(self, datagrams: Iterator[bytes] | None) -> float:
        """CPU µs of the worker for one packet and its echo."""
        assert datagrams is not None, "only the relay takes any"
        return _measured(self._worker, self.port, datagrams)

    async def _worker_pid(self) -> int:
        for _ in range(200):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/status") as answer:
                    workers = json.load(answer)["workers"]
                    if workers and workers[0]["alive"]:
                        return int(workers[0]["pid"])
            except OSError:
                pass
            await asyncio.sleep(0.05)
        raise RuntimeError("the daemon did not start")


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


if __name__ == "__main__":
    main()
