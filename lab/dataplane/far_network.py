"""A second network behind a veth pair, servers that answer, and hand-made ICMP errors.

Use it inside in_a_network_of_its_own().
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BufferedReader
from pathlib import Path
from typing import Final

from lab.dataplane.network import Network
from lab.dataplane.running import Running
from lab.namespace import inside, network_of_its_own, open_network
from lab.xdp.packets import checksum

NEAR: Final = {4: "10.9.0.1", 6: "fd09::1"}
FAR: Final = {4: "10.9.0.2", 6: "fd09::2"}
_PREFIX: Final = {4: 24, 6: 64}
_MOST_S: Final = 60
_PAUSE_S: Final = 0.02
"""Between two datagrams of talk()."""


def command(*words: str) -> str:
    """Run a command in the network of this thread and return its output. Raises RuntimeError with the output."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


def add_address(address: str, device: str) -> None:
    """Add an address to a device. It is usable at once."""
    family = 6 if ":" in address else 4
    flags = ["nodad"] if family == 6 else []
    command("ip", "address", "add", f"{address}/{_PREFIX[family]}", "dev", device, *flags)


def remove_address(address: str, device: str) -> None:
    """Remove an address from a device."""
    command("ip", "address", "delete", f"{address}/{_PREFIX[6 if ':' in address else 4]}", "dev", device)


def set_sysctl(name: str, value: str) -> None:
    """Set a value below /proc/sys."""
    Path("/proc/sys", *name.split(".")).write_text(value)


@dataclass
class FarNetwork:
    """The network at the other end of device up0. Its device is eth0."""

    handle: BufferedReader
    network: Network

    def command(self, *words: str) -> str:
        """Run a command in the far network."""
        with inside(self.handle.fileno()):
            return command(*words)

    def socket(self, host: str, port: int = 0) -> socket.socket:
        """Bind a non-blocking UDP socket in the far network."""
        with inside(self.handle.fileno()):
            return self.network.socket(host, port)


@contextmanager
def far_network(network: Network) -> Iterator[FarNetwork]:
    """Create the far network, with the addresses NEAR and FAR."""
    with network_of_its_own():
        handle = open_network()
        command("ip", "link", "set", "lo", "up")
    with handle:
        command("ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0")
        command("ip", "link", "set", "eth0", "netns", f"/proc/{os.getpid()}/fd/{handle.fileno()}")
        command("ip", "link", "set", "up0", "up")
        far = FarNetwork(handle, network)
        far.command("ip", "link", "set", "eth0", "up")
        for address in NEAR.values():
            add_address(address, "up0")
        with inside(handle.fileno()):
            for address in FAR.values():
                add_address(address, "eth0")
        yield far


@dataclass
class Echo:
    """A server that sends each datagram back while ``answers`` returns true. senders: of all datagrams, in order."""

    sock: socket.socket
    answers: Callable[[tuple[str, int]], bool] = lambda _: True
    senders: list[tuple[str, int]] = field(default_factory=list)

    def __enter__(self) -> Echo:
        """Start answering."""
        asyncio.get_running_loop().add_reader(self.sock, self._read)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop answering."""
        asyncio.get_running_loop().remove_reader(self.sock)

    def _read(self) -> None:
        try:
            datagram, sender = self.sock.recvfrom(65_535)
        except OSError:
            return
        self.senders.append(sender[:2])
        if self.answers(sender[:2]):
            self.sock.sendto(datagram, sender)


async def talk(qlb: Running, client: socket.socket, datagram: bytes, until: Callable[[], bool]) -> None:
    """Send a datagram repeatedly, for at most 60 s, until the condition is true."""
    async with asyncio.timeout(_MOST_S):
        while not until():
            client.sendto(datagram, qlb.service)
            await asyncio.sleep(_PAUSE_S)


async def talk_until_answered(qlb: Running, client: socket.socket, datagram: bytes) -> None:
    """Send a datagram repeatedly, for at most 60 s, until an answer comes. Ignore answers that already wait."""
    while _received(client):
        pass
    await talk(qlb, client, datagram, lambda: _received(client))


def _received(client: socket.socket) -> bool:
    try:
        return bool(client.recv(65_535))
    except BlockingIOError:
        return False


def send_icmp(kind: int, code: int, local: tuple[str, int], remote: tuple[str, int]) -> None:
    """Send this machine an ICMP error about a datagram that a UDP socket has sent. local, remote: of that socket."""
    if ":" in local[0]:
        header = struct.pack("!IHBB", 6 << 28, 16, socket.IPPROTO_UDP, 64) + _packed(local) + _packed(remote)
    else:
        header = struct.pack("!BBHHHBBH", 0x45, 0, 36, 1, 0x4000, 64, socket.IPPROTO_UDP, 0)
        header += _packed(local) + _packed(remote)
    udp = struct.pack("!HHHH", local[1], remote[1], 16, 0)
    message = struct.pack("!BBHI", kind, code, 0, 1400) + header + udp
    if ":" in local[0]:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            raw.sendto(message, (local[0], 0))
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.sendto(message[:2] + checksum(message).to_bytes(2, "big") + message[4:], (local[0], 0))


def _packed(address: tuple[str, int]) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, address[0])
