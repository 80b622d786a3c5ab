"""Server IDs that are derived from addresses: the last octets of a server's IP address.

A server and its balancers compute the same ID without exchanging it. The networks of the servers must be known:
within them, no two addresses may have the same last octets (see ambiguity()).
"""

import ipaddress
from collections.abc import Sequence
from itertools import combinations

from qlb.addresses import Network, is_mapped


def server_id_of(host: str, length: int) -> bytes:
    """Return the last octets of an IP address, padded with zeros on the left if the ID is longer than the address.

    host: an IPv4 or IPv6 literal. length: server_id_length, octets.
    Raises ValueError if host is not an IP literal.
    """
    return ipaddress.ip_address(host).packed[-length:].rjust(length, b"\0")


def ambiguity(networks: Sequence[Network], length: int) -> str:
    """Return the reason why server_id_of() can be equal for two addresses in these networks; "" if it cannot.

    length: server_id_length, octets.
    """
    for network in networks:
        free_bits = network.max_prefixlen - network.prefixlen
        if free_bits > 8 * length:
            return f"addresses in {network} differ in {free_bits} bits, and a server ID has {8 * length}"
    for one, other in combinations(networks, 2):
        if _last_octets(one, length).overlaps(_last_octets(other, length)):
            return f"addresses in {one} and {other} can end in the same {length} octets"
    return ""


def is_within(host: str, networks: Sequence[Network]) -> bool:
    """Return whether an address is in one of the networks and can belong to one host.

    Broadcast, multicast and unspecified addresses cannot. An IPv4-mapped IPv6 address is rejected too.
    host: an IPv4 or IPv6 literal. Raises ValueError if it is not one.
    """
    address = ipaddress.ip_address(host)
    if address.is_multicast or address.is_unspecified or host == "255.255.255.255":
        return False
    if is_mapped(address):
        return False
    return any(address in network and not _is_broadcast(address, network) for network in networks)


def _is_broadcast(address: ipaddress.IPv4Address | ipaddress.IPv6Address, network: Network) -> bool:
    is_wide = network.version == 4 and network.prefixlen <= 30
    return is_wide and address in (network.broadcast_address, network.network_address)


def _last_octets(network: Network, length: int) -> ipaddress.IPv6Network:
    """Return the IDs of a network's addresses as a range of 128-bit numbers."""
    free_bits = network.max_prefixlen - network.prefixlen
    first = int.from_bytes(server_id_of(str(network.network_address), length))
    return ipaddress.IPv6Network((first, 128 - free_bits))
