"""Server IDs that are made of addresses: the last octets of a server's IP address.

A server and its balancers find the same ID without a word between them, where the networks that servers may be in are
known: within them, no two addresses may end alike.
"""

import ipaddress
from collections.abc import Sequence
from itertools import combinations

from qlb.addresses import Network


def server_id_of(host: str, length: int) -> bytes:
    """Return the last octets of an IP address, with zeros in front where the ID is the longer one.

    host: an IPv4 or IPv6 literal. length: server_id_length, octets.
    """
    return ipaddress.ip_address(host).packed[-length:].rjust(length, b"\0")


def ambiguity(networks: Sequence[Network], length: int) -> str:
    """Return why server_id_of() could be the same for two addresses in these networks; "" where it cannot."""
    for network in networks:
        free_bits = network.max_prefixlen - network.prefixlen
        if free_bits > 8 * length:
            return f"addresses in {network} differ in {free_bits} bits, and a server ID has {8 * length}"
    for one, other in combinations(networks, 2):
        if _last_octets(one, length).overlaps(_last_octets(other, length)):
            return f"addresses in {one} and {other} can end in the same {length} octets"
    return ""


def is_within(host: str, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks, and one host's.

    No broadcast, multicast or unspecified address, and none of IPv4 in the form of IPv6.
    """
    address = ipaddress.ip_address(host)
    if address.is_multicast or address.is_unspecified or host == "255.255.255.255":
        return False
    if address.version == 6 and address.ipv4_mapped is not None:
        return False
    return any(address in network and not _is_broadcast(address, network) for network in networks)


def _is_broadcast(address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: Network) -> bool:
    is_wide = network.version == 4 and network.prefixlen <= 30
    return is_wide and address in (network.broadcast_address, network.network_address)


def _last_octets(network: Network, length: int) -> ipaddress.IPv6Network:
    """Return the IDs of a network's addresses, as numbers of 128 bits with zeros in front."""
    free_bits = network.max_prefixlen - network.prefixlen
    first = int.from_bytes(server_id_of(str(network.network_address), length))
    return ipaddress.IPv6Network((first, 128 - free_bits))
