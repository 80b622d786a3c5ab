"""The shared-table design: all forwarders look up in Redis which backend a client address belongs to.

``python -m benchmarks.forwarders.shared_table CONFIG`` forwards until it is killed. CONFIG is a JSON file with the
fields of ``Settings``. The program prints ``ready`` when it forwards. On SIGHUP it reads CONFIG again, for
``drained``, and prints ``reloaded``.

The design is implemented as well as it can be:

- One round trip to Redis for an address that is new to this forwarder (``SET NX GET EX``). The first forwarder that
  asks sets the backend, and the others receive it.
- A cache of known addresses in each forwarder.
- Datagrams wait until Redis has answered.
- Entries are renewed while they are used.
- Timeouts, retries and health checks, as the redis-py page on production recommends.
- If Redis does not answer, the backend is a hash of the address, which is the same on every forwarder. So a client
  whose address stays the same loses nothing. This choice is not stored in Redis.

One problem remains: a packet from a new address does not show which connection it belongs to.
"""

import asyncio
import json
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Final
from zlib import crc32

import uvloop
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import RedisError

from benchmarks.options import command_line

Address = tuple[str, int]

REDIS_TIMEOUT_S: Final = 0.25
RETRIES: Final = 2
MAX_WAITING: Final = 64
"""Maximum number of datagrams of one address that wait for Redis."""
MAX_SESSIONS: Final = 16_384
_BATCH: Final = 64
_BUFFER_BYTES: Final = 4 << 20
_MAX_DATAGRAM_BYTES: Final = 65_535


@dataclass(frozen=True)
class Settings:
    """The configuration.

    backends: ports on 127.0.0.1. drained: ports without new clients. ttl_s: of an entry.
    """

    listen_port: int
    redis_port: int
    backends: list[int]
    drained: list[int]
    ttl_s: int = 120

    @classmethod
    def load(cls, path: Path) -> "Settings":
        """Read the settings from a JSON file."""
        return cls(**json.loads(path.read_text()))


class Table:
    """The table in Redis: client address → port of the backend."""

    def __init__(self, port: int, ttl_s: int) -> None:
        """port: of Redis on 127.0.0.1. The client connects at the first command, and reconnects when necessary."""
        self._ttl_s = ttl_s
        self._redis = Redis(
            port=port,
            socket_timeout=REDIS_TIMEOUT_S,
            socket_connect_timeout=REDIS_TIMEOUT_S,
            retry=Retry(ExponentialBackoff(cap=0.1, base=0.01), RETRIES),
            health_check_interval=10,
        )

    async def claim(self, client: Address, backend: int) -> int | None:
        """Store a backend for a client unless it has one; return the stored one, or None if Redis fails."""
        try:
            before = await self._redis.set(_key(client), backend, nx=True, get=True, ex=self._ttl_s)
        except (RedisError, OSError):
            return None
        return backend if before is None else int(before)

    async def keep(self, clients: Sequence[Address]) -> None:
        """Renew the time to live of these entries."""
        try:
            async with self._redis.pipeline(transaction=False) as pipeline:
                for client in clients:
                    pipeline.expire(_key(client), self._ttl_s)
                await pipeline.execute()
        except (RedisError, OSError):
            return

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


@dataclass
class Session:
    """State of one client address.

    sock: to its backend; None until Redis answers. waiting: datagrams until then.
    """

    client: Address
    sock: socket.socket | None = None
    waiting: list[bytes] = field(default_factory=list)
    used: bool = True


class SharedTable:
    """The forwarder."""

    def __init__(self, path: Path, settings: Settings) -> None:
        """Bind the port. Needs a running loop. path: of the settings, to reload them. Raises OSError."""
        self._loop = asyncio.get_running_loop()
        self._path = path
        self._settings = settings
        self._table = Table(settings.redis_port, settings.ttl_s)
        self._sessions: dict[Address, Session] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._turn = cycle(settings.backends)
        self._listener = _udp_socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        self._listener.bind(("127.0.0.1", settings.listen_port))
        self._loop.add_reader(self._listener, self._on_client)

    def reload(self) -> None:
        """Read the drained backends again, and print ``reloaded``."""
        self._settings = Settings.load(self._path)
        print("reloaded", flush=True)

    async def run(self) -> None:
        """Renew the entries of active clients and close idle sessions, until cancelled."""
        while True:
            await asyncio.sleep(self._settings.ttl_s / 4)
            await self._table.keep([session.client for session in self._sessions.values() if session.used])
            for session in list(self._sessions.values()):
                if not session.used:
                    self._close(session)
                session.used = False

    def _on_client(self) -> None:
        for _ in range(_BATCH):
            try:
                datagram, client = self._listener.recvfrom(_MAX_DATAGRAM_BYTES)
            except OSError:
                return
            session = self._sessions.get(client) or self._open(client)
            session.used = True
            if session.sock is not None:
                _send(session.sock, datagram)
            elif len(session.waiting) < MAX_WAITING:
                session.waiting.append(datagram)

    def _open(self, client: Address) -> Session:
        if len(self._sessions) >= MAX_SESSIONS:
            self._close(next(iter(self._sessions.values())))
        session = self._sessions[client] = Session(client)
        task = self._loop.create_task(self._ask(session))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return session

    async def _ask(self, session: Session) -> None:
        """Get the backend of an address, and send the waiting datagrams to it."""
        backend = await self._table.claim(session.client, self._next())
        if self._sessions.get(session.client) is not session:
            return
        sock = _udp_socket()
        sock.connect(("127.0.0.1", backend or self._hashed(session.client)))
        self._loop.add_reader(sock, self._on_backend, sock, session.client)
        session.sock = sock
        for datagram in session.waiting:
            _send(sock, datagram)
        session.waiting.clear()

    def _next(self) -> int:
        """Return the next backend in turn that is not drained; the first one if all are drained."""
        candidates = (next(self._turn) for _ in self._settings.backends)
        return next((port for port in candidates if port not in self._settings.drained), self._settings.backends[0])

    def _hashed(self, client: Address) -> int:
        backends = self._settings.backends
        return backends[crc32(repr(client).encode()) % len(backends)]

    def _on_backend(self, sock: socket.socket, client: Address) -> None:
        for _ in range(_BATCH):
            try:
                datagram = sock.recv(_MAX_DATAGRAM_BYTES)
            except OSError:
                return
            try:
                self._listener.sendto(datagram, client)
            except OSError:
                continue

    def _close(self, session: Session) -> None:
        self._sessions.pop(session.client, None)
        if session.sock is not None:
            self._loop.remove_reader(session.sock)
            session.sock.close()


def _key(client: Address) -> str:
    return "voice:{}:{}".format(*client)


def _udp_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setblocking(False)
    return sock


def _send(sock: socket.socket, datagram: bytes) -> None:
    try:
        sock.send(datagram)
    except OSError:  # refused, or the buffer is full: the datagram is lost
        return


async def _main(path: Path) -> None:
    forwarder = SharedTable(path, Settings.load(path))
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, forwarder.reload)
    print("ready", flush=True)
    await forwarder.run()


if __name__ == "__main__":
    parser = command_line("benchmarks.forwarders.shared_table", __doc__)
    parser.add_argument("config", type=Path, help="JSON file with the fields of Settings")
    uvloop.run(_main(parser.parse_args().config))
