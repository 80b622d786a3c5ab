"""Several hosts on one machine: a client, a balancer and two backends, in network namespaces joined by veth pairs.

The client reaches the service over the balancer; each backend has a link of its own back to the client, so answers go
straight there. Sockets stay in the namespace that they were opened in: servers and clients live in the test's own
process, and so does its event loop. Namespaces have no names, only descriptors: nothing is left of a test that dies.
"""

import asyncio
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lab.namespace import inside, network_of_its_own, open_network

CLIENT_ADDRESSES: Final = {
    4: ("198.51.100.7", "198.51.100.8", "198.51.100.9"),
    6: ("2001:db8:c::7", "2001:db8:c::8", "2001:db8:c::9"),
}
SERVICES: Final = {4: "192.0.2.1", 6: "2001:db8::1"}
BALANCER: Final = "198.51.100.254"
"""Where the client sees the balancer itself."""
BACKENDS: Final = {4: ("10.0.1.2", "10.0.2.2"), 6: ("fd00:1::2", "fd00:2::2")}

_SIOCETHTOOL: Final = 0x8946
_ETH_P: Final = {socket.AF_INET: 0x0800, socket.AF_INET6: 0x86DD}
_HEADERS_BYTES: Final = 64
_ETHTOOL: Final = {"tx checksum": (0x17, 0), "gso": (0x24, 0), "tso": (0x1F, 0), "gro": (0x2C, 1)}
"""XDP moves packets as they are, so checksums must be there already and packets no longer than the link takes; and a
veth hands packets to XDP, or takes them from it, where the other end has GRO."""

_LINKS: Final = (
    ("client", "lb", "balancer", "in0"),
    ("balancer", "out1", "backend1", "eth0"),
    ("balancer", "out2", "backend2", "eth0"),
    ("backend1", "back", "client", "back1"),
    ("backend2", "back", "client", "back2"),
)
_COMMANDS: Final = {
    "client": """
        addr add 198.51.100.7/24 dev lb
        addr add 198.51.100.8/24 dev lb
        addr add 198.51.100.9/24 dev lb
        addr add 2001:db8:c::7/64 dev lb nodad
        addr add 2001:db8:c::8/64 dev lb nodad
        addr add 2001:db8:c::9/64 dev lb nodad
        addr add 10.1.1.1/24 dev back1
        addr add 10.1.2.1/24 dev back2
        addr add fd01:1::1/64 dev back1 nodad
        addr add fd01:2::1/64 dev back2 nodad
        route add 192.0.2.1/32 via 198.51.100.254
        route add 2001:db8::1/128 via 2001:db8:c::fe
    """,
    "balancer": """
        addr add 198.51.100.254/24 dev in0
        addr add 2001:db8:c::fe/64 dev in0 nodad
        addr add 10.0.1.1/24 dev out1
        addr add 10.0.2.1/24 dev out2
        addr add fd00:1::1/64 dev out1 nodad
        addr add fd00:2::1/64 dev out2 nodad
    """,
    **{
        f"backend{n}": f"""
        addr add 10.0.{n}.2/24 dev eth0
        addr add fd00:{n}::2/64 dev eth0 nodad
        addr add 10.1.{n}.2/24 dev back
        addr add fd01:{n}::2/64 dev back nodad
        addr add 192.0.2.1/32 dev lo
        addr add 2001:db8::1/128 dev lo nodad
        route add 198.51.100.0/24 via 10.1.{n}.1
        route add 2001:db8:c::/64 via fd01:{n}::1
    """
        for n in (1, 2)
    },
}


@dataclass(frozen=True)
class Host:
    """One network namespace. descriptor: it is there as long as this is open."""

    descriptor: int

    @property
    def path(self) -> str:
        """Where other processes find it."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command line begins with that is to run there."""
        return ("nsenter", f"--net={self.path}", "--")

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Let this thread be there: what it opens stays there, whatever it starts begins there."""
        with inside(self.descriptor):
            yield

    def ip(self, commands: str) -> None:
        """Run lines of `ip -batch`."""
        subprocess.run([*self.prefix, "ip", "-batch", "-"], input=commands, text=True, check=True)


@dataclass(frozen=True)
class Hosts:
    """All of them."""

    client: Host
    balancer: Host
    backends: tuple[Host, Host]


@contextmanager
def hosts() -> Iterator[Hosts]:
    """Make them, and unmake them in the end."""
    with ExitStack() as stack:
        by_role = {role: stack.enter_context(new_host()) for role in _COMMANDS}
        for role, interface, peer_role, peer in _LINKS:
            peer_path = by_role[peer_role].path
            by_role[role].ip(f"link add {interface} type veth peer name {peer} netns {peer_path}\n")
        for role, host in by_role.items():
            own = [i for a, i, b, j in _LINKS for r, i in ((a, i), (b, j)) if r == role]
            host.ip("link set lo up\n" + "".join(f"link set {interface} up\n" for interface in own))
            host.ip(_COMMANDS[role])
            with host.inside():
                for interface in own:
                    _tune(interface)
        yield Hosts(by_role["client"], by_role["balancer"], (by_role["backend1"], by_role["backend2"]))


@contextmanager
def new_host() -> Iterator[Host]:
    """Make a host without any link, and unmake it in the end."""
    with ExitStack() as stack:
        with network_of_its_own():
            _settle_kernel()
            made = stack.enter_context(open_network())
        yield Host(made.fileno())


@contextmanager
def datagrams_from(address: str, interfaces: Sequence[str]) -> Iterator[Counter[str]]:
    """Count, by interface of this thread's host, the UDP packets that come in from an address while a loop runs."""
    heard: Counter[str] = Counter()
    with ExitStack() as stack:
        for interface in interfaces:
            stack.enter_context(_ear(address, interface, heard))
        yield heard


@contextmanager
def _ear(address: str, interface: str, heard: Counter[str]) -> Iterator[None]:
    family, protocol_at, source_at = (socket.AF_INET6, 6, 8) if ":" in address else (socket.AF_INET, 9, 12)
    source = socket.inet_pton(family, address)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as ear:
        ear.setblocking(False)
        ear.bind((interface, _ETH_P[family]))  # of one protocol, so that nothing is heard that goes out

        def listen() -> None:
            with suppress(BlockingIOError):
                while packet := ear.recv(_HEADERS_BYTES):
                    is_udp = packet[protocol_at] == socket.IPPROTO_UDP
                    heard[interface] += is_udp and packet[source_at:].startswith(source)

        loop.add_reader(ear, listen)
        try:
            yield
            listen()
        finally:
            loop.remove_reader(ear)


def _settle_kernel() -> None:
    """Forward, take packets by whichever way they come, say nothing about addresses on lo: on interfaces to come."""
    for family, name, value in (
        *(("ipv4", name, 0) for name in ("all/rp_filter", "default/rp_filter")),
        *(
            ("ipv4", f"default/{name}", value)
            for name, value in (("forwarding", 1), ("arp_ignore", 1), ("arp_announce", 2))
        ),
        *(("ipv6", f"{name}/forwarding", 1) for name in ("all", "default")),
        ("ipv6", "default/accept_dad", 0),  # an address is not asked about for a second before it is used
    ):
        Path(f"/proc/sys/net/{family}/conf/{name}").write_text(str(value))


def _tune(interface: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command, wanted in _ETHTOOL.values():
            value = (ctypes.c_uint32 * 2)(command, wanted)
            request = struct.pack("16sP", interface.encode(), ctypes.addressof(value)).ljust(40, b"\0")
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
