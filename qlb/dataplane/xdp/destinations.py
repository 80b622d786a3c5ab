"""The addresses of backends for the program's map, and the routes to them."""

import ipaddress
import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, NamedTuple

from qlb.addresses import Endpoint, canonical_host
from qlb.dataplane.core.table import backend_flags
from qlb.dataplane.xdp.layout import NO_DESTINATION, pack_destination
from qlb.errors import PlaneUnavailable
from qlb.local_addresses import address_of, family_of
from qlb.routing.snapshot import Snapshot

_FORWARDING: Final = "/proc/sys/net/{family}/conf/{interface}/forwarding"
_NOTHING: Final = b"\0"
"""An octet to which QUIC servers do not answer."""


def check_forwarding(interface: str, families: frozenset[int]) -> None:
    """Raise PlaneUnavailable if the kernel looks up no routes for packets that arrive on an interface.

    families: 4 and 6, of the backends' addresses.
    """
    for family in sorted(families):
        name = _FORWARDING.format(family=f"ipv{family}", interface=interface)
        try:
            allowed = Path(name).read_text(encoding="ascii").strip() != "0"
        except OSError:
            continue  # this kernel does not support the family; a later call reports that
        if not allowed:
            setting = name.removeprefix("/proc/sys/").replace("/", ".")
            raise PlaneUnavailable(
                f"{setting} is 0, so the kernel looks up no route to a backend: sysctl -w {setting}=1"
            )


def source_towards(backend: Endpoint) -> str | None:
    """Return the address of this machine from which the system would send; None if there is no route."""
    backend = _as_sent(backend)
    with socket.socket(family_of(backend), socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(address_of(backend))
        except OSError:
            return None
        host: str = sock.getsockname()[0]
        return host


def wake_neighbours(backends: Sequence[Endpoint]) -> None:
    """Send an octet to each backend, so that the system looks up the next hops' MAC addresses."""
    with ExitStack() as stack:
        sockets: dict[int, socket.socket] = {}
        for backend in map(_as_sent, backends):
            family = family_of(backend)
            if family not in sockets:
                sockets[family] = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
                sockets[family].setblocking(False)
            with suppress(OSError):
                sockets[family].sendto(_NOTHING, address_of(backend))


def _as_sent(backend: Endpoint) -> Endpoint:
    """Return an endpoint with its address as on the wire: IPv4 for an IPv4-mapped one."""
    return backend._replace(host=canonical_host(backend.host))


def pack_destinations(snapshot: Snapshot) -> bytes:
    """Return the destinations of all backend indexes."""
    return b"".join(
        NO_DESTINATION
        if backend is None
        else pack_destination(backend_flags(backend), backend.endpoint.host, source_towards(backend.endpoint))
        for backend in snapshot.backends
    )


def hosts_of(snapshot: Snapshot) -> dict[str, str]:
    """Return the addresses of backends by name."""
    return {backend.name: canonical_host(backend.endpoint.host) for backend in snapshot.backends if backend is not None}


_MACS: Final = bytes(12)
_TYPES: Final = {4: b"\x08\x00", 6: b"\x86\xdd"}
_UDP: Final = 17
_TTL: Final = 64
_ETHERNET_BYTES: Final = 14
_IPV4_BYTES: Final = 20
_IPV6_BYTES: Final = 40


def frame_of(datagram: bytes, client: Endpoint, service: Endpoint) -> bytes:
    """Return a datagram with UDP, IP and Ethernet headers, without checksums. Both addresses have the same family."""
    source, destination = (ipaddress.ip_address(endpoint.host) for endpoint in (client, service))
    udp = struct.pack("!HHHH", client.port, service.port, 8 + len(datagram), 0) + datagram
    addresses = source.packed + destination.packed
    if destination.version == 6:
        head = struct.pack("!IHBB", 6 << 28, len(udp), _UDP, _TTL)
    else:
        head = struct.pack("!BBHHHBBH", 0x45, 0, _IPV4_BYTES + len(udp), 0, 0x4000, _TTL, _UDP, 0)
    return _MACS + _TYPES[destination.version] + head + addresses + udp


class Leaving(NamedTuple):
    """The outermost headers of a frame. size_bytes: of the packet in it. next_hop: a MAC address."""

    next_hop: str
    source: str
    destination: str
    protocol: int
    size_bytes: int


def read_frame(frame: bytes) -> Leaving:
    """Return the outermost headers of a frame that the program wrote."""
    packet = frame[_ETHERNET_BYTES:]
    if frame[12:_ETHERNET_BYTES] == _TYPES[6]:
        protocol, addresses = packet[6], packet[8:_IPV6_BYTES]
    else:
        protocol, addresses = packet[9], packet[12:_IPV4_BYTES]
    half = len(addresses) // 2
    source, destination = (str(ipaddress.ip_address(part)) for part in (addresses[:half], addresses[half:]))
    return Leaving(frame[:6].hex(":"), source, destination, protocol, len(packet))
