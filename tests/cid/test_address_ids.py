"""Server IDs derived from addresses: equal on every node, and different for each server."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlb.addresses import canonical_address, canonical_network
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
def test_some_addresses_are_nobodys(host: str) -> None:
    """Some addresses are never accepted, however wide the allowed networks are."""
    assert not is_within(host, [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")])


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("::FFFF:a00:1", "10.0.0.1"),
        ("0:0:0:0:0:ffff:a00:1", "10.0.0.1"),
        ("::ffff:0.0.0.0", "0.0.0.0"),
        ("::1", "::1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_one_address_has_one_form(text: str, canonical: str) -> None:
    """An IPv4-mapped address becomes the IPv4 address in every spelling."""
    assert str(canonical_address(text)) == canonical


@pytest.mark.parametrize("text", ["", "a", "10.0.0", "10.0.0.1.", "::ffff:10.0.0.1/128", "::ffff:g"])
def test_what_is_no_address(text: str) -> None:
    """An invalid address raises the ValueError of ipaddress, which the caller rewords."""
    with pytest.raises(ValueError, match="address"):
        canonical_address(text)


@pytest.mark.parametrize(
    ("network", "canonical"),
    [
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:10.0.0.1/128", "10.0.0.1/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/64", "::/64"),
        ("2001:db8::/112", "2001:db8::/112"),
    ],
)
def test_one_network_has_one_form(network: str, canonical: str) -> None:
    """A network of IPv4-mapped addresses becomes IPv4, because addresses are compared as IPv4."""
    assert str(canonical_network(ipaddress.ip_network(network))) == canonical
