"""A NAT between clients and balancers. A test changes addresses here in the middle of a connection.

Each client gets its own port to send to, so that all datagrams to that port belong to one client, whatever its address.
Each of its addresses is mapped to one outside socket. After a rebind, the client's datagrams leave from a new outside
socket. The old one still delivers replies for a grace period, as in real NATs. The number of open mappings is limited,
as in real NATs, and so are the recorded observations.
"""

import asyncio
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Final, Self

Address = tuple[str, int]
"""(host, port); the other fields of an IPv6 socket address are cut off."""

GRACE_S: Final = 0.5
_MAX_DATAGRAM_BYTES: Final = 65_535
_BATCH: Final = 32
_BUFFER_BYTES: Final = 1 << 20
_SLOW_QUEUE: Final = 8
_HEADER_BYTES: Final = 64
_HEADERS: Final = 20_000
_OPEN_MAPPINGS: Final = 256
_REMEMBERED: Final = 4096
_NEVER_FRAGMENT: Final = {socket.AF_INET: (socket.IPPROTO_IP, 10, 3), socket.AF_INET6: (socket.IPPROTO_IPV6, 23, 3)}
"""IP_MTU_DISCOVER and IPV6_MTU_DISCOVER, IP_PMTUDISC_PROBE."""


def loopback_hosts() -> Iterator[str]:
    """Return endless source addresses: 127.0.0.2 to 127.0.0.250 if loopback has them, else 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("127.0.0.2", 0))
        except OSError:
            return cycle(["127.0.0.1"])
    return cycle([f"127.0.0.{number}" for number in range(2, 251)])


class Mapping:
    """One address of a client, and the outside socket that represents it.

    up: datagrams that were sent. down: datagrams that came back from the current balancer.
    """

    def __init__(self, client: Address, sock: socket.socket) -> None:
        """client: the destination of replies. sock: bound, not connected."""
        self.client = client
        self.sock = sock
        self.outside: Address = sock.getsockname()[:2]
        self.up = 0
        self.down = 0


class NatPort:
    """One client's path through the NAT.

    - address: the client's destination.
    - clients: the addresses from which the client has sent.
    - outsides: the addresses that the balancer has seen for it, at most the last few thousand.
    - headers: the first octets of its first datagrams.
    - changes: how often the balancer has seen this client change its address.
    - rounds: for each of the last datagrams to the client, its time on the loop's clock and its number of round trips.
      The number is 1 for an answer to a datagram that the client sent unasked, 2 for an answer to the client's next
      datagram, and so on.
    - strays: the sources of answers to which the client has never sent.
    - lost: datagrams that a slow link or the system has dropped.
    """

    def __init__(
        self, target: Address, *, grace_s: float = GRACE_S, host: str | None = None, delay_s: float = 0.0
    ) -> None:
        """target: the balancer's address. host: the source, loopback by default. delay_s: of a datagram, one way.

        Must be created while a loop runs.
        """
        self._loop = asyncio.get_running_loop()
        self._target = target
        self._targets = {target}
        self._grace_s = grace_s
        self._delay_s = delay_s
        self._family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
        loopback = "::1" if ":" in target[0] else "127.0.0.1"
        self._outside_host = host or loopback
        self._inside = self._open(loopback)
        self._mappings: dict[Address, Mapping] = {}
        self._open_mappings: dict[Mapping, None] = {}
        self._all: deque[Mapping] = deque(maxlen=_REMEMBERED)
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self.address: Address = self._inside.getsockname()[:2]
        self.newest: Mapping | None = None
        self.clients: list[Address] = []
        self.outsides: deque[Address] = deque(maxlen=_REMEMBERED)
        self.changes = 0
        self.rounds: deque[tuple[float, int]] = deque(maxlen=_REMEMBERED)
        self._client_round = 0
        self._balancer_round = 0
        self.strays: list[Address] = []
        self.headers: list[bytes] = []
        self.lost = 0
        self._interval_s = 0.0
        self._queue: deque[tuple[Address, bytes]] = deque()
        self._loop.add_reader(self._inside, self._on_client)

    def __str__(self) -> str:
        """Return the progress of the client in words."""
        newest = f"{self.newest.up} up, {self.newest.down} down" if self.newest else "nothing"
        return f"{len(self.clients)} addresses of the client, {len(self.outsides)} outside; at the last one {newest}"

    @property
    def mappings(self) -> list[Mapping]:
        """Return the last few thousand mappings."""
        return list(self._all)

    def rebind(self, *, host: str | None = None) -> None:
        """Send from a new port from now on. host: also from another source address, such as 127.0.0.9."""
        self._outside_host = host or self._outside_host
        for mapping in self._mappings.values():
            self._loop.call_later(self._grace_s, self._close, mapping)
        self._mappings.clear()

    async def rebind_every(self, period_s: float) -> None:
        """Change the source address and port again and again until this is cancelled."""
        for host in loopback_hosts():
            await asyncio.sleep(period_s)
            self.rebind(host=host)

    def move(self, target: Address) -> None:
        """Send to another balancer from the same port, as after a change of routes."""
        self._target = target
        self._targets.add(target)

    def slow_down(self, datagrams_per_s: float) -> None:
        """Limit the upload rate: one datagram at a time and a short queue. Further datagrams are lost."""
        self._interval_s = 1 / datagrams_per_s

    def speed_up(self) -> None:
        """Remove the limit of the upload rate."""
        self._interval_s = 0.0

    async def until_flowing(self, up: int = 3, down: int = 3) -> None:
        """Wait until this number of further datagrams has gone each way through the newest mapping."""
        base: dict[Mapping | None, tuple[int, int]] = {}
        if self.newest is not None and self.newest in self._mappings.values():
            base[self.newest] = (self.newest.up, self.newest.down)
        stale = self.newest if self.newest not in base else None

        def flowing() -> bool:
            mapping = self.newest
            if mapping is None or mapping is stale:
                return False
            up_before, down_before = base.get(mapping, (0, 0))
            return mapping.up - up_before >= up and mapping.down - down_before >= down

        await self._until(flowing)

    async def until_clients(self, count: int) -> None:
        """Wait until the client itself has used this number of addresses."""
        await self._until(lambda: len(self.clients) >= count)

    def close(self) -> None:
        """Close every socket."""
        for mapping in list(self._open_mappings):
            self._close(mapping)
        if self._inside.fileno() >= 0:
            self._loop.remove_reader(self._inside)
            self._inside.close()

    async def _until(self, condition: Callable[[], bool]) -> None:
        if not condition():
            waiter = self._loop.create_future()
            self._waiters.append((condition, waiter))
            await waiter

    def _wake(self) -> None:
        for entry in [entry for entry in self._waiters if entry[1].done() or entry[0]()]:
            self._waiters.remove(entry)
            if not entry[1].done():
                entry[1].set_result(None)

    def _on_client(self) -> None:
        for _ in range(_BATCH):
            try:
                datagram, client = self._inside.recvfrom(_MAX_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            self._queue.append((client[:2], datagram))
            if not self._interval_s:
                self._empty_queue()
            elif len(self._queue) == 1:
                self._loop.call_later(self._interval_s, self._serve_queue)
            elif len(self._queue) > _SLOW_QUEUE:
                self._queue.pop()
                self.lost += 1

    def _empty_queue(self) -> None:
        while self._queue:
            self._forward(*self._queue.popleft())

    def _serve_queue(self) -> None:
        if not self._interval_s:
            self._empty_queue()
        elif self._queue:
            self._forward(*self._queue.popleft())
        if self._queue:
            self._loop.call_later(self._interval_s, self._serve_queue)

    def _forward(self, client: Address, datagram: bytes) -> None:
        mapping = self._mappings.get(client) or self._map(client)
        if len(self.headers) < _HEADERS:
            self.headers.append(datagram[:_HEADER_BYTES])
        if self._delay_s:
            self._loop.call_later(self._delay_s, self._up, mapping, datagram, self._client_round + 1)
        else:
            self._up(mapping, datagram, self._client_round + 1)

    def _up(self, mapping: Mapping, datagram: bytes, round_trip: int) -> None:
        mapping.up += self._send(mapping.sock, datagram, self._target)
        self._balancer_round = max(self._balancer_round, round_trip)
        self._wake()

    def _on_balancer(self, mapping: Mapping) -> None:
        for _ in range(_BATCH):
            try:
                datagram, source = mapping.sock.recvfrom(_MAX_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            if source[:2] not in self._targets:
                self.strays.append(source[:2])
                continue
            if self._delay_s:
                self._loop.call_later(self._delay_s, self._down, mapping, datagram, source[:2], self._balancer_round)
            else:
                self._down(mapping, datagram, source[:2], self._balancer_round)

    def _down(self, mapping: Mapping, datagram: bytes, source: Address, round_trip: int) -> None:
        self._client_round = max(self._client_round, round_trip)
        self.rounds.append((self._loop.time(), round_trip))
        delivered = self._send(self._inside, datagram, mapping.client)
        if source == self._target:
            mapping.down += delivered
        self._wake()

    def _send(self, sock: socket.socket, datagram: bytes, address: Address) -> int:
        try:
            sock.sendto(datagram, address)
        except OSError:
            self.lost += 1
            return 0
        return 1

    def _map(self, client: Address) -> Mapping:
        if len(self._open_mappings) >= _OPEN_MAPPINGS:
            self._close(next(iter(self._open_mappings)))
        mapping = Mapping(client, self._open(self._outside_host))
        self._mappings[client] = mapping
        self._open_mappings[mapping] = None
        self._all.append(mapping)
        self.changes += self.newest is not None
        self.newest = mapping
        self.outsides.append(mapping.outside)
        if client not in self.clients:
            self.clients.append(client)
        self._loop.add_reader(mapping.sock, self._on_balancer, mapping)
        return mapping

    def _open(self, host: str) -> socket.socket:
        sock = socket.socket(self._family, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
        if sys.platform == "linux":  # QUIC sets "don't fragment", and a NAT preserves it
            sock.setsockopt(*_NEVER_FRAGMENT[self._family])
        sock.bind((host, 0))
        return sock

    def _close(self, mapping: Mapping) -> None:
        if mapping in self._open_mappings:
            del self._open_mappings[mapping]
            if self._mappings.get(mapping.client) is mapping:
                del self._mappings[mapping.client]
            self._loop.remove_reader(mapping.sock)
            mapping.sock.close()


class Nat:
    """All ports of one NAT. It closes them at the end of a `with` block."""

    def __init__(self) -> None:
        """Create a NAT without ports."""
        self.ports: list[NatPort] = []

    def port(
        self, target: Address, *, grace_s: float = GRACE_S, host: str | None = None, delay_s: float = 0.0
    ) -> NatPort:
        """Open a port for one client towards a balancer. host: the source. delay_s: of a datagram, one way."""
        port = NatPort(target, grace_s=grace_s, host=host, delay_s=delay_s)
        self.ports.append(port)
        return port

    def rebind_all(self) -> None:
        """Give every client a new outside port, as a NAT does that has lost its table."""
        for port in self.ports:
            port.rebind()

    def __enter__(self) -> Self:
        """Return the NAT."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all ports."""
        for port in self.ports:
            port.close()
