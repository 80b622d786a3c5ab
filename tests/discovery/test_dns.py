"""DNS as a source of backends: a real server on loopback answers, fails, truncates and stays silent."""

import ipaddress
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dns.resolver import NXDOMAIN, NoResolverConfiguration

from lab.discovery.dns_server import DnsServer, dns_server
from qlb.addresses import Endpoint
from qlb.discovery import lookup
from qlb.discovery.dns import DnsSettings, DnsSource
from qlb.discovery.source import Answer, DiscoveryError, Limits
from qlb.errors import ConfigError

NAME = "pool.test."
GENEROUS_S = 2.0
"""A time limit that some questions exceed, but not those whose answers a test needs."""
NETWORKS = tuple(map(ipaddress.ip_network, ("10.0.0.0/16", "2001:db8::/48")))


@pytest.fixture
async def server() -> AsyncIterator[DnsServer]:
    """Yield a server with some records."""
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
    """Return the bounds of most tests, with some changes."""
    return replace(Limits(networks=NETWORKS, find_own=lambda _: (), max_backends=1000), **changes)


def source(server: DnsServer, host: str = "pool.test", **changes: Any) -> DnsSource:
    """Return a source that asks only this server."""
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


def texts(answer: Answer) -> list[str]:
    """Return the texts of an answer's remarks."""
    return [remark.text for remark in answer.remarks]


async def endpoints(asked: DnsSource) -> list[str]:
    """Ask the source and return the endpoints of the backends."""
    return [str(backend.endpoint) for backend in (await asked.ask()).backends]


async def test_addresses_of_both_families(server: DnsServer) -> None:
    """A and AAAA records make one pool in a fixed order. The next question comes after the shortest TTL."""
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
    """With one family configured, the source does not ask for the other one."""
    assert await endpoints(source(server, record=record)) == found
    assert {kind for _, kind in server.questions} == {record.upper()}


@pytest.mark.parametrize(("bounds", "again_s"), [((1.0, 5.0), 5), ((40.0, 60.0), 40), ((1.0, 60.0), 20)])
async def test_ttl_within_bounds(server: DnsServer, bounds: tuple[float, float], again_s: float) -> None:
    """The time to the next question is the TTL within its bounds."""
    assert (await source(server, min_s=bounds[0], max_s=bounds[1]).ask()).again_s == again_s


async def test_the_ttl_of_an_alias_counts(server: DnsServer) -> None:
    """The TTL of a CNAME counts if it is the shortest one."""
    assert (await source(server, "alias.test", record="a").ask()).again_s == 7


async def test_srv(server: DnsServer) -> None:
    """SRV records give ports and weights. Those without the best priority get weight 0."""
    answer = await source(server, "_quic._udp.test", record="srv", port=0).ask()
    assert {(str(one.endpoint), one.weight) for one in answer.backends} == {
        ("10.0.0.1:5001", 30),
        ("10.0.0.2:5001", 30),
        ("[2001:db8::1]:5001", 30),
        ("10.0.0.9:5002", 1),
        ("10.0.0.9:5003", 0),
    }
    assert answer.again_s == 10


async def test_a_truncated_answer_is_asked_for_over_tcp(server: DnsServer) -> None:
    """After a truncated answer the source gets all records over TCP."""
    server.records[NAME, "A"] = [f"10.0.1.{number}" for number in range(200)]
    server.mood[NAME] = "long"
    assert len(await endpoints(source(server, record="a"))) == 200


async def test_a_huge_answer_is_bounded(server: DnsServer) -> None:
    """Of a huge answer, max_backends become backends, always the same ones, and there is a remark."""
    server.records[NAME, "A"] = [f"10.0.{number % 9}.{number}" for number in range(1, 201)]
    asked = source(server, record="a", limits=limits(max_backends=7))
    answer = await asked.ask()
    assert len(answer.backends) == 7
    assert texts(answer) == ["200 addresses, but max_backends allows 7: the others are omitted"]
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
        ("AAAA", "::ffff:192.0.2.1"),
        ("AAAA", "::ffff:0.0.0.0"),
        ("AAAA", "fe80::1"),
    ],
)
async def test_nothing_outside_of_the_networks(server: DnsServer, kind: str, address: str) -> None:
    """An address outside of the networks is omitted, with a remark."""
    server.records[NAME, kind] = [*server.records[NAME, kind], address]
    before = await endpoints(source(server))
    assert len(before) == 3
    answer = await source(server).ask()
    (remark,) = answer.remarks
    assert (remark.topic, "omitted: outside of `networks`" in remark.text) == ("outside", True)
    everything = tuple(map(ipaddress.ip_network, ("0.0.0.0/0", "::/0")))
    is_a_host = address in {"192.0.2.1", "127.0.0.1", "::1", "10.0.255.255", "::ffff:192.0.2.1"}
    assert len(await endpoints(source(server, limits=limits(networks=everything)))) == 3 + is_a_host


async def test_the_balancer_is_no_backend(server: DnsServer) -> None:
    """The balancer's own address is omitted, with a remark, because packets would loop."""
    own = Endpoint("10.0.0.1", 4433)
    answer = await source(server, limits=limits(find_own=lambda found: {own} & set(found))).ask()
    assert own not in [backend.endpoint for backend in answer.backends]
    assert texts(answer) == ["10.0.0.1:4433 omitted: this balancer itself: packets would loop"]


@pytest.mark.parametrize("mood", ["silent", "nonsense", "broken"])
async def test_failures_are_no_answers(server: DnsServer, mood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """SERVFAIL, silence and invalid packets raise DiscoveryError, so that the known backends stay."""
    monkeypatch.setattr(lookup, "_LIFETIME_S", 0.3)
    server.mood[NAME] = mood
    with pytest.raises(DiscoveryError, match=r"A records of pool\.test: "):
        await source(server).ask()


@pytest.mark.parametrize("host", ["a..b", "x" * 64, ".".join("y" * 60 for _ in range(5))])
async def test_invalid_names(server: DnsServer, host: str) -> None:
    """An invalid name raises DiscoveryError and no error of the library."""
    with pytest.raises(DiscoveryError):
        await source(server, host).ask()


@pytest.mark.parametrize("record", ["address", "srv"])
async def test_no_records_are_an_answer(server: DnsServer, record: str) -> None:
    """A name that does not exist, or has no such records, is an answer without backends, with a remark."""
    kind = "SRV" if record == "srv" else "A or AAAA"
    for records, why in (({(NAME, "TXT"): ["x"]}, f"has no {kind} records"), ({}, "does not exist")):
        server.records = records
        answer = await source(server, record=record, port=0).ask()
        assert answer.backends == ()
        assert [tuple(remark) for remark in answer.remarks] == [("empty", f"no backends: pool.test {why}")]


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dnspython, the error names the extra to install."""
    monkeypatch.setitem(sys.modules, "dns", None)
    with pytest.raises(ConfigError, match=r"qlb\[discovery\]"):
        source(DnsServer(Endpoint("127.0.0.1", 53)))


@pytest.mark.parametrize("host", ["pool.test", "pool.test.", "POOL.test"])
async def test_a_name_is_the_same_in_every_spelling(server: DnsServer, host: str) -> None:
    """A final dot and capital letters make no difference."""
    assert len(await endpoints(source(server, host))) == 3


async def test_mapped_addresses_are_ipv4(server: DnsServer) -> None:
    """An IPv4-mapped address in an AAAA record is the same backend as in an A record."""
    server.records[NAME, "AAAA"] = ["::ffff:10.0.0.1", "::ffff:10.0.0.7"]
    assert await endpoints(source(server)) == ["10.0.0.1:4433", "10.0.0.2:4433", "10.0.0.7:4433"]


@pytest.mark.parametrize("mood", [pytest.param("silent", marks=pytest.mark.slow), "broken"])
@pytest.mark.parametrize(
    ("failing", "left"),
    [("AAAA", ["10.0.0.1:4433", "10.0.0.2:4433"]), ("A", ["[2001:db8::1]:4433"])],
)
async def test_a_family_that_fails_does_not_affect_the_other(
    server: DnsServer, mood: str, failing: str, left: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If one family fails, a new source has the backends of the other one, and a remark that does not change."""
    if mood == "silent":  # the other family's answer must arrive within that time, also on a busy machine
        monkeypatch.setattr(lookup, "_LIFETIME_S", GENEROUS_S)
    server.mood[f"{NAME} {failing}"] = mood
    asked = source(server)
    assert await endpoints(asked) == left
    answer = await asked.ask()
    reason = "SERVFAIL" if mood == "broken" else "no answer within 2 s"
    assert texts(answer) == [f"{failing} records of pool.test: {reason} failed; their earlier answers stay in use"]
    assert answer.again_s == 1


async def test_the_backends_of_a_failing_family_stay(server: DnsServer) -> None:
    """The backends of a failing family stay while the other one changes. When it works again, its answer counts."""
    asked = source(server)
    await asked.ask()
    server.mood[f"{NAME} AAAA"] = "broken"
    server.records[NAME, "A"], server.records[NAME, "AAAA"] = ["10.0.0.3"], ["2001:db8::2"]
    assert await endpoints(asked) == await endpoints(asked) == ["10.0.0.3:4433", "[2001:db8::1]:4433"]
    server.mood.clear()
    assert await endpoints(asked) == ["10.0.0.3:4433", "[2001:db8::2]:4433"]


async def test_a_new_source_has_the_backends_of_an_earlier_one(server: DnsServer) -> None:
    """After a reload or an upgrade, the recalled backends of a failing family stay until it works; others do not."""
    before = (await source(server).ask()).backends
    server.mood[f"{NAME} AAAA"] = "broken"
    server.records[NAME, "A"] = ["10.0.0.2"]
    asked = source(server)
    asked.recall(before)
    assert await endpoints(asked) == await endpoints(asked) == ["10.0.0.2:4433", "[2001:db8::1]:4433"]
    server.mood.clear()
    server.records[NAME, "AAAA"] = ["2001:db8::5"]
    assert await endpoints(asked) == ["10.0.0.2:4433", "[2001:db8::5]:4433"]
    server.mood[f"{NAME} AAAA"] = "broken"
    assert await endpoints(asked) == ["10.0.0.2:4433", "[2001:db8::5]:4433"]


@pytest.mark.parametrize("recalled", [False, True])
async def test_a_target_that_fails_does_not_affect_the_others(server: DnsServer, recalled: bool) -> None:
    """A source that has asked before retains a failing target's backends. A new one has them only if recalled."""
    asked = source(server, "_quic._udp.test", record="srv", port=0)
    every = await asked.ask()
    server.mood["other.test."] = "broken"
    assert (await asked.ask()).backends == every.backends
    later = source(server, "_quic._udp.test", record="srv", port=0)
    if recalled:
        later.recall(every.backends)
    answer = await later.ask()
    if recalled:
        assert answer.backends == every.backends
    else:
        assert [one for one in every.backends if one.endpoint.host != "10.0.0.9"] == list(answer.backends)
    assert texts(answer) == [
        "A records of other.test: SERVFAIL and 1 more questions failed; their earlier answers stay in use"
    ]


async def test_all_targets_fail(server: DnsServer) -> None:
    """If all targets fail, the source raises DiscoveryError."""
    server.mood |= {NAME: "broken", "other.test.": "broken"}
    with pytest.raises(DiscoveryError, match=r"^A records of (pool|other)\.test: SERVFAIL$"):
        await source(server, "_quic._udp.test", record="srv").ask()


async def test_many_targets_are_asked_at_once(server: DnsServer) -> None:
    """The questions for many targets do not wait for each other, and all targets become backends."""
    name = "_many._udp.test."
    server.records |= {(f"t{number}.test.", "A"): [f"10.0.1.{number}"] for number in range(100)}
    server.records[name, "SRV"] = [f"1 1 4433 t{number}.test." for number in range(100)]
    server.waits_for["t"] = 8
    answer = await source(server, name, record="srv", port=0).ask()
    assert {one.endpoint.host for one in answer.backends} == {f"10.0.1.{number}" for number in range(100)}
    assert answer.remarks == ()


async def test_more_srv_records_than_backends(server: DnsServer) -> None:
    """Only the targets of the records with the best priority are asked for, with a remark."""
    name = "_many._udp.test."
    server.records |= {(f"t{number}.test.", "A"): [f"10.0.1.{number}"] for number in range(1, 10)}
    server.records[name, "SRV"] = [f"{number} 1 4433 t{number}.test." for number in range(9, 0, -1)]
    answer = await source(server, name, record="srv", port=0, limits=limits(max_backends=3)).ask()
    assert [one.endpoint.host for one in answer.backends] == ["10.0.1.1", "10.0.1.2", "10.0.1.3"]
    assert texts(answer) == ["9 SRV records, but max_backends allows 3"]
    assert not {("t9.test.", "A"), ("t4.test.", "A")} & set(server.questions)


@pytest.mark.parametrize("record", ["1 1 4433 .", "0 0 0 pool.test."])
async def test_srv_records_that_lead_nowhere(server: DnsServer, record: str) -> None:
    """An SRV record with the target "." or with port 0 is no backend."""
    server.records["_none._udp.test.", "SRV"] = [record]
    answer = await source(server, "_none._udp.test", record="srv", port=0).ask()
    assert (answer.backends, texts(answer)) == ((), ["no backends: _none._udp.test has no SRV records"])


async def test_the_best_priority_counts_for_a_repeated_endpoint(server: DnsServer) -> None:
    """An endpoint with two priorities has the weight of the best one."""
    server.records["_twice._udp.test.", "SRV"] = ["2 9 5001 other.test.", "1 7 5001 other.test."]
    answer = await source(server, "_twice._udp.test", record="srv", port=0).ask()
    assert [(str(one.endpoint), one.weight) for one in answer.backends] == [("10.0.0.9:5001", 7)]


async def test_several_ports_on_one_address(server: DnsServer) -> None:
    """All ports of one target with one address are backends, without a remark."""
    server.records["_ports._udp.test.", "SRV"] = [f"1 1 {port} other.test." for port in (5001, 5002, 5003)]
    answer = await source(server, "_ports._udp.test", record="srv", port=0).ask()
    assert [str(one.endpoint) for one in answer.backends] == [f"10.0.0.9:{port}" for port in (5001, 5002, 5003)]
    assert answer.remarks == ()


async def test_a_target_with_both_families_is_one_server(server: DnsServer) -> None:
    """Packets go to IPv4 if it is within the networks. The other address is stored for server IDs made from it."""
    server.records |= {("other.test.", "AAAA"): ["2001:db8::9"], ("_one._udp.test.", "SRV"): ["1 1 5001 other.test."]}
    (backend,) = (await source(server, "_one._udp.test", record="srv", port=0).ask()).backends
    assert (backend.endpoint, backend.other_hosts) == (Endpoint("10.0.0.9", 5001), ("2001:db8::9",))
    only_v6 = limits(networks=NETWORKS[1:])
    (backend,) = (await source(server, "_one._udp.test", record="srv", port=0, limits=only_v6).ask()).backends
    assert (backend.endpoint, backend.other_hosts) == (Endpoint("2001:db8::9", 5001), ())


ONE_TARGET = "_one._udp.test."


def one_target(server: DnsServer, ports: list[int], hosts: list[str]) -> None:
    """Set SRV records that share a target, with its addresses in the additional section."""
    server.records[ONE_TARGET, "SRV"] = [f"1 1 {port} pool.test." for port in ports]
    server.records[NAME, "A"] = hosts
    server.records.pop((NAME, "AAAA"), None)
    server.additional[ONE_TARGET, "SRV"] = [(NAME, "A")]


async def test_ports_and_addresses_of_one_target_are_paired(server: DnsServer) -> None:
    """As many addresses as ports in one answer belong together in their order. There is a remark."""
    one_target(server, [4001, 4002, 4003], ["10.0.0.9", "10.0.0.8", "10.0.0.7"])
    asked = source(server, ONE_TARGET, record="srv", port=0)
    for _ in range(2):
        answer = await asked.ask()
        assert [str(one.endpoint) for one in answer.backends] == ["10.0.0.7:4003", "10.0.0.8:4002", "10.0.0.9:4001"]
        (text,) = texts(answer)
        assert text.startswith("3 SRV records name pool.test.: ports and addresses are paired in the order of")
    one_target(server, [4002, 4003, 4004], ["10.0.0.8", "10.0.0.7", "10.0.0.6"])
    assert await endpoints(asked) == ["10.0.0.6:4004", "10.0.0.7:4003", "10.0.0.8:4002"]


async def test_one_target_whose_order_changes(server: DnsServer) -> None:
    """After contradicting answers (the resolver changes the order), each address is used with all ports."""
    one_target(server, [4001, 4002], ["10.0.0.9", "10.0.0.8"])
    asked = source(server, ONE_TARGET, record="srv", port=0)
    await asked.ask()
    for hosts in (["10.0.0.8", "10.0.0.9"], ["10.0.0.9", "10.0.0.8"]):
        one_target(server, [4001, 4002], hosts)
        answer = await asked.ask()
        assert {str(one.endpoint) for one in answer.backends} == {
            f"10.0.0.{host}:{port}" for host in (8, 9) for port in (4001, 4002)
        }
        (text,) = texts(answer)
        assert "it is unknown which address has which port, so each address is used with all 2 ports" in text


async def test_one_target_without_the_additional_section(server: DnsServer) -> None:
    """Without the additional section, each address is used with all ports, with a remark."""
    one_target(server, [4001, 4002, 4003], ["10.0.0.9", "10.0.0.8", "10.0.0.7"])
    server.additional.clear()
    answer = await source(server, ONE_TARGET, record="srv", port=0).ask()
    assert len(answer.backends) == 9
    assert "it is unknown which address has which port" in texts(answer)[0]


async def test_ports_times_addresses_are_bounded(server: DnsServer) -> None:
    """Ports times addresses make at most max_backends backends."""
    one_target(server, list(range(4001, 4301)), [f"10.0.{number}.1" for number in range(200)])
    server.additional.clear()
    answer = await source(server, ONE_TARGET, record="srv", port=0, limits=limits(max_backends=250)).ask()
    assert len(answer.backends) == 250


async def test_resolv_conf_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read again after a change and after failures. A file that cannot be read changes nothing."""
    asked_at = []

    class Fake:
        """A replacement for dnspython's resolver, which would ask port 53."""

        def __init__(self, filename: str) -> None:
            """Read the file as dnspython does."""
            self.text = Path(filename).read_text()
            if not self.text:
                raise NoResolverConfiguration("no nameservers")

        async def resolve(self, *_: object, **__: object) -> object:
            """Answer, or fail if the file contains the word dead."""
            asked_at.append(self.text)
            raise OSError("unreachable") if self.text == "dead" else NXDOMAIN

    monkeypatch.setattr("dns.asyncresolver.Resolver", Fake)
    path = tmp_path / "resolv.conf"
    asked = lookup.Lookup((), path)
    question = [lookup.Question("pool.test", "A")]
    with pytest.raises(DiscoveryError, match="this machine has no DNS server"):
        await asked.ask(question)
    for text in ("dead", "one", "two"):
        path.write_text(text)
        await asked.ask(question)
    path.write_text("")
    await asked.ask(question)
    path.unlink()
    await asked.ask(question)
    path.mkdir()
    await asked.ask(question)
    assert asked_at == ["dead", "one", "two", "two", "two", "two"]
    path.rmdir()
    path.write_text("three")
    (tmp_path / "next").write_text("other")
    await asked.ask(question)
    (tmp_path / "next").replace(path)
    await asked.ask(question)
    assert asked_at[-2:] == ["three", "other"]


@pytest.mark.slow
async def test_a_round_is_bounded(server: DnsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of one round is bounded: questions that are not answered by then have failed."""
    monkeypatch.setattr(lookup, "_ROUND_S", GENEROUS_S)
    server.mood["other.test."] = "silent"
    answer = await source(server, "_quic._udp.test", record="srv", port=0).ask()
    assert [one.endpoint.host for one in answer.backends] == ["10.0.0.1", "10.0.0.2", "2001:db8::1"]
    assert "A records of other.test: no answer within 2 s and 1 more" in texts(answer)[0]
