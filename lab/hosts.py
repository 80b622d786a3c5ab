"""Several hosts on one machine: a client, a balancer and two backends, as network namespaces joined by veth pairs.

The client reaches the service through the balancer. Each backend has its own link to the client, so its answers go
there directly. A socket stays in the namespace in which it was opened. Therefore servers, clients and their event loop
run in the test's own process. Namespaces have descriptors but no names, so a test that dies leaves none behind.
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
"""The balancer's own address on the client's link."""
BACKENDS: Final = {4: ("10.0.1.2", "10.0.2.2"), 6: ("fd00:1::2", "fd00:2::2")}

_SIOCETHTOOL: Final = 0x8946
_ETH_P: Final = {socket.AF_INET: 0x0800, socket.AF_INET6: 0x86DD}
_HEADERS_BYTES: Final = 64
_ETHTOOL: Final = {"tx checksum": (0x17, 0), "gso": (0x24, 0), "tso": (0x1F, 0), "gro": (0x2C, 1)}
"""Settings that XDP needs.

XDP moves packets unchanged. So their checksums must be complete, and packets must not be longer than the link allows. A
veth passes packets to and from XDP only if the other end has GRO.
"""

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
    """One network namespace. It exists as long as the descriptor is open."""

    descriptor: int

    @property
    def path(self) -> str:
        """Return the path by which other processes can open the namespace."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    @property
    def prefix(self) -> tuple[str, ...]:
        """Return the start of a command line that runs a program there."""
        return ("nsenter", f"--net={self.path}", "--")

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Move this thread into the namespace: new sockets and new processes belong there."""
        with inside(self.descriptor):
            yield

    def ip(self, commands: str) -> None:
        """Run lines of `ip -batch`."""
        subprocess.run([*self.prefix, "ip", "-batch", "-"], input=commands, text=True, check=True)


@dataclass(frozen=True)
class Hosts:
    """All hosts of a test."""

    client: Host
    balancer: Host
    backends: tuple[Host, Host]


@contextmanager
def hosts() -> Iterator[Hosts]:
    """Create the hosts, and remove them at the end."""
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
    """Create a host without links, and remove it at the end."""
    with ExitStack() as stack:
        with network_of_its_own():
            _settle_kernel()
            made = stack.enter_context(open_network())
        yield Host(made.fileno())


@contextmanager
def datagrams_from(address: str, interfaces: Sequence[str]) -> Iterator[Counter[str]]:
    """Count, by interface of this thread's host, the UDP packets that arrive from an address while a loop runs."""
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        for interface in interfaces:
            stack.enter_context(_counting(address, interface, counts))
        yield counts


@contextmanager
def _counting(address: str, interface: str, counts: Counter[str]) -> Iterator[None]:
    family, protocol_at, source_at = (socket.AF_INET6, 6, 8) if ":" in address else (socket.AF_INET, 9, 12)
    source = socket.inet_pton(family, address)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((interface, _ETH_P[family]))  # with a protocol, so that outgoing packets are not received

        def read_packets() -> None:
            with suppress(BlockingIOError):
                while packet := sock.recv(_HEADERS_BYTES):
                    is_udp = packet[protocol_at] == socket.IPPROTO_UDP
                    counts[interface] += is_udp and packet[source_at:].startswith(source)

        loop.add_reader(sock, read_packets)
        try:
            yield
            read_packets()
        finally:
            loop.remove_reader(sock)


def _settle_kernel() -> None:
    """Set defaults for new interfaces: forward, accept packets on any link, and do not announce addresses of lo."""
    for family, name, value in (
        *(("ipv4", name, 0) for name in ("all/rp_filter", "default/rp_filter")),
        *(
            ("ipv4", f"default/{name}", value)
            for name, value in (("forwarding", 1), ("arp_ignore", 1), ("arp_announce", 2))
        ),
        *(("ipv6", f"{name}/forwarding", 1) for name in ("all", "default")),
        ("ipv6", "default/accept_dad", 0),  # an address can be used at once, without a second of duplicate detection
    ):
        Path(f"/proc/sys/net/{family}/conf/{name}").write_text(str(value))


def _tune(interface: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command, wanted in _ETHTOOL.values():
            value = (ctypes.c_uint32 * 2)(command, wanted)
            request = struct.pack("16sP", interface.encode(), ctypes.addressof(value)).ljust(40, b"\0")
            fcntl.ioctl(sock, _SIOCETHTOOL, request)
