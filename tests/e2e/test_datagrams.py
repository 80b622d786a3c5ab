"""Single datagrams on their path: addresses, ECN bits, sizes and headers, as both ends see them."""

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from lab import datagrams, scrape
from lab.echoes import echoes
from lab.journeys import aioquic_journey, rebound_twice
from lab.nat import Nat
from lab.stage import stage
from lab.udp_servers import open_socket, received

pytestmark = pytest.mark.e2e

LOOPBACKS: Final = {"ipv4": "127.0.0.1", "ipv6": "::1"}
MAX_PAYLOAD_BYTES: Final = {"127.0.0.1": 65_507, "::1": 65_487}
"""The longest datagrams that UDP allows. Over IPv6, the loopback's MTU of 65,536 is the limit."""
ECN: Final = {"not-ect": 0, "ect1": 1, "ect0": 2, "ce": 3}

every_family = pytest.mark.parametrize("host", list(LOOPBACKS.values()), ids=list(LOOPBACKS))


@pytest.mark.parametrize("ecn", list(ECN.values()), ids=list(ECN))
@every_family
async def test_ecn_is_preserved_in_both_directions(tmp_path: Path, host: str, ecn: int) -> None:
    """Each codepoint reaches the backend, and another codepoint on the answer reaches the client."""
    async with echoes(tmp_path, host) as on:
        server, answer_ecn = on.servers[1], (ecn + 1) % 4
        server.answer_ecn = answer_ecn
        question = datagrams.short(on.id_of(server), b"?")
        assert [(await on.ask(question, ecn=ecn))[1] for _ in range(3)] == [answer_ecn] * 3
        assert server.last == (question, ecn)
        server.answer_ecn = 0
        assert (await on.ask(question, ecn=0))[1] == 0
        assert server.last == (question, 0), "an ECN mark stays with the session"


@pytest.mark.parametrize(("client", "server"), [("127.0.0.1", "::1"), ("::1", "127.0.0.1")], ids=["4-to-6", "6-to-4"])
async def test_clients_and_backends_of_different_families(tmp_path: Path, client: str, server: str) -> None:
    """IPv4 clients can use IPv6 backends and vice versa. Datagrams and ECN bits pass in both directions."""
    async with echoes(tmp_path, client, behind=server) as on:
        question = datagrams.short(on.id_of(on.servers[0]), b"?")
        for ecn in ECN.values():
            assert await on.ask(question, ecn=ecn) == (question, ecn, on.service)
            assert on.servers[0].last == (question, ecn)


@pytest.mark.parametrize(("listen", "hosts"), [("0.0.0.0", ("127.0.0.1", "127.0.0.5", "127.1.2.3")), ("::", ("::1",))])
async def test_answers_come_from_the_clients_destination(tmp_path: Path, listen: str, hosts: tuple[str, ...]) -> None:
    """On a wildcard listener, each answer comes from the address to which its question was sent."""
    async with echoes(tmp_path, hosts[0], listen=listen) as on:
        port = on.service[1]
        for server in on.servers:
            for host in hosts:
                _, _, source = await on.ask(datagrams.short(on.id_of(server), b"?"), service=(host, port))
                assert source == (host, port)
        found = await on.daemon.settled()
        assert found.total("qlb_sessions") == len(on.servers) * len(hosts), (
            "sessions do not differ by the service's address"
        )


@pytest.mark.parametrize("listen", ["0.0.0.0", "::"])
async def test_quic_through_a_wildcard_listener(tmp_path: Path, listen: str) -> None:
    """An aioquic client ignores answers from another address than its destination. Here it gets all answers."""
    host = "127.0.0.6" if listen == "0.0.0.0" else "::1"
    async with stage(tmp_path, host=host, listen=[f"[{listen}]:0" if ":" in listen else f"{listen}:0"]) as on:
        listening = (await on.daemon.status())["listen"][0]
        service = (host, int(listening.rpartition(":")[2]))
        with Nat() as nat:
            ports = [nat.port(service) for _ in range(6)]
            journeys = await asyncio.gather(
                *(aioquic_journey(port, on.gates, rebound_twice, migrations=1) for port in ports)
            )
        assert [journey.lost for journey in journeys if journey.lost] == []
        assert [port.strays for port in ports] == [[]] * len(ports)


async def test_quic_over_ipv6(tmp_path: Path) -> None:
    """Clients, daemon and backends on IPv6: addresses change, and no connection is lost."""
    async with stage(tmp_path, host="::1") as on:
        journeys = await asyncio.gather(
            *(aioquic_journey(port, on.gates, rebound_twice, migrations=1) for port in on.ports(6))
        )
        assert [journey.lost for journey in journeys if journey.lost] == []


@every_family
async def test_sizes(tmp_path: Path, host: str) -> None:
    """Datagrams pass complete in both directions, from the shortest that can be routed to the longest of UDP."""
    async with echoes(tmp_path, host) as on:
        server = on.servers[2]
        least = datagrams.short(on.id_of(server))
        for size in (len(least), 1200, 1472, 1473, 9000, 65_000, MAX_PAYLOAD_BYTES[host]):
            datagram = least.ljust(size, b"x")
            answer, _, source = await on.ask(datagram)
            assert answer == datagram
            assert source == on.service
        assert [other.packets for other in on.servers[:2]] == [0, 0]
        await on.daemon.settled()


async def test_headers(tmp_path: Path) -> None:
    """Unknown versions, coalesced packets, a fixed bit of 0 and long IDs are all routed by the first destination ID."""
    async with echoes(tmp_path, "127.0.0.1") as on:
        mine, other = (on.id_of(server) for server in on.servers[:2])
        cases = {
            "unknown version": datagrams.long(mine, b"source", b"?", version=datagrams.UNKNOWN_VERSION),
            "coalesced": datagrams.long(mine, b"s", b"?" * 20) + datagrams.long(other, b"s", b"?" * 20),
            "coalesced, short last": datagrams.long(mine, b"s", b"?" * 20) + datagrams.short(other, b"?"),
            "long, fixed bit 0": datagrams.long(mine, b"", b"?", first_octet=0x80),
            "short, fixed bit 0": datagrams.short(mine, b"?", first_octet=0x00),
            "an octet appended": datagrams.long(mine + b"\0", b"source", b"?"),
            "IDs of 255 octets": datagrams.long(mine.ljust(255, b"x"), bytes(255), b"?"),
        }
        for name, datagram in cases.items():
            before = on.servers[0].packets
            assert (await on.ask(datagram))[0] == datagram, name
            assert on.servers[0].packets == before + 1, name
        found = await on.daemon.settled()
        assert found.by("qlb_packets_forwarded_total", "route") == {"cid": len(cases)}


async def test_dropped_datagrams(tmp_path: Path) -> None:
    """Empty, truncated and Version Negotiation datagrams are dropped without an answer, and counted by reason."""
    async with echoes(tmp_path, "127.0.0.1") as on:
        whole = datagrams.long(on.id_of(on.servers[0]), b"source")
        drops = {
            "empty": [b""],
            "truncated": [whole[:size] for size in range(1, len(whole))],
            "version_negotiation": [datagrams.long(on.id_of(on.servers[0]), b"source", bytes(4), version=0)],
        }
        for each in [datagram for group in drops.values() for datagram in group]:
            on.client.sendto(each, on.service)
        assert (await on.ask(whole))[0] == whole, "a dropped datagram got an answer"
        found = await on.daemon.settled()
        assert found.by("qlb_packets_dropped_total", "reason") == {name: len(group) for name, group in drops.items()}
        assert found.forwarded == 1


async def test_unhealthy_backends_are_still_routable(tmp_path: Path) -> None:
    """Echo servers fail QUIC probes. Unhealthy backends get no new clients, but still all packets with their IDs."""
    async with echoes(tmp_path, "127.0.0.1", forwarding={"workers": "1"}) as on:
        unroutable = datagrams.short(b"\xe0" + bytes(16), b"?")
        # Answers to clients are evidence that a server is alive. With this value of rise, no number of them is enough.
        obeyed = {"interval": "50ms", "timeout": "50ms", "rise": "100", "fall": "1", "all_failing": "obey"}
        on.daemon.write({**on.config, "health": obeyed})
        assert (await on.daemon.command("reload"))[0] == 0
        await on.daemon.until(lambda found: not found.by("qlb_backend_up", "backend"))
        assert (await scrape.get(on.daemon.admin, "/readyz"))[0] == 503

        with ExitStack() as stack:
            newcomers = []
            found = await on.daemon.settled()
            while not found.dropped:
                # The supervisor has a verdict before its worker applies it. Until then, the worker still places a new
                # client.
                newcomers.append(stack.enter_context(open_socket(("127.0.0.1", 0))))
                newcomers[-1].sendto(unroutable, on.service)
                found = await on.daemon.settled()
        for server in on.servers:
            question = datagrams.short(on.id_of(server), b"?")
            assert (await on.ask(question))[0] == question
        found = await on.daemon.settled()
        dropped = found.by("qlb_packets_dropped_total", "reason")
        assert dropped.keys() == {"no_backend"}
        placed = len(newcomers) - dropped["no_backend"]
        routes = {"cid": len(on.servers)} | ({"fallback": placed} if placed else {})
        assert found.by("qlb_packets_forwarded_total", "route") == routes


async def test_sessions_are_limited(tmp_path: Path) -> None:
    """With more clients than max_sessions, idle sessions are closed, and opened again for the next packet."""
    async with echoes(tmp_path, "127.0.0.1", forwarding={"max_sessions": "8"}) as on:
        question = datagrams.short(on.id_of(on.servers[0]), b"?")
        for _ in range(40):
            with open_socket(("127.0.0.1", 0)) as stranger:
                stranger.sendto(question, on.service)
                assert (await received(stranger))[0] == question
            assert (await on.ask(question))[0] == question
        found = await on.daemon.settled()
        assert found.total("qlb_sessions") <= 8
        assert found.total("qlb_packets_returned_total") == found.forwarded == 80


async def test_an_idle_session_closes_and_opens_again(tmp_path: Path) -> None:
    """After session_timeout, an idle session is closed. The client's next packet is routed by its ID as before."""
    timeouts = {"session_timeout": "100ms", "routable_session_timeout": "100ms"}
    async with echoes(tmp_path, "127.0.0.1", forwarding=timeouts) as on:
        question = datagrams.short(on.id_of(on.servers[1]), b"?")
        for _ in range(2):
            assert (await on.ask(question))[0] == question
            await on.daemon.until(lambda found: found.total("qlb_sessions") == 0)
        assert on.servers[1].packets == 2
        await on.daemon.settled()
