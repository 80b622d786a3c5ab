"""Tests of deploy/nftables and deploy/sysctl, with nft and with the kernel's own names."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from lab.deploy.tools import DEPLOY, run, tool
from lab.namespace import network_of_its_own

pytestmark = pytest.mark.network

RULES = DEPLOY / "nftables/qlb.nft"
BURST = 400
"""New flows that one source may open at once. The tests' rules allow no further ones for an hour."""
OVERALL_BURST = 20_000
REFLECTION_PORTS = (53, 123, 1900, 5353, 11211)
"""Source ports that services may block. Spec: RFC 9308, section 8.1."""
SETTINGS = DEPLOY / "sysctl/90-qlb.conf"


def settings() -> Iterator[tuple[str, str]]:
    """Yield each name and value of the sample."""
    for line in SETTINGS.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.partition(" = ")
            yield name, value


@pytest.mark.parametrize(("name", "value"), list(settings()))
def test_linux_has_each_setting(name: str, value: str) -> None:
    """Each setting exists below /proc/sys, with the same number of values."""
    path = Path("/proc/sys") / name.replace(".", "/")
    if not Path("/proc/sys/net").is_dir():
        pytest.skip("this system is not Linux")
    assert path.is_file(), f"Linux has no {name}"
    if "," not in value:  # the length of a list may vary
        assert len(path.read_text().split()) == len(value.split())
    assert all(number.isdecimal() for number in value.replace(",", " ").split())


def test_local_ports_exclude_those_that_servers_drop() -> None:
    """With the shipped settings, sockets get every port of the range except the reserved ones."""
    if os.geteuid():
        pytest.skip("network namespaces need root")
    values = dict(settings())
    reserved = {int(port) for port in values["net.ipv4.ip_local_reserved_ports"].split(",")}
    assert reserved >= {port for port in REFLECTION_PORTS if port >= 1024}
    with network_of_its_own():
        run("ip", "link", "set", "lo", "up")
        folder = Path("/proc/sys/net/ipv4")
        (folder / "ip_local_reserved_ports").write_text(values["net.ipv4.ip_local_reserved_ports"])
        for port in reserved:
            (folder / "ip_local_port_range").write_text(f"{port - 1} {port + 1}")
            used = set()
            with contextlib.ExitStack() as stack:
                for _ in range(2):
                    one = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                    one.connect(("127.0.0.1", 4433))
                    used.add(one.getsockname()[1])
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as third, pytest.raises(BlockingIOError):
                    third.connect(("127.0.0.1", 4433))
            assert used == {port - 1, port + 1}


def slow_rules() -> str:
    """Return the rules with their bursts, but with rates so low that they allow nothing more during a test."""
    text = RULES.read_text()
    for rate in ("100/second", "5000/second"):
        assert rate in text
        text = text.replace(rate, "1/hour")
    return text


@pytest.fixture
def rules(tmp_path: Path) -> Iterator[str]:
    """The path of nft, in a network where the rules were loaded twice: the second load replaces the first."""
    if os.geteuid():
        pytest.skip("network namespaces need root")
    nft = tool("nft", "nftables")
    path = tmp_path / "slow.nft"
    path.write_text(slow_rules())
    with network_of_its_own():
        run("ip", "link", "set", "lo", "up")
        run(nft, "-c", "-f", RULES)
        for _ in range(2):
            run(nft, "-f", path)
        yield nft


class Service:
    """The service's socket, and a factory of clients."""

    def __init__(self, family: int) -> None:
        """Bind the service's socket. family: of the addresses."""
        self.family = family
        self.host = "127.0.0.1" if family == socket.AF_INET else "::1"
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.bind((self.host, 443))
        self.socket.setblocking(False)
        self._follower = socket.socket(family, socket.SOCK_DGRAM)
        self._follower.bind((self.host, 0))
        self._follower.settimeout(60)

    def __enter__(self) -> Self:
        """Return the service."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the sockets."""
        self.socket.close()
        self._follower.close()

    def client(self, source: str | None = None, port: int = 0) -> socket.socket:
        """Return a client's socket, connected to the service."""
        client = socket.socket(self.family, socket.SOCK_DGRAM)
        client.bind((source or self.host, port))
        client.connect((self.host, 443))
        return client

    def gets(self, client: socket.socket, datagram: bytes) -> bool:
        """Send a datagram; return whether the service has received it."""
        client.send(datagram)
        if self._received():
            return True
        # A busy kernel delivers late but in order: once an unfiltered datagram has arrived, an earlier one must have.
        self._follower.sendto(b"follower", self._follower.getsockname())
        self._follower.recv(100)
        return self._received()

    def _received(self) -> bool:
        try:
            self.socket.recv(2048)
        except BlockingIOError:
            return False
        return True

    def new_flows(self, datagram: bytes, count: int, source: str | None = None) -> int:
        """Send a datagram from ``count`` ports of a source; return how many the service has received."""
        passed = 0
        for port in range(10_000, 10_000 + count):
            with self.client(source, port) as client:
                passed += self.gets(client, datagram)
        return passed


FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
FIRST_DATAGRAMS = {
    "Initial of version 1": bytes.fromhex("c3 00000001") + bytes(1195),
    "Initial of version 2": bytes.fromhex("d3 6b3343cf") + bytes(1195),
    "Initial without the fixed bit": bytes.fromhex("83 00000001") + bytes(1195),
    "Handshake": bytes.fromhex("e3 00000001") + bytes(95),
    "0-RTT": bytes.fromhex("d3 00000001") + bytes(95),
    "Retry": bytes.fromhex("f3 00000001") + bytes(95),
    "unknown version": bytes.fromhex("f0 1a2a3a4a") + bytes(1195),
    "Version Negotiation": bytes.fromhex("80 00000000") + bytes(95),
    "short header": b"\x40" + bytes(99),
    "short header without the fixed bit": b"\x1f" + bytes(99),
    "one octet": b"\xff",
}


@FAMILIES
@pytest.mark.parametrize("kind", FIRST_DATAGRAMS)
@pytest.mark.usefixtures("rules")
def test_new_flows_of_one_source_are_limited(family: int, kind: str) -> None:
    """For any first octet, exactly a burst of new flows passes."""
    with Service(family) as service:
        assert service.new_flows(FIRST_DATAGRAMS[kind], BURST + 100) == BURST


@FAMILIES
@pytest.mark.usefixtures("rules")
def test_live_flows_are_never_limited(family: int) -> None:
    """An admitted flow still passes while its own source, and all sources together, are over their limits."""
    with Service(family) as service, service.client() as live, service.client() as late:
        assert service.gets(live, b"\xc3" + bytes(1199))
        service.new_flows(b"\x40" + bytes(99), BURST + 10)
        assert not service.gets(late, b"\xc3" + bytes(1199))
        for datagram in FIRST_DATAGRAMS.values():
            assert all(service.gets(live, datagram) for _ in range(BURST))


@FAMILIES
@pytest.mark.usefixtures("rules")
def test_an_answer_of_the_service_admits_a_flow(family: int) -> None:
    """A call that is older than the rules passes after the service's next answer."""
    with Service(family) as service, service.client() as call:
        service.new_flows(b"\x40" + bytes(99), BURST + 10)
        assert not service.gets(call, b"\x40" + bytes(99))
        service.socket.sendto(b"answer", call.getsockname())
        assert all(service.gets(call, b"\x40" + bytes(99)) for _ in range(BURST))


@pytest.mark.usefixtures("rules")
def test_each_source_has_its_own_limit() -> None:
    """A source that floods does not use up the limit of another source."""
    with Service(socket.AF_INET) as service:
        assert service.new_flows(b"\xc3" + bytes(1199), BURST + 10) == BURST
        assert service.new_flows(b"\xc3" + bytes(1199), BURST + 10, "127.0.0.2") == BURST


def test_an_ipv6_source_is_a_network(rules: str) -> None:
    """Addresses of one /64 share a limit; another /64 has its own."""
    addresses = [f"2001:db8:0:{network}::{host:x}" for network in (1, 2) for host in range(1, 5)]
    for address in addresses:
        run("ip", "address", "add", f"{address}/128", "dev", "lo", "nodad")
    with Service(socket.AF_INET6) as service:
        passed = [service.new_flows(b"\x40", BURST // 2, address) for address in addresses]
    assert passed == [BURST // 2, BURST // 2, 0, 0] * 2
    assert "2001:db8:0:1::" in run(rules, "list", "set", "inet", "qlb_limit", "sources_v6")


def test_all_sources_together_have_a_limit(rules: str) -> None:
    """The overall limit covers spoofed sources that differ in each datagram; live flows still pass."""
    with Service(socket.AF_INET) as service, service.client() as live:
        assert service.gets(live, b"\xc3" + bytes(1199))
        sources = (f"127.{1 + n // 65536}.{n // 256 % 256}.{n % 256}" for n in range(OVERALL_BURST + 200))
        passed = sum(service.new_flows(b"\x40", 1, source) for source in sources)
        assert passed == OVERALL_BURST - 1
        assert all(service.gets(live, b"\x40") for _ in range(BURST))
    assert "drop" in run(rules, "list", "table", "inet", "qlb_limit")


def test_other_ports_are_unaffected(rules: str) -> None:
    """Packets to other ports have no limit and create no entry."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 5353))
        other.settimeout(60)
        for _ in range(BURST + 10):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"question", ("127.0.0.1", 5353))
                assert other.recv(100) == b"question"
    assert "127.0.0.1" not in run(rules, "list", "set", "inet", "qlb_limit", "flows_v4")


def test_quic_is_not_tracked(rules: str) -> None:
    """Packets to and from clients and backends are not tracked, and only these."""
    listed = run(rules, "list", "table", "inet", "qlb_notrack")
    assert listed.count("notrack") == 5, "the table's name and four rules"
