"""Server IDs derived from addresses: equal on every node, and different for each server."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlb.cid.address_ids import ambiguity, is_within, server_id_of


@given(st.ip_addresses(), st.integers(1, 15))
def test_the_low_octets(address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int) -> None:
    """The ID has the configured length, and contains the whole address if it fits."""
    found = server_id_of(str(address), length)
    assert len(found) == length
    assert int.from_bytes(found) == int(address) % (1 << 8 * length)


@given(st.integers(0, 255), st.integers(0, 255), st.integers(1, 3))
def test_what_is_not_ambiguous_is_distinct(one: int, other: int, length: int) -> None:
    """Addresses have different IDs exactly if ambiguity() accepts their networks."""
    networks = [ipaddress.ip_network(f"10.{one}.7.0/28"), ipaddress.ip_network(f"10.{other}.7.0/28")]
    addresses = [str(address) for network in networks for address in network]
    distinct = len({server_id_of(address, length) for address in addresses}) == len(addresses)
    assert distinct == (not ambiguity(networks, length))


@pytest.mark.parametrize(
    ("networks", "length", "reason"),
    [
        (["10.0.0.0/16"], 2, ""),
        (["10.0.0.0/16"], 1, "differ in 16 bits, and a server ID has 8"),
        (["2001:db8::/64"], 8, ""),
        (["2001:db8::/48"], 8, "differ in 80 bits"),
        (["10.0.0.0/16", "10.1.0.0/16"], 2, "can end in the same 2 octets"),
        (["10.0.0.0/16", "10.1.0.0/16"], 3, ""),
        (["10.0.0.0/16", "2001:db8::/112"], 4, ""),
        (["0.0.0.0/16", "2001:db8::/112"], 4, "can end in the same 4 octets"),
        (["10.0.0.0/16", "10.0.9.0/24"], 4, "can end in the same 4 octets"),
    ],
)
def test_ambiguity(networks: list[str], length: int, reason: str) -> None:
    """Networks that are too large for their IDs, or whose addresses end alike, are rejected."""
    found = ambiguity(list(map(ipaddress.ip_network, networks)), length)
    assert reason in found
    assert bool(reason) == bool(found)


@pytest.mark.parametrize(
    ("host", "within"),
    [
        ("10.0.0.1", True),
        ("10.0.0.0", False),
        ("10.0.0.255", False),
        ("10.0.1.1", False),
        ("10.0.9.0", True),
        ("10.0.9.1", True),
        ("2001:db8::", True),
        ("2001:db8::ffff", True),
        ("::ffff:10.0.0.1", False),
    ],
)
def test_within(host: str, within: bool) -> None:
    """An address is within a network if it can belong to one host; small networks have no broadcast address."""
    networks = list(map(ipaddress.ip_network, ("10.0.0.0/24", "10.0.9.0/31", "2001:db8::/112")))
    assert is_within(host, networks) is within


@pytest.mark.parametrize("host", ["0.0.0.0", "255.255.255.255", "224.0.0.1", "::", "ff02::1", "::ffff:10.0.0.1"])
def test_some_addresses_are_invalid(host: str) -> None:
    """Some addresses are never accepted, however wide the allowed networks are."""
    assert not is_within(host, [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")])
