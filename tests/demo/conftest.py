"""Fixtures of the demo tests: backends, a check of the event loop, and small forwarders instead of balancers."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from qlb.addresses import Endpoint
from qlb.cid import CidCodec, CidParams
from qlb.demo.backends import DemoBackend, serving
from qlb.demo.http3 import Certificate, make_certificate
from qlb.routing.backends import Backend
from qlb.wire.invariants import parse

PARAMS = CidParams(config_id=1, server_id_length=3, nonce_length=9, key=bytes(range(16)))
Address = tuple[str, int]
Route = Callable[[bytes, Address], Address]


class Relay:
    """A UDP forwarder on loopback: each client address has its own socket towards each backend that it reaches."""

    def __init__(self, route: Route, *, drop_every: int = 0) -> None:
        """Listen. route: (datagram, client's address) -> backend's address. drop_every: N loses every Nth datagram."""
        self._route = route
        self._drop_every = drop_every
        self._seen = 0
        self._loop = asyncio.get_running_loop()
        self._upstreams: dict[tuple[Address, Address], socket.socket] = {}
        self._listener = self._open(self._from_client)

    @property
    def port(self) -> int:
        """Return the port on which it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def close(self) -> None:
        """Close every socket."""
        for sock in (self._listener, *self._upstreams.values()):
            self._loop.remove_reader(sock)
            sock.close()

    def _open(self, reader: Callable[[socket.socket], None]) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        self._loop.add_reader(sock, reader, sock)
        return sock

    def _from_client(self, listener: socket.socket) -> None:
        datagram, client = listener.recvfrom(65535)
        backend = self._route(datagram, client)
        if (client, backend) not in self._upstreams:

            def back(upstream: socket.socket) -> None:
                with contextlib.suppress(OSError):
                    self._send(listener, upstream.recv(65535), client)

            self._upstreams[client, backend] = self._open(back)
        self._send(self._upstreams[client, backend], datagram, backend)

    def _send(self, sock: socket.socket, datagram: bytes, address: Address) -> None:
        self._seen += 1
        if not self._drop_every or self._seen % self._drop_every:
            with contextlib.suppress(OSError):
                sock.sendto(datagram, address)


@pytest.fixture(scope="session")
def certificate() -> Certificate:
    """Return one certificate for all tests."""
    return make_certificate()


@pytest.fixture(autouse=True)
async def loop_errors() -> AsyncIterator[None]:
    """Fail any test in which a callback of the event loop raised."""
    errors: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(str(context)))
    yield
    assert errors == []


@pytest.fixture
async def backends(certificate: Certificate) -> AsyncIterator[list[DemoBackend]]:
    """Run three backends on free loopback ports. Their server IDs are ida, idb and idc."""
    wanted = [Backend(f"agent-{letter}", Endpoint("127.0.0.1", 0), {1: (b"id" + letter.encode(),)}) for letter in "abc"]
    async with serving(wanted, [PARAMS], certificate) as running:
        yield running


def by_connection_id(backends: list[DemoBackend]) -> Route:
    """Return a route like qlb's: by the server ID in the packet, or, if there is no server ID, by the client's port."""
    codec = CidCodec(PARAMS)
    owners = {b"id" + backend.name[-1:].encode(): backend.endpoint for backend in backends}

    def route(datagram: bytes, client: Address) -> Address:
        owner = owners.get(codec.decode(parse(datagram)[2]) or b"")
        return owner or backends[client[1] % len(backends)].endpoint

    return route


@pytest.fixture
async def steered_port(backends: list[DemoBackend]) -> AsyncIterator[int]:
    """Run a forwarder that routes by connection ID; return its port."""
    with contextlib.closing(Relay(by_connection_id(backends))) as relay:
        yield relay.port


@pytest.fixture
async def lossy_port(backends: list[DemoBackend]) -> AsyncIterator[int]:
    """Run the same forwarder on a bad network that loses every 20th datagram; return its port."""
    with contextlib.closing(Relay(by_connection_id(backends), drop_every=20)) as relay:
        yield relay.port


@pytest.fixture
async def scattered_port(backends: list[DemoBackend]) -> AsyncIterator[int]:
    """Run a forwarder that sends each new client address to the next backend; return its port."""
    seen: dict[Address, int] = {}

    def route(_: bytes, client: Address) -> Address:
        return backends[seen.setdefault(client, len(seen)) % len(backends)].endpoint

    with contextlib.closing(Relay(route)) as relay:
        yield relay.port


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    """Return a UDP socket on a loopback port. Closing it frees the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


@pytest.fixture
def config_file(tmp_path: Path, taken: socket.socket) -> Path:
    """Write a configuration whose only backend is on the port of ``taken``; return its path."""
    path = tmp_path / "config.yaml"
    path.write_text(
        "listen: ['127.0.0.1:4433']\n"
        "cid_configs: [{config_id: 1, server_id_length: 3, nonce_length: 9}]\n"
        "backends:\n"
        f"  - {{name: agent-a, address: '127.0.0.1:{taken.getsockname()[1]}', server_ids: {{1: '696461'}}}}\n"
    )
    return path
