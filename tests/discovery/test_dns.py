"""DNS as a source of backends: a real server on loopback answers, refuses, cuts short and stays silent."""

import ipaddress
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from qlb.discovery import dns
from qlb.discovery.choice import Limits
from qlb.discovery.dns import DnsSettings, DnsSource
from qlb.discovery.source import DiscoveryError
from qlb.errors import ConfigError
from qlb.routing.backends import Endpoint
from tests.discovery.dns_server import DnsServer, dns_server

NAME = "pool.test."
NETWORKS = tuple(map(ipaddress.ip_network, ("10.0.0.0/16", "2001:db8::/48")))


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    """A server with some records."""
    async with dns_server() as running:
        running.records = {
            (NAME, "A"): ["10.0.0.2", "10.0.0.1"],
            (NAME, "AAAA"): ["2001:db8::1"],
            ("other.test.", "A"): ["10.0.0.9"],
            ("_quic._udp.test.", "SRV"): ["1 30 5001 pool.test.", "1 0 5002 other.test.", "2 9 5003 other.test."],
            ("alias.test.", "CNAME"): [NAME],
        }
        running.ttl_s = {"A": 30, "AAAA": 20, "SRV": 10, "CNAME": 7}
        yield running


def limits(**changes: Any) -> Limits:
    """Return what may be a backend."""
    return replace(Limits(networks=NETWORKS, is_own=lambda _: False, max_backends=1000), **changes)


def source(server: DnsServer, host: str = "pool.test", **changes: Any) -> DnsSource:
    """Return a source that asks this server."""
    settings: dict[str, Any] = {
        "name": "pool",
        "host": host,
        "record": "address",
        "port": 4433,
        "resolvers": (server.address,),
        "limits": limits(),
        "weight": 3,
        "min_s": 1.0,
        "max_s": 3600.0,
    }
    return DnsSource(DnsSettings(**settings | changes))


async def places(asked: DnsSource) -> list[str]:
    """Ask, and return the addresses of the backends."""
    return [str(backend.endpoint) for backend in (await asked.ask()).backends]


async def test_addresses_of_both_families(server: DnsServer) -> None:
    """A and AAAA are one pool, by name and in order, for as long as the shortest TTL says."""
    answer = await source(server).ask()
    assert [(one.name, one.endpoint, one.weight) for one in answer.backends] == [
        ("pool-10.0.0.1:4433", Endpoint("10.0.0.1", 4433), 3),
        ("pool-10.0.0.2:4433", Endpoint("10.0.0.2", 4433), 3),
        ("pool-2001:db8::1:4433", Endpoint("2001:db8::1", 4433), 3),
    ]
    assert (answer.again_s, answer.remarks) == (20, ())


@pytest.mark.parametrize(
    ("record", "found"), [("a", ["10.0.0.1:4433", "10.0.0.2:4433"]), ("aaaa", ["[2001:db8::1]:4433"])]
)
async def test_one_family(server: DnsServer, record: str, found: list[str]) -> None:
    """The other one is not even asked for."""
    assert await places(source(server, record=record)) == found
    assert {kind for _, kind in server.questions} == {record.upper()}


@pytest.mark.parametrize(("bounds", "again_s"), [((1.0, 5.0), 5), ((40.0, 60.0), 40), ((1.0, 60.0), 20)])
async def test_ttl_within_bounds(server: DnsServer, bounds: tuple[float, float], again_s: float) -> None:
    """No TTL makes a question come too early or too late."""
    assert (await source(server, min_s=bounds[0], max_s=bounds[1]).ask()).again_s == again_s


async def test_an_alias_lives_as_long_as_its_shortest_link(server: DnsServer) -> None:
    """The CNAME's own TTL counts too."""
    assert (await source(server, "alias.test", record="a").ask()).again_s == 7


async def test_srv(server: DnsServer) -> None:
    """Ports and weights are the records'; those of a later priority get nothing new."""
    answer = await source(server, "_quic._udp.test", record="srv", port=0).ask()
    assert {(str(one.endpoint), one.weight) for one in answer.backends} == {
        ("10.0.0.1:5001", 30),
        ("10.0.0.2:5001", 30),
        ("[2001:db8::1]:5001", 30),
        ("10.0.0.9:5002", 1),
        ("10.0.0.9:5003", 0),
    }
    assert answer.again_s == 10


async def test_a_cut_answer_is_asked_for_over_tcp(server: DnsServer) -> None:
    """All of it comes."""
    server.records[NAME, "A"] = [f"10.0.1.{number}" for number in range(200)]
    server.mood[NAME] = "long"
    assert len(await places(source(server, record="a"))) == 200


async def test_a_huge_answer_is_bounded(server: DnsServer) -> None:
    """As many as are allowed, always the same ones, and a remark."""
    server.records[NAME, "A"] = [f"10.0.{number % 9}.{number}" for number in range(1, 201)]
    asked = source(server, record="a", limits=limits(max_backends=7))
    answer = await asked.ask()
    assert len(answer.backends) == 7
    assert answer.remarks == ("200 addresses, and max_backends allows 7: the others are left out",)
    assert (await asked.ask()).backends == answer.backends


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("A", "192.0.2.1"),
        ("A", "127.0.0.1"),
        ("A", "0.0.0.0"),
        ("A", "255.255.255.255"),
        ("A", "224.0.0.1"),
        ("A", "10.0.255.255"),
        ("AAAA", "::"),
        ("AAAA", "::1"),
        ("AAAA", "ff02::1"),
        ("AAAA", "::ffff:10.0.0.5"),
        ("AAAA", "fe80::1"),
    ],
)
async def test_nothing_outside_of_the_networks(server: DnsServer, kind: str, address: str) -> None:
    """Whoever answers for the name sends packets nowhere else; a remark tells."""
    server.records[NAME, kind] = [*server.records[NAME, kind], address]
    before = await places(source(server))
    assert len(before) == 3
    answer = await source(server).ask()
    assert "outside of `networks`" in answer.remarks[0]
    everything = tuple(map(ipaddress.ip_network, ("0.0.0.0/0", "::/0")))
    is_a_host = address in {"192.0.2.1", "127.0.0.1", "::1", "fe80::1", "10.0.255.255"}
    assert len(await places(source(server, limits=limits(networks=everything)))) == 3 + is_a_host


async def test_the_balancer_is_no_backend(server: DnsServer) -> None:
    """Packets would go round."""
    own = Endpoint("10.0.0.1", 4433)
    assert str(own) not in await places(source(server, limits=limits(is_own=lambda place: place == own)))


@pytest.mark.parametrize("mood", ["silent", "nonsense", "broken"])
async def test_failures_are_no_answers(server: DnsServer, mood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SERVFAIL, silence and nonsense are errors of one kind, so that what was known is kept."""
    monkeypatch.setattr(dns, "_LIFETIME_S", 0.3)
    server.mood[NAME] = mood
    with pytest.raises(DiscoveryError, match=r"A records of pool\.test: "):
        await source(server).ask()


@pytest.mark.parametrize("host", ["a..b", "x" * 64, ".".join("y" * 60 for _ in range(5))])
async def test_names_that_are_none(server: DnsServer, host: str) -> None:
    """An error, and no exception of the library's."""
    with pytest.raises(DiscoveryError):
        await source(server, host).ask()


async def test_half_an_answer_is_none(server: DnsServer) -> None:
    """A pool of two families of which one cannot be asked is not taken for a smaller pool."""
    server.mood["other.test."] = "broken"
    with pytest.raises(DiscoveryError, match=r"other\.test"):
        await source(server, "_quic._udp.test", record="srv").ask()


async def test_no_records_are_an_answer(server: DnsServer) -> None:
    """A name that does not exist, or has none of them: nobody is there, which others may doubt."""
    server.records = {("pool.test.", "TXT"): ["x"]}
    assert await places(source(server)) == []
    server.records.clear()
    assert await places(source(server)) == []


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra."""
    monkeypatch.setitem(sys.modules, "dns.asyncresolver", None)
    with pytest.raises(ConfigError, match=r"qlb\[discovery\]"):
        source(DnsServer(Endpoint("127.0.0.1", 53)))
