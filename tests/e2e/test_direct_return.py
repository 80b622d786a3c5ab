"""The kernel plane between real hosts: real QUIC clients through it, answers straight back, and none is lost.

Clients change their addresses in mid-transfer; meanwhile a backend is drained, the configuration reloaded, the daemon
stopped, killed and started with its program left attached.
"""

import asyncio
import json
import shutil
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from lab import datagrams, ngtcp2
from lab.clients import in_progress
from lab.daemon import Daemon, cid_config, running
from lab.direct import PORT, direct_configuration, direct_servers
from lab.hosts import BACKENDS, BALANCER, CLIENT_ADDRESSES, SERVICES, Host, Hosts, datagrams_from, hosts
from lab.journeys import Journey, aioquic_journey, ngtcp2_journey
from lab.nat import Address, Nat, NatPort
from lab.quic_servers import QuicServerBehind
from lab.stage import KEY, NAMES, PARAMS
from lab.stories import Gates
from qlb.cid import CidParams
from qlb.dataplane.xdp import libbpf

pytestmark = pytest.mark.e2e

CONNECTIONS: Final = 10
LIMIT_S: Final = 240.0
OTHER_PARAMS: Final = CidParams(config_id=2, server_id_length=4, nonce_length=10, key=KEY[::-1])


@pytest.fixture(autouse=True)
def _needs_the_kernel() -> None:
    if lack := libbpf.what_lacks():
        pytest.skip(f"the xdp plane: {lack}")


@dataclass
class Scene:
    """The cast. servers: on the service's address. family: of clients and service."""

    hosts: Hosts
    servers: list[QuicServerBehind]
    daemon: Daemon
    nat: Nat
    gates: Gates
    family: int
    outer: int
    mode: str
    rebinds: int = 0

    @property
    def service(self) -> Address:
        """Where clients send to."""
        return SERVICES[self.family], PORT

    def ports(self, count: int) -> list[NatPort]:
        """Open ways of clients to the service."""
        host = CLIENT_ADDRESSES[self.family][0]
        return [self.nat.port(self.service, host=host) for _ in range(count)]

    def rebind_all(self) -> None:
        """Give every client another port and the next address."""
        self.rebinds += 1
        addresses = CLIENT_ADDRESSES[self.family]
        for port in self.nat.ports:
            port.rebind(host=addresses[self.rebinds % len(addresses)])

    def config(self, params: Sequence[CidParams], **sections: Any) -> dict[str, Any]:
        """Return a configuration. sections: replace those of its kind."""
        return direct_configuration(self.servers, params, self.family, self.outer, self.mode, **sections)

    async def moved(self, port: NatPort) -> None:
        """Another port, then another address, then another of each."""
        for host in (None, *CLIENT_ADDRESSES[self.family][1:]):
            port.rebind(host=host)
            await port.until_flowing()


@contextmanager
def _network() -> Iterator[Hosts]:
    """Make the hosts; this thread is the client until the end of the block."""
    with hosts() as made, made.client.inside():
        yield made


@asynccontextmanager
async def _until_ready(*command: str) -> AsyncIterator[None]:
    """Run a command that writes "ready" and ends, with 0, on SIGTERM."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.terminate()
        await process.communicate()
    assert process.returncode == 0


def _decapsulating(host: Host, service: str) -> AbstractAsyncContextManager[None]:
    return _until_ready(*host.prefix, sys.executable, "-m", "qlb", "decap", "eth0", "--for", service)


@asynccontextmanager
async def scene(
    folder: Path,
    mode: str,
    *,
    family: int = 4,
    outer: int | None = None,
    prepare: Callable[[Hosts], None] | None = None,
    **sections: Any,
) -> AsyncIterator[Scene]:
    """Set it up. outer: the family of the backends' own addresses. prepare: called before anything runs."""
    outer = outer or family
    gates = Gates()
    with _network() as made:
        if prepare is not None:
            prepare(made)
        async with asyncio.timeout(LIMIT_S), AsyncExitStack() as stack:
            servers = await stack.enter_async_context(direct_servers(made, gates, family, outer))
            if mode != "l2":
                for host in made.backends:
                    await stack.enter_async_context(_decapsulating(host, SERVICES[family]))
            config = direct_configuration(servers, (PARAMS,), family, outer, mode, **sections)
            daemon = await stack.enter_async_context(
                running(folder / "daemon", config, admin=(BALANCER, 9464), prefix=made.balancer.prefix)
            )
            nat = stack.enter_context(Nat())
            yield Scene(made, servers, daemon, nat, gates, family, outer, mode)


Change = Callable[[Scene], Awaitable[None]]

each_way = pytest.mark.parametrize(
    ("mode", "family", "outer"),
    [("l2", 4, 4), ("l2", 6, 6)] + [(mode, f, o) for mode in ("ipip", "gue") for f in (4, 6) for o in (4, 6)],
)


async def _travel(told: Scene, port: NatPort, number: int, folder: Path) -> Journey:
    if number % 2 and shutil.which("gtlsclient"):
        return await ngtcp2_journey(port, told.gates, told.moved, folder, ngtcp2.Mode.MIGRATE)
    return await aioquic_journey(port, told.gates, told.moved)


@each_way
async def test_answers_go_straight_back(tmp_path: Path, mode: str, family: int, outer: int) -> None:
    """0 lost, each on one backend all its life, three changes of address each; no answer passes the balancer."""
    async with scene(tmp_path, mode, family=family, outer=outer) as told:
        with datagrams_from(SERVICES[family], ("lb", "back1", "back2")) as heard:
            journeys = await asyncio.gather(
                *(_travel(told, port, number, tmp_path) for number, port in enumerate(told.ports(CONNECTIONS)))
            )
        assert [journey.lost for journey in journeys if journey.lost] == []
        assert min(journey.changes for journey in journeys) >= 3
        assert Counter(journey.backend for journey in journeys) == {s.name: s.accepted for s in told.servers}
        found = await told.daemon.settled()
        assert found.total("qlb_packets_forwarded_total", route="cid") > 10 * CONNECTIONS
        dropped = {reason for reason, n in found.by("qlb_packets_dropped_total", "reason").items() if n}
        assert dropped <= {"too_big"}, "ngtcp2 finds out what the path takes"
        assert heard["lb"] == 0
        assert heard.total() >= sum(mapping.down for port in told.nat.ports for mapping in port.mappings) > 0
        assert all(port.strays == [] for port in told.nat.ports)


async def _drained(told: Scene) -> None:
    """Newcomers avoid it; whoever is there stays."""
    assert (await told.daemon.command("drain", NAMES[0]))[0] == 0
    accepted = told.servers[0].accepted
    async with in_progress([port.address for port in told.ports(5)]) as calls:
        await calls.until_more()
    assert (calls.lost, set(calls.backends)) == ([], {NAMES[1]})
    assert told.servers[0].accepted == accepted


async def _reloaded(told: Scene) -> None:
    """A second config ID comes and goes, weights and flow tables change; ten times while packets flow."""
    for number in range(10):
        params = (PARAMS, OTHER_PARAMS) if number % 2 else (PARAMS,)
        flows = {"flow_table_size": str(1000 + number // 3)}
        config = told.config(params, fallback=flows, forwarding={"keep_attached": "true"})
        config["backends"][0]["weight"] = str(number % 4)
        told.daemon.write(config)
        assert (await told.daemon.command("reload"))[0] == 0
        told.rebind_all()


async def _restarted(told: Scene) -> None:
    """Stopped and killed: the kernel goes on by what it was told last; clients that move meanwhile are not lost."""
    for end in (told.daemon.stop, told.daemon.kill):
        await end()
        told.rebind_all()
        for port in told.nat.ports:
            await port.until_flowing()
        await told.daemon.start()
        told.rebind_all()


async def _upgraded(told: Scene) -> None:
    """Three times, another process and its program take over between two packets."""
    for _ in range(3):
        await told.daemon.upgrade()
        told.rebind_all()


@pytest.mark.parametrize("change", [_drained, _reloaded, _restarted, _upgraded])
@pytest.mark.parametrize(("mode", "family"), [("l2", 4), ("ipip", 6), ("gue", 4)])
async def test_nothing_is_lost_meanwhile(tmp_path: Path, mode: str, family: int, change: Change) -> None:
    """Calls are in progress and change their addresses while it happens."""
    forwarding = {"keep_attached": "true"}
    async with scene(tmp_path, mode, family=family, forwarding=forwarding) as told:
        async with in_progress([port.address for port in told.ports(CONNECTIONS)], timeout_s=LIMIT_S) as calls:
            await change(told)
            told.rebind_all()
            await calls.until_more()
        assert calls.lost == []
        assert set(calls.backends) <= set(NAMES)
        await told.daemon.settled()
        code, _ = await _detach(told)
        assert code == 0


async def _detach(told: Scene) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(*told.hosts.balancer.prefix, sys.executable, "-m", "qlb", "detach", str(told.daemon.path)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.mark.parametrize(
    ("attach", "mode", "seen"), [("native", "ipip", 1), ("generic", "l2", 2), ("generic", "gue", 2)]
)
async def test_where_it_is_attached(tmp_path: Path, attach: str, mode: str, seen: int) -> None:
    """In the driver or after it, as told: clients notice nothing. seen: what `ip` calls it."""
    async with scene(tmp_path, mode, forwarding={"attach": attach}) as told:
        async with in_progress([port.address for port in told.ports(3)]) as calls:
            told.rebind_all()
            await calls.until_more()
        assert calls.lost == []
        show = (*told.hosts.balancer.prefix, "ip", "-json", "link", "show", "in0")
        (link,) = json.loads(subprocess.run(show, capture_output=True, check=True).stdout)
        assert link["xdp"]["mode"] == seen


def _behind_bridges(made: Hosts) -> None:
    """Put a bridge before each backend, at the balancer."""
    for n in (1, 2):
        made.balancer.ip(
            f"link add br{n} type bridge\nlink set br{n} up\nlink set out{n} master br{n}\n"
            f"addr flush dev out{n}\naddr add 10.0.{n}.1/24 dev br{n}\naddr add fd00:{n}::1/64 dev br{n} nodad\n"
        )


def _behind_macvlans(made: Hosts) -> None:
    """Put an interface before each backend that accepts no redirected packets, and cannot be replaced."""
    for n in (1, 2):
        made.balancer.ip(
            f"link add m{n} link out{n} type macvlan mode bridge\nlink set m{n} up\n"
            f"addr flush dev out{n}\naddr add 10.0.{n}.1/24 dev m{n}\naddr add fd00:{n}::1/64 dev m{n} nodad\n"
        )


@pytest.mark.parametrize(
    ("prepare", "attach", "mode", "family", "seen"),
    [
        (_behind_bridges, "native", "ipip", 4, 1),
        (_behind_bridges, "auto", "l2", 6, 1),
        (_behind_bridges, "generic", "gue", 4, 2),
        (_behind_macvlans, "auto", "ipip", 4, 2),
        (_behind_macvlans, "generic", "l2", 4, 2),
    ],
)
async def test_ways_out_that_accept_no_redirects(
    tmp_path: Path, prepare: Callable[[Hosts], None], attach: str, mode: str, family: int, seen: int
) -> None:
    """Calls work all the same: by a bridge's port, or by a program after the driver. seen: as in the test above."""
    async with scene(tmp_path, mode, family=family, prepare=prepare, forwarding={"attach": attach}) as told:
        async with in_progress([port.address for port in told.ports(3)]) as calls:
            told.rebind_all()
            await calls.until_more()
        assert calls.lost == []
        assert (await told.daemon.status())["xdp"] == {"detached_interfaces": 0, "refused_backends": 0}
        show = (*told.hosts.balancer.prefix, "ip", "-json", "link", "show", "in0")
        (link,) = json.loads(subprocess.run(show, capture_output=True, check=True).stdout)
        assert link["xdp"]["mode"] == seen


async def test_demo_backends(tmp_path: Path) -> None:
    """`qlb decap` and the demo servers on two hosts, `qlb get` on a third: its address changes, its server does not."""
    with _network() as made:
        config = {
            "listen": [f"{SERVICES[4]}:{PORT}"],
            "cid_configs": [cid_config(PARAMS)],
            "backends": [
                {"name": name, "address": f"{address}:{PORT}", "server_ids": {"1": name.encode()[-4:].hex()}}
                for name, address in zip(NAMES, BACKENDS[4], strict=False)
            ],
            "forwarding": {"mode": "ipip", "interfaces": ["in0"]},
            "health": {"probe": "none"},
        }
        async with asyncio.timeout(LIMIT_S), AsyncExitStack() as stack:
            daemon = await stack.enter_async_context(
                running(tmp_path / "daemon", config, admin=(BALANCER, 9464), prefix=made.balancer.prefix)
            )
            for name, host in zip(NAMES, made.backends, strict=False):
                await stack.enter_async_context(_decapsulating(host, SERVICES[4]))
                server = (sys.executable, "-m", "qlb.demo.backends", str(daemon.path), name)
                await stack.enter_async_context(_until_ready(*host.prefix, *server))
            url = f"https://{SERVICES[4]}:{PORT}/"
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "qlb", "get", url, "--rebind", "3"), stdout=asyncio.subprocess.PIPE
            )
            output, _ = await process.communicate()
            assert process.returncode == 0
            assert len({name for name in NAMES if name in output.decode()}) == 1
            assert (await daemon.settled()).total("qlb_packets_forwarded_total", route="cid") > 0


IP_MTU_DISCOVER, IP_PMTUDISC_DO, IP_RECVERR, MSG_ERRQUEUE = 10, 2, 11, 0x2000
IPV6_MTU_DISCOVER, IPV6_RECVERR = 23, 25


@pytest.mark.parametrize(
    ("mode", "family", "outer", "overhead"),
    [("l2", 4, 4, 0), ("ipip", 4, 4, 20), ("ipip", 6, 6, 40), ("ipip", 4, 6, 40), ("gue", 6, 4, 28)],
)
async def test_too_big_for_the_path(tmp_path: Path, mode: str, family: int, outer: int, overhead: int) -> None:
    """A narrow link behind the balancer: the client's own kernel learns what fits, from the service's address."""
    async with scene(tmp_path, mode, family=family, outer=outer) as told:
        told.hosts.balancer.ip("link set out1 mtu 1400\nlink set out2 mtu 1400\n")
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        level = socket.IPPROTO_IP if family == 4 else socket.IPPROTO_IPV6
        discover, errors = (IP_MTU_DISCOVER, IP_RECVERR) if family == 4 else (IPV6_MTU_DISCOVER, IPV6_RECVERR)
        fits = 1400 - overhead - (28 if family == 4 else 48)
        with socket.socket(kind, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.setsockopt(level, discover, IP_PMTUDISC_DO)
            sock.setsockopt(level, errors, 1)
            sock.connect(told.service)
            for len_bytes in (fits, fits + 1):
                sock.send(datagrams.short(b"\xe0").ljust(len_bytes, b"\0"))
            mtu = await _reported_mtu(sock)
        assert mtu == 1400 - overhead
        found = await told.daemon.settled()
        assert found.total("qlb_packets_forwarded_total") == 1
        assert found.by("qlb_packets_dropped_total", "reason") == {"too_big": 1}
        assert found.total("qlb_icmp_sent_total") == 1


async def _reported_mtu(sock: socket.socket) -> int:
    """Return the MTU of struct sock_extended_err, from the socket's queue of errors."""
    readable = asyncio.get_running_loop().create_future()

    def look() -> None:
        try:
            _, ancillary, _, _ = sock.recvmsg(0, 512, MSG_ERRQUEUE)
        except BlockingIOError:
            return
        if not readable.done():
            readable.set_result(ancillary)

    poll = asyncio.get_running_loop()
    poll.add_reader(sock, look)
    try:
        ((_, _, octets),) = await readable
    finally:
        poll.remove_reader(sock)
    _, _, _, _, _, info, _ = struct.unpack_from("=IBBBBII", octets)
    return int(info)


@pytest.mark.parametrize(("mode", "family"), [("l2", 4), ("l2", 6), ("ipip", 6), ("gue", 4)])
async def test_errors_reach_the_backend(tmp_path: Path, mode: str, family: int) -> None:
    """An ICMP error that quotes a server's packet is heard by that server's kernel."""
    kind, protocol = (socket.AF_INET, socket.IPPROTO_ICMP) if family == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    async with scene(tmp_path, mode, family=family) as told:
        rotation = told.servers[1].rotation
        assert rotation is not None, "it speaks QUIC-LB"
        answer = datagrams.long(b"", rotation.generate(), bytes(600))
        quote = _udp_packet(SERVICES[family], CLIENT_ADDRESSES[family][0], 40000, answer)
        message = struct.pack("!BBHI", *((3, 4) if family == 4 else (2, 0)), 0, 1280) + quote[:500]
        if family == 4:  # the kernel sees to ICMPv6's
            message = message[:2] + struct.pack("!H", _checksum(message)) + message[4:]
        with told.hosts.backends[1].inside():
            ear = socket.socket(kind, socket.SOCK_RAW, protocol)
            ear.setblocking(False)
        with ear, socket.socket(kind, socket.SOCK_RAW, protocol) as mouth:
            mouth.sendto(message, (SERVICES[family], 0))
            heard = b""
            while not heard.endswith(message[8:]):  # there is neighbour discovery too
                heard = await asyncio.get_running_loop().sock_recv(ear, 2048)
        found = await told.daemon.settled()
        assert found.total("qlb_icmp_forwarded_total") == 1


def _udp_packet(source: str, destination: str, port: int, datagram: bytes) -> bytes:
    udp = struct.pack("!HHHH", PORT, port, 8 + len(datagram), 0) + datagram
    if ":" in source:
        head = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64)
        return head + b"".join(socket.inet_pton(socket.AF_INET6, one) for one in (source, destination)) + udp
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17, 0)
    return head + socket.inet_aton(source) + socket.inet_aton(destination) + udp


def _checksum(octets: bytes) -> int:
    total = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
