"""The backend's side of direct server return: load decap.c, set its addresses, attach it and read its counters.

It runs on the server's machine, without a configuration. Once attached, the program removes the outer headers, and the
server's sockets receive the packets as clients have sent them.
"""

from __future__ import annotations

import struct
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Final

from qlb.addresses import MAPPED_PREFIX_BITS, ipv6_octets
from qlb.dataplane.xdp.attach import attach
from qlb.dataplane.xdp.bpf_object import BpfObject
from qlb.dataplane.xdp.layout import GUE_PORT
from qlb.dataplane.xdp.libbpf import Link
from qlb.errors import PlaneUnavailable

PROGRAM: Final = Path(__file__).with_name("decap.o")
DECAP: Final = "qlb_decap"
COUNTERS: Final = ("decapsulated", "not_for_us", "wrong_source", "bad_ecn", "malformed")
"""Results of a packet, in the order of decap.c."""

_PRESENT: Final = struct.pack("=I", 1)
_EVERYWHERE: Final = (IPv6Network("::/0"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecapSettings:
    """Settings that stay the same while it runs.

    services: accepted inner destinations. sources: networks of the balancers' addresses; empty allows any.
    port: of GUE, 1 to 65535. attach: auto, native or generic.
    """

    interfaces: tuple[str, ...]
    services: tuple[IPv4Address | IPv6Address, ...]
    sources: tuple[IPv4Network | IPv6Network, ...] = ()
    port: int = GUE_PORT
    attach: str = "auto"


class Decapsulator:
    """The loaded program. close() detaches it from all interfaces."""

    def __init__(self, settings: DecapSettings) -> None:
        """Load the program without attaching it. Raises PlaneUnavailable."""
        self._settings = settings
        self._stack = ExitStack()
        self._links: dict[str, Link | None] = {}
        self._reported: dict[str, str] = {}
        self._object = BpfObject(PROGRAM.read_bytes())
        self._stack.callback(self._object.close)
        try:
            self._load()
        except OSError as error:
            self.close()
            raise PlaneUnavailable(f"the XDP program cannot be loaded: {error.strerror}") from error

    @property
    def program(self) -> int:
        """The descriptor of the loaded program."""
        return self._object.program(DECAP)

    def attach(self) -> None:
        """Attach the program to every interface, or to none. Raises PlaneUnavailable with the interface."""
        with ExitStack() as attached:
            attached.callback(self._detach)
            for interface in dict.fromkeys(self._settings.interfaces):
                self._attach_to(interface)
            self._stack.push(attached.pop_all())

    def watch(self) -> tuple[str, ...]:
        """Attach the program again if it was detached. Return a sentence for each interface with a change."""
        texts = []
        for interface, link in list(self._links.items()):
            if link is not None and link.on()[0]:
                continue
            try:
                if link is not None:
                    link.close()
                    self._links[interface] = None
                self._attach_to(interface)
                text = "the XDP program was detached; qlb has attached it again"
            except PlaneUnavailable as error:
                text = f"the XDP program was detached and cannot be attached again: {error}"
            if text != self._reported.get(interface) or self._links[interface] is not None:
                texts.append(f"{interface}: {text}")
            self._reported[interface] = text
        return tuple(texts)

    def _attach_to(self, interface: str) -> None:
        self._links[interface] = attach(self.program, interface, self._settings.attach)

    def _detach(self) -> None:
        for link in self._links.values():
            if link is not None:
                link.close()
        self._links.clear()

    def read_counters(self) -> dict[str, int]:
        """Return the number of encapsulated packets by result, all of COUNTERS. Raises OSError."""
        cells = self._object.map("counters").read_per_cpu()
        cpus = len(cells) // len(COUNTERS)
        return {name: sum(cells[at * cpus : (at + 1) * cpus]) for at, name in enumerate(COUNTERS)}

    def close(self) -> None:
        """Detach the program and release everything."""
        self._stack.close()

    def _load(self) -> None:
        services = {_address_key(address) for address in self._settings.services}
        sources = {_network_key(network) for network in self._settings.sources or _EVERYWHERE}
        self._object.resize({"services": max(len(services), 1), "sources": len(sources)})
        self._object.set_constants(".rodata.settings", struct.pack("=I", self._settings.port))
        self._object.load()
        _fill(self._object, "services", services)
        _fill(self._object, "sources", sources)


def _fill(loaded: BpfObject, name: str, keys: set[bytes]) -> None:
    filled = loaded.map(name)
    for key in sorted(keys):
        filled.set(key, _PRESENT)


def _address_key(address: IPv4Address | IPv6Address) -> bytes:
    """Return struct qlb_address."""
    return ipv6_octets(address)


def _network_key(network: IPv4Network | IPv6Network) -> bytes:
    """Return struct qlb_network."""
    first = 0 if network.version == 6 else MAPPED_PREFIX_BITS
    return struct.pack("=I", first + network.prefixlen) + _address_key(network.network_address)
