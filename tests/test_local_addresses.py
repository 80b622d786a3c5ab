"""The addresses of this machine, as the kernel reports them. Nothing is sent."""

import os
import socket
import subprocess

import pytest

from lab.namespace import network_of_its_own
from qlb.local_addresses import leads_back, local_hosts

LOOPBACK = ("127.0.0.1", "127.0.0.53")
FOREIGN = ("192.0.2.1", "198.51.100.7", "2001:db8::1", "fe80::1%nowhere", "224.0.0.1", "ff02::1")


def test_loopback_is_local() -> None:
    """All of 127.0.0.0/8 is local, and no address gives no request."""
    assert local_hosts((*LOOPBACK, *FOREIGN)) == frozenset(LOOPBACK)
    assert local_hosts(()) == frozenset()


def test_many_are_asked_over_one_socket() -> None:
    """Each answer is matched with its own request."""
    hosts = [f"{first}.0.{number >> 8}.{number & 255}" for number in range(1, 400) for first in (127, 198)]
    assert local_hosts(hosts) == frozenset(host for host in hosts if host.startswith("127."))


@pytest.mark.parametrize("host", [*LOOPBACK, "::1"])
def test_without_netlink_loopback_is_local_too(host: str) -> None:
    """Loopback is local on systems without netlink too."""
    assert leads_back(host)


@pytest.mark.parametrize("host", FOREIGN)
def test_without_netlink_others_are_foreign(host: str) -> None:
    """Without netlink, other addresses are not local, even without a route or an interface."""
    assert not leads_back(host)


def test_where_netlink_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is the same in a sandbox that forbids netlink."""
    monkeypatch.delattr(socket, "AF_NETLINK", raising=False)
    assert local_hosts((*LOOPBACK, *FOREIGN)) == frozenset(LOOPBACK)


OWN = ("10.0.0.1", "10.7.0.9", "fd00::1", "2001:db8:1::77", "fe80::5%d0", "127.0.0.1")
OTHERS = ("10.0.0.2", "10.0.0.255", "10.8.0.1", "fd00::2", "2001:db8:2::1", "fe80::5%d1", "fe80::6%d0", "fe80::5%d9")
SETUP = """
    ip link set lo up
    ip link add d0 type veth peer name d1
    ip link set d0 up
    ip link set d1 up
    ip addr add 10.0.0.1/24 dev d0
    ip -6 addr add fd00::1/64 dev d0 nodad
    ip -6 addr add fe80::5/64 dev d0 nodad
    ip route add local 10.7.0.0/24 dev lo
    ip -6 route add local 2001:db8:1::/64 dev lo
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
@pytest.mark.parametrize("nonlocal_bind", [0, 1])
def test_every_kind_of_local_address(nonlocal_bind: int) -> None:
    """Addresses of interfaces, link-local ones, and prefixes that are local as a whole are found.

    Without netlink, an IPv6 prefix that is local as a whole cannot be detected.
    """
    with network_of_its_own():
        allow = f"echo {nonlocal_bind} > /proc/sys/net/ipv4/ip_nonlocal_bind"
        subprocess.run(["sh", "-ec", f"{SETUP}{allow}"], check=True)
        assert local_hosts((*OWN, *OTHERS)) == frozenset(OWN)
        assert [host for host in (*OWN, *OTHERS) if leads_back(host)] == [one for one in OWN if "db8" not in one]
