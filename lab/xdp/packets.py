"""Build and parse packets octet by octet: Ethernet, VLAN, IPv4, IPv6, UDP, ICMP, with correct checksums."""

import ipaddress
import struct
from typing import Final, NamedTuple

OUR_MAC: Final = bytes.fromhex("020000000001")
THEIR_MAC: Final = bytes.fromhex("0200000000fe")
ICMP: Final = 1
IPIP: Final = 4
UDP: Final = 17
IPV6: Final = 41
ICMPV6: Final = 58
_TYPES: Final = {4: b"\x08\x00", 6: b"\x86\xdd"}


def checksum(octets: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    padded = octets + b"\0" * (len(octets) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ethernet(packet: bytes, *, vlan: int | None = None, macs: bytes = OUR_MAC + THEIR_MAC) -> bytes:
    """Return a frame around an IP packet. vlan: of a tag. macs: destination, source."""
    tag = b"" if vlan is None else b"\x81\x00" + vlan.to_bytes(2, "big")
    return macs + tag + _TYPES[packet[0] >> 4] + packet


def ip(
    source: str, destination: str, protocol: int, payload: bytes, *, ttl: int = 64, tos: int = 0, **more: bytes | int
) -> bytes:
    """Return an IPv4 or IPv6 packet. more: options, octets; fragment, IPv4's field; flow, IPv6's flow label."""
    from_, to = (ipaddress.ip_address(host).packed for host in (source, destination))
    if len(to) == 16:
        first = 6 << 28 | tos << 20 | int(more.get("flow", 0))
        return struct.pack("!IHBB", first, len(payload), protocol, ttl) + from_ + to + payload
    options = bytes(more.get("options", b""))
    length = 20 + len(options)
    head = struct.pack(
        "!BBHHHBBH4s4s",
        *(0x40 | length // 4, tos, length + len(payload), int(more.get("identification", 0))),
        *(int(more.get("fragment", 0x4000)), ttl, protocol, 0, from_, to),
    )
    head += options
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def pseudo_header(source: str, destination: str, protocol: int, length: int) -> bytes:
    """Return the pseudo-header that the checksums of UDP and ICMPv6 cover in addition to the message."""
    from_, to = (ipaddress.ip_address(host).packed for host in (source, destination))
    return from_ + to + struct.pack("!II", length, protocol)


def udp(source: tuple[str, int], destination: tuple[str, int], datagram: bytes, **more: int | bytes) -> bytes:
    """Return a UDP datagram in its IP packet. more: arguments of ip()."""
    head = struct.pack("!HHHH", source[1], destination[1], 8 + len(datagram), 0)
    sum_ = checksum(pseudo_header(source[0], destination[0], UDP, 8 + len(datagram)) + head + datagram) or 0xFFFF
    ttl, tos = int(more.pop("ttl", 64)), int(more.pop("tos", 0))
    payload = head[:6] + sum_.to_bytes(2, "big") + datagram
    return ip(source[0], destination[0], UDP, payload, ttl=ttl, tos=tos, **more)


def icmp(source: str, destination: str, kind: int, code: int, quote: bytes, *, rest: int = 0) -> bytes:
    """Return an ICMP or ICMPv6 message in its IP packet. rest: the second word of its header."""
    is_ipv6 = ":" in destination
    protocol = ICMPV6 if is_ipv6 else ICMP
    message = struct.pack("!BBHI", kind, code, 0, rest) + quote
    covered = pseudo_header(source, destination, protocol, len(message)) if is_ipv6 else b""
    message = message[:2] + checksum(covered + message).to_bytes(2, "big") + message[4:]
    return ip(source, destination, protocol, message)


class Seen(NamedTuple):
    """One parsed IP header. payload: the octets after it."""

    source: str
    destination: str
    protocol: int
    tos: int
    ttl: int
    flow: int
    fragment: int
    payload: bytes


def read_ip(packet: bytes) -> Seen:
    """Parse an IP packet. Check its length and IPv4's checksum."""
    if packet[0] >> 4 == 6:
        first, length, protocol, ttl = struct.unpack("!IHBB", packet[:8])
        assert len(packet) == 40 + length
        source, destination = (str(ipaddress.IPv6Address(packet[at : at + 16])) for at in (8, 24))
        return Seen(source, destination, protocol, first >> 20 & 0xFF, ttl, first & 0xFFFFF, 0x4000, packet[40:])
    head = packet[: 4 * (packet[0] & 15)]
    assert checksum(head) == 0
    tos, length, _, fragment, ttl, protocol = struct.unpack("!BHHHBB", head[1:10])
    assert len(packet) == length
    source, destination = (str(ipaddress.IPv4Address(head[at : at + 4])) for at in (12, 16))
    return Seen(source, destination, protocol, tos, ttl, 0, fragment, packet[len(head) :])
