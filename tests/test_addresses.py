"""Addresses: one form for each, whatever its spelling."""

import ipaddress

import pytest

from qlb.addresses import Endpoint, canonical_address, canonical_host, canonical_network, ipv6_octets, is_mapped


@pytest.mark.parametrize(
    ("host", "text"), [("127.0.0.1", "127.0.0.1:5"), ("::1", "[::1]:5"), ("fe80::1%lo", "[fe80::1%lo]:5")]
)
def test_endpoints_are_written_as_in_the_configuration(host: str, text: str) -> None:
    """An IPv6 endpoint is written with brackets."""
    assert str(Endpoint(host, 5)) == text


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


@pytest.mark.parametrize(
    ("host", "canonical"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("::1", "::1"),
        ("::ffff:0:192.0.2.1", "::ffff:0:192.0.2.1"),
        ("::ffff:1", "::ffff:1"),
        ("fe80::1%eth0", "fe80::1%eth0"),
    ],
)
def test_canonical_hosts(host: str, canonical: str) -> None:
    """IPv4-mapped addresses change in either spelling; other addresses with the same beginning do not."""
    assert canonical_host(host) == canonical


@pytest.mark.parametrize(
    ("host", "octets"),
    [
        ("192.0.2.1", "00000000000000000000ffffc0000201"),
        ("::ffff:192.0.2.1", "00000000000000000000ffffc0000201"),
        ("2001:db8::1", "20010db8000000000000000000000001"),
        ("fe80::1%eth0", "fe800000000000000000000000000001"),
    ],
)
def test_sixteen_octets_of_either_family(host: str, octets: str) -> None:
    """An IPv4 address has 16 octets in the IPv4-mapped form; an IPv6 address has its own."""
    assert ipv6_octets(ipaddress.ip_address(host)).hex() == octets


@pytest.mark.parametrize(("host", "mapped"), [("::ffff:10.0.0.1", True), ("10.0.0.1", False), ("::1", False)])
def test_mapped_addresses(host: str, mapped: bool) -> None:
    """Only IPv6 addresses below ::ffff:0:0/96 are IPv4-mapped."""
    assert is_mapped(ipaddress.ip_address(host)) is mapped
