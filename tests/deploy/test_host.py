"""deploy/nftables and deploy/sysctl: the host's side, checked by nft and by the kernel's own names."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.places import DEPLOY, run, tool
from tests.namespace import network_of_its_own

RULES = DEPLOY / "nftables/qlb.nft"
SENT = 2000
BURST = 400
SETTINGS = DEPLOY / "sysctl/90-qlb.conf"


def settings() -> Iterator[tuple[str, str]]:
    """Yield each name and value."""
    for line in SETTINGS.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition(" = ")
            yield name, value


@pytest.mark.parametrize(("name", "value"), list(settings()))
def test_a_setting_is_one_that_linux_has(name: str, value: str) -> None:
    """By its path below /proc/sys, with as many numbers as it has there."""
    path = Path("/proc/sys") / name.replace(".", "/")
    if not Path("/proc/sys/net").is_dir():
        pytest.skip("this is no Linux")
    assert path.is_file(), f"Linux has no {name}"
    assert len(path.read_text().split()) == len(value.split())
    assert all(number.isdecimal() for number in value.split())


@pytest.fixture
def rules() -> Iterator[str]:
    """A network of its own where the rules are loaded, twice: the second time in place of the first. nft's path."""
    if os.geteuid():
        pytest.skip("network namespaces need root")
    nft = tool("nft", "nftables")
    with network_of_its_own():
        run("ip", "link", "set", "lo", "up")
        run(nft, "-c", "-f", RULES)
        for _ in range(2):
            run(nft, "-f", RULES)
        yield nft


def passed(datagram: bytes, family: int, host: str, source: str) -> int:
    """Send a datagram to the service's port SENT times; return how many have come."""
    with socket.socket(family, socket.SOCK_DGRAM) as service, socket.socket(family, socket.SOCK_DGRAM) as client:
        service.bind((host, 443))
        service.setblocking(False)
        client.bind((source, 0))
        count = 0
        for _ in range(SENT):
            client.sendto(datagram, (host, 443))
            try:
                service.recv(2048)
            except BlockingIOError:
                continue
            count += 1
        return count


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
@pytest.mark.parametrize("first_octet", [0xC3, 0xD0])
def test_new_connections_of_one_source_are_limited(rules: str, family: int, host: str, first_octet: int) -> None:
    """A burst passes and no more; what belongs to connections passes all the while."""
    some = passed(bytes((first_octet,)) + bytes(1199), family, host, host)
    assert BURST <= some < SENT
    for other in (b"\x40", b"\x5f", b"\xe0", b"\xf0"):  # short headers, Handshake, Retry
        assert passed(other + bytes(99), family, host, host) == SENT
    assert "drop" in run(rules, "list", "table", "inet", "qlb_limit")


@pytest.mark.usefixtures("rules")
def test_another_source_has_a_limit_of_its_own() -> None:
    """One flooding household takes nothing from its neighbours."""
    initial = b"\xc3" + bytes(1199)
    assert passed(initial, socket.AF_INET, "127.0.0.1", "127.0.0.1") < SENT
    assert passed(initial, socket.AF_INET, "127.0.0.1", "127.0.0.2") >= BURST


def test_quic_is_not_tracked(rules: str) -> None:
    """Both ways, to clients and to backends; only what stands there."""
    listed = run(rules, "list", "table", "inet", "qlb_notrack")
    assert listed.count("notrack") == 5, "the table's name and four rules"
