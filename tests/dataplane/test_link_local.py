"""Special addresses: link-local ones, those that only a route makes local, and those that are added later.

Each test runs in its own empty network: one veth pair with both ends in it.
"""

import asyncio
import socket
import subprocess
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from lab.dataplane.network import FOUR_PASS, backend, cid_of, orders, receive, short_header
from lab.dataplane.running import Run, Running
from lab.memory_plane import MemoryPlane
from lab.namespace import in_a_network_of_its_own
from qlb.addresses import Endpoint
from qlb.dataplane.sockets import bound_endpoint, open_listener
from qlb.local_addresses import address_of, is_local
from qlb.routing.backends import Backend
from qlb.routing.sums import total_outcomes

TO_B0: Final = short_header(cid_of(FOUR_PASS, 0))
SETUP: Final = """
link add v0 type veth peer name v1
link set v0 up
link set v1 up
-6 addr add fe80::1/64 dev v0 nodad
-6 addr add fe80::1/64 dev v1 nodad
-6 addr add fd01::1/64 dev v0 nodad
-6 route add local 2001:db8:1::/64 dev lo
route add local 203.0.113.0/24 dev lo
"""
LINK_LOCAL: Final = "fe80::1%v0"
UNROUTABLE: Final = short_header(b"\xff" * 8)


def ip(commands: str) -> None:
    """Run ip commands in this thread's network."""
    for command in commands.strip().splitlines():
        subprocess.run(["ip", *command.split()], check=True, capture_output=True)


def in_network(work: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine in its own prepared network."""

    async def main() -> None:
        ip(SETUP)
        await work()

    in_a_network_of_its_own(main)


def open_socket(stack: ExitStack, host: str) -> socket.socket:
    """Bind a non-blocking UDP socket. host: may have a %scope."""
    sock = stack.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM))
    sock.setblocking(False)
    sock.bind(address_of(Endpoint(host, 0)))
    return sock


async def there_and_back(qlb: Running, server: socket.socket, client: socket.socket, host: str) -> str:
    """Send a packet to the service at a host, and an answer back. Return the host that the answer came from."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendto(client, TO_B0, address_of(Endpoint(host, qlb.service.port)))
    datagram, reply_to = await receive(server)
    assert datagram == TO_B0
    await loop.sock_sendto(server, b"answer", reply_to)
    answer, sender = await receive(client)
    assert answer == b"answer"
    return sender[0]


@pytest.mark.parametrize(
    ("listen", "sent_to", "client"),
    [
        pytest.param("::", "2001:db8:1::77", "fd01::1", id="a prefix behind the wildcard"),
        pytest.param("0.0.0.0", "203.0.113.77", "127.0.0.1", id="a prefix behind the IPv4 wildcard"),
        pytest.param("2001:db8:1::77", "2001:db8:1::77", "fd01::1", id="one address of a prefix"),
        pytest.param("203.0.113.77", "203.0.113.77", "127.0.0.1", id="one IPv4 address of a prefix"),
        pytest.param("::", LINK_LOCAL, LINK_LOCAL, id="link-local to link-local behind the wildcard"),
        pytest.param("::", LINK_LOCAL, "fd01::1", id="global to link-local behind the wildcard"),
        pytest.param("::", "fd01::1", LINK_LOCAL, id="link-local to global behind the wildcard"),
        pytest.param(LINK_LOCAL, LINK_LOCAL, LINK_LOCAL, id="a link-local listener"),
        pytest.param(LINK_LOCAL, LINK_LOCAL, "fd01::1", id="a link-local listener and a global client"),
    ],
)
def test_answers_come_from_the_address_that_was_sent_to(running: Run, listen: str, sent_to: str, client: str) -> None:
    """Answers come from the address that the client sent to, for all kinds of service and client addresses."""

    async def work() -> None:
        with ExitStack() as stack:
            server, asking = open_socket(stack, "127.0.0.1"), open_socket(stack, client)
            async with running(orders([backend(0, bound_endpoint(server))]), listen) as qlb:
                assert await there_and_back(qlb, server, asking, sent_to) == sent_to.partition("%")[0]

    in_network(work)


def test_the_interface_is_no_part_of_the_hash(running: Run) -> None:
    """New connections to a link-local service reach the backend that the 4-tuple without the interface selects."""

    async def work() -> None:
        with ExitStack() as stack:
            servers = [open_socket(stack, "127.0.0.1") for _ in range(3)]
            wanted = orders([backend(number, bound_endpoint(server)) for number, server in enumerate(servers)])
            async with running(wanted, "::") as qlb:
                for _ in range(20):
                    asking = open_socket(stack, LINK_LOCAL)
                    client = asking.getsockname()
                    four_tuple = (client[0], client[1], "fe80::1", qlb.service.port)
                    _, index = MemoryPlane(wanted).handle(UNROUTABLE, four_tuple, 0.0)
                    destination = address_of(Endpoint(LINK_LOCAL, qlb.service.port))
                    await asyncio.get_running_loop().sock_sendto(asking, UNROUTABLE, destination)
                    assert (await receive(servers[index]))[0] == UNROUTABLE

    in_network(work)


def test_one_link_local_address_on_two_interfaces(running: Run) -> None:
    """Each client is answered by the interface on which its packet arrived."""

    async def work() -> None:
        with ExitStack() as stack:
            server = open_socket(stack, "127.0.0.1")
            async with running(orders([backend(0, bound_endpoint(server))]), "::") as qlb:
                for device in ("v0", "v1", "v0"):
                    asking = open_socket(stack, f"fe80::1%{device}")
                    await there_and_back(qlb, server, asking, f"fe80::1%{device}")

    in_network(work)


def test_a_link_local_backend(running: Run) -> None:
    """A link-local backend is reached by its interface, and its answers return."""

    async def work() -> None:
        with ExitStack() as stack:
            server, asking = open_socket(stack, LINK_LOCAL), open_socket(stack, "127.0.0.1")
            one = backend(0, bound_endpoint(server))
            assert one.endpoint.host == LINK_LOCAL
            async with running(orders([one])) as qlb:
                await there_and_back(qlb, server, asking, "127.0.0.1")

    in_network(work)


def test_a_backend_whose_interface_is_added_later(running: Run) -> None:
    """Until the interface exists, packets are dropped and counted; later orders use the interface."""

    async def work() -> None:
        with ExitStack() as stack:
            asking = open_socket(stack, "127.0.0.1")
            wanted = orders([Backend("b0", Endpoint("fe80::5%later", 4433), {1: (bytes(4),)})])
            async with running(wanted) as qlb:
                await qlb.send(asking, TO_B0)
                await qlb.until(lambda: sum(total_outcomes([qlb.counters])) == 1)
                ip("link add later type veth peer name other")
                ip("link set later up\nlink set other up\n-6 addr add fe80::5/64 dev later nodad")
                server = open_socket(stack, "fe80::5%later")
                moved = orders([Backend("b0", bound_endpoint(server), {1: (bytes(4),)})], generation=2)
                qlb.plane.apply(moved)
                await there_and_back(qlb, server, asking, "127.0.0.1")

    in_network(work)


def test_an_address_that_is_added_later(running: Run) -> None:
    """A listener can be bound first; it serves as soon as an interface has the address."""

    async def work() -> None:
        with ExitStack() as stack:
            server, asking = open_socket(stack, "127.0.0.1"), open_socket(stack, "fd01::1")
            host = "2001:db8:2::1"
            async with running(orders([backend(0, bound_endpoint(server))]), host) as qlb:
                assert not is_local(qlb.service)
                ip(f"-6 addr add {host}/128 dev v1 nodad")
                assert is_local(qlb.service)
                await there_and_back(qlb, server, asking, host)

    in_network(work)


def test_a_tentative_address_is_not_local_yet() -> None:
    """During duplicate address detection, an address is not local, but a listener can be bound to it."""

    async def work() -> None:
        ip("link add t0 type veth peer name t1\nlink set t0 up\nlink set t1 up")
        for name, value in (("accept_dad", "1"), ("dad_transmits", "600")):
            Path(f"/proc/sys/net/ipv6/conf/t0/{name}").write_text(value, encoding="ascii")
        ip("-6 addr add fd09::1/64 dev t0")
        with open_listener(Endpoint("fd09::1", 0)) as sock:
            assert not is_local(bound_endpoint(sock))
        with pytest.raises(OSError, match="Cannot assign"):
            open_listener(Endpoint("fd09::1", 0), freebind=False)

    in_network(work)


def test_what_a_route_makes_local_is_local() -> None:
    """Addresses of a prefix that a route makes local are local, although no interface has them."""

    async def work() -> None:
        found = {host: is_local(Endpoint(host, 443)) for host in ("2001:db8:1::9", "203.0.113.9", LINK_LOCAL, "::")}
        assert all(found.values()), found
        missing = {host: is_local(Endpoint(host, 443)) for host in ("2001:db8:3::9", "198.51.100.9", "fe80::1%none")}
        assert not any(missing.values()), missing

    in_network(work)
