"""Frames for questions to the program: a datagram as a client's packet, and what the answer's packet says."""

import ipaddress
import struct
from typing import Final, NamedTuple

from qlb.routing.backends import Endpoint

_MACS: Final = bytes(12)
_TYPES: Final = {4: b"\x08\x00", 6: b"\x86\xdd"}
_UDP: Final = 17
_TTL: Final = 64
_ETHERNET_BYTES: Final = 14
_IPV4_BYTES: Final = 20
_IPV6_BYTES: Final = 40


def frame_of(datagram: bytes, client: Endpoint, service: Endpoint) -> bytes:
    """Return a datagram in UDP, IP and Ethernet, without checksums. Both addresses are of one family."""
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
    """Return what the outside of a frame says, one that the program has written."""
    packet = frame[_ETHERNET_BYTES:]
    if frame[12:_ETHERNET_BYTES] == _TYPES[6]:
        protocol, addresses = packet[6], packet[8:_IPV6_BYTES]
    else:
        protocol, addresses = packet[9], packet[12:_IPV4_BYTES]
    half = len(addresses) // 2
    source, destination = (str(ipaddress.ip_address(part)) for part in (addresses[:half], addresses[half:]))
    return Leaving(frame[:6].hex(":"), source, destination, protocol, len(packet))
