"""Addresses in one form: endpoints, 4-tuples and networks, with IPv4-mapped IPv6 addresses written as IPv4.

Pure functions. The addresses of this machine are in qlb/local_addresses.py.
"""

import functools
import ipaddress
from typing import Final, NamedTuple

FourTuple = tuple[str, int, str, int]
"""(client host, client port, service host, service port); hosts are IP literals."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAPPED_PREFIX_BITS: Final = 96
"""Bits in front of the IPv4 address in an IPv4-mapped IPv6 address. Spec: RFC 4291, section 2.5.5.2."""
_MAPPED: Final = "::ffff:"
_MAPPED_OCTETS: Final = bytes(10) + b"\xff\xff"


class Endpoint(NamedTuple):
    """An address as the socket calls expect it. host: an IPv4 or IPv6 literal. port: 0 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return the form that the configuration uses: ``127.0.0.1:4433``, ``[::1]:4433``."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def is_mapped(address: Address) -> bool:
    """Return whether an address is an IPv4-mapped IPv6 address. Spec: RFC 4291, section 2.5.5.2."""
    return isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None


def canonical_address(text: str) -> Address:
    """Return the address that a text spells in any form. An IPv4-mapped IPv6 address becomes the IPv4 address.

    Raises ValueError if the text is not an address.
    Spec: RFC 4291, section 2.5.5.2.
    """
    address = ipaddress.ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def canonical_host(host: str) -> str:
    """Return a host in the form that 4-tuples use: an IPv4-mapped IPv6 literal as IPv4, any other host unchanged.

    One address is one flow, however a socket spells it. The C core compares octets and follows the same rule.
    Spec: RFC 4291, section 2.5.5.2.
    """
    return _unmapped(host) if host.startswith(_MAPPED) else host


def canonical_network(network: Network) -> Network:
    """Return a network of IPv4-mapped IPv6 addresses as the IPv4 network, and any other network unchanged."""
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is None or network.prefixlen < MAPPED_PREFIX_BITS:
        return network
    return ipaddress.IPv4Network((mapped, network.prefixlen - MAPPED_PREFIX_BITS))


def ipv6_octets(address: Address) -> bytes:
    """Return an address as 16 octets: an IPv4 address in the IPv4-mapped form. Spec: RFC 4291, section 2.5.5.2."""
    return address.packed if address.version == 6 else _MAPPED_OCTETS + address.packed


@functools.lru_cache(maxsize=1024)
def packed_host(host: str) -> bytes:
    """Return the octets of an address literal: 4, or 16 for IPv6. An IPv4-mapped address has 4.

    Cached: reading a literal takes 1.5 µs, and the service's own addresses repeat in every 4-tuple.
    Raises ValueError if host is not an IP literal.
    """
    return canonical_address(host).packed


@functools.lru_cache(maxsize=1024)
def _unmapped(host: str) -> str:
    mapped = ipaddress.IPv6Address(host).ipv4_mapped
    return str(mapped) if mapped else host
