"""The kernel plane between real hosts: QUIC clients get direct answers, and no connection is lost.

Clients change their addresses during transfers. At the same time a backend is drained, the configuration is reloaded,
or the daemon is stopped, killed and started while its program stays attached.
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
from lab.xdp.packets import checksum
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
    """The parts of the scene. servers: on the service's address. family: of clients and service."""

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
        """Return the address to which clients send."""
        return SERVICES[self.family], PORT

    def ports(self, count: int) -> list[NatPort]:
        """Open NAT ports towards the service, one for each client."""
        host = CLIENT_ADDRESSES[self.family][0]
        return [self.nat.port(self.service, host=host) for _ in range(count)]

    def rebind_all(self) -> None:
        """Give every client a new port and the next address."""
        self.rebinds += 1
        addresses = CLIENT_ADDRESSES[self.family]
        for port in self.nat.ports:
            port.rebind(host=addresses[self.rebinds % len(addresses)])

    def config(self, params: Sequence[CidParams], **sections: Any) -> dict[str, Any]:
        """Return a configuration. sections: replace the sections of the same name."""
        return direct_configuration(self.servers, params, self.family, self.outer, self.mode, **sections)

    async def moved(self, port: NatPort) -> None:
        """Change a client's port, then twice its port and address, and wait for packets after each change."""
        for host in (None, *CLIENT_ADDRESSES[self.family][1:]):
            port.rebind(host=host)
            await port.until_flowing()


@contextmanager
def _network() -> Iterator[Hosts]:
    """Create the hosts. This thread is the client until the end of the block."""
    with hosts() as made, made.client.inside():
        yield made


@asynccontextmanager
async def _until_ready(*command: str) -> AsyncIterator[None]:
    """Run a command that prints "ready", and ends with 0 on SIGTERM."""
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
    """Set up the scene. outer: the family of the backends' own addresses. prepare: called before anything runs."""
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


async def _travel(stage: Scene, port: NatPort, number: int, folder: Path) -> Journey:
    if number % 2 and shutil.which("gtlsclient"):
        return await ngtcp2_journey(port, stage.gates, stage.moved, folder, ngtcp2.Mode.MIGRATE)
    return await aioquic_journey(port, stage.gates, stage.moved)


@each_way
async def test_answers_go_directly_to_clients(tmp_path: Path, mode: str, family: int, outer: int) -> None:
    """In three changes of address no connection is lost or changes its backend. No answer passes the balancer."""
    async with scene(tmp_path, mode, family=family, outer=outer) as stage:
        with datagrams_from(SERVICES[family], ("lb", "back1", "back2")) as received:
            journeys = await asyncio.gather(
                *(_travel(stage, port, number, tmp_path) for number, port in enumerate(stage.ports(CONNECTIONS)))
            )
        assert [journey.lost for journey in journeys if journey.lost] == []
        assert min(journey.changes for journey in journeys) >= 3
        assert Counter(journey.backend for journey in journeys) == {s.name: s.accepted for s in stage.servers}
        found = await stage.daemon.settled()
        assert found.total("qlb_packets_forwarded_total", route="cid") > 10 * CONNECTIONS
        dropped = {reason for reason, n in found.by("qlb_packets_dropped_total", "reason").items() if n}
        assert dropped <= {"too_big"}, "packets were dropped that ngtcp2's search for the path MTU does not explain"
        assert received["lb"] == 0
        assert received.total() >= sum(mapping.down for port in stage.nat.ports for mapping in port.mappings) > 0
        assert all(port.strays == [] for port in stage.nat.ports)


async def _drained(stage: Scene) -> None:
    """Drain a backend: new clients avoid it, and its connections stay."""
    assert (await stage.daemon.command("drain", NAMES[0]))[0] == 0
    accepted = stage.servers[0].accepted
    async with in_progress([port.address for port in stage.ports(5)]) as calls:
        await calls.until_more()
    assert (calls.lost, set(calls.backends)) == ([], {NAMES[1]})
    assert stage.servers[0].accepted == accepted


async def _reloaded(stage: Scene) -> None:
    """Reload ten times while packets flow: a second config ID comes and goes, weights and flow tables change."""
    for number in range(10):
        params = (PARAMS, OTHER_PARAMS) if number % 2 else (PARAMS,)
        flows = {"flow_table_size": str(1000 + number // 3)}
        config = stage.config(params, fallback=flows, forwarding={"keep_attached": "true"})
        config["backends"][0]["weight"] = str(number % 4)
        stage.daemon.write(config)
        assert (await stage.daemon.command("reload"))[0] == 0
        stage.rebind_all()


async def _restarted(stage: Scene) -> None:
    """Stop, and then kill, the daemon: the kernel continues with the last state, and clients may move."""
    for end in (stage.daemon.stop, stage.daemon.kill):
        await end()
        stage.rebind_all()
        for port in stage.nat.ports:
            await port.until_flowing()
        await stage.daemon.start()
        stage.rebind_all()


async def _upgraded(stage: Scene) -> None:
    """Upgrade three times: each time, a new process and its program take over between two packets."""
    for _ in range(3):
        await stage.daemon.upgrade()
        stage.rebind_all()


@pytest.mark.parametrize("change", [_drained, _reloaded, _restarted, _upgraded])
@pytest.mark.parametrize(("mode", "family"), [("l2", 4), ("ipip", 6), ("gue", 4)])
async def test_nothing_is_lost_during_an_event(tmp_path: Path, mode: str, family: int, change: Change) -> None:
    """Calls are in progress and change their addresses during an event, and none is lost."""
    forwarding = {"keep_attached": "true"}
    async with scene(tmp_path, mode, family=family, forwarding=forwarding) as stage:
        async with in_progress([port.address for port in stage.ports(CONNECTIONS)], timeout_s=LIMIT_S) as calls:
            await change(stage)
            stage.rebind_all()
            await calls.until_more()
        assert calls.lost == []
        assert set(calls.backends) <= set(NAMES)
        await stage.daemon.settled()
        code, _ = await _detach(stage)
        assert code == 0


async def _detach(stage: Scene) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(*stage.hosts.balancer.prefix, sys.executable, "-m", "qlb", "detach", str(stage.daemon.path)),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest.mark.parametrize(
    ("attach", "mode", "seen"), [("native", "ipip", 1), ("generic", "l2", 2), ("generic", "gue", 2)]
)
async def test_the_attach_mode(tmp_path: Path, attach: str, mode: str, seen: int) -> None:
    """The program is attached in the driver or after it, as configured. seen: the mode that `ip` reports."""
    async with scene(tmp_path, mode, forwarding={"attach": attach}) as stage:
        async with in_progress([port.address for port in stage.ports(3)]) as calls:
            stage.rebind_all()
            await calls.until_more()
        assert calls.lost == []
        show = (*stage.hosts.balancer.prefix, "ip", "-json", "link", "show", "in0")
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
    """Put an interface before each backend that accepts no redirected packets and cannot be replaced."""
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
async def test_interfaces_that_accept_no_redirects(
    tmp_path: Path, prepare: Callable[[Hosts], None], attach: str, mode: str, family: int, seen: int
) -> None:
    """Calls work through such an interface: by a bridge's port, or by a program after the driver. seen: as above."""
    async with scene(tmp_path, mode, family=family, prepare=prepare, forwarding={"attach": attach}) as stage:
        async with in_progress([port.address for port in stage.ports(3)]) as calls:
            stage.rebind_all()
            await calls.until_more()
        assert calls.lost == []
        assert (await stage.daemon.status())["xdp"] == {"detached_interfaces": 0, "refused_backends": 0}
        show = (*stage.hosts.balancer.prefix, "ip", "-json", "link", "show", "in0")
        (link,) = json.loads(subprocess.run(show, capture_output=True, check=True).stdout)
        assert link["xdp"]["mode"] == seen


async def test_demo_backends(tmp_path: Path) -> None:
    """With `qlb decap` and demo servers on two hosts, a client stays on one server when its address changes."""
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
                *(sys.executable, "-m", "qlb", "demo", "get", url, "--rebind", "3"), stdout=asyncio.subprocess.PIPE
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
    """If a link behind the balancer is narrow, the client gets ICMP errors from the service's address, with the MTU."""
    async with scene(tmp_path, mode, family=family, outer=outer) as stage:
        stage.hosts.balancer.ip("link set out1 mtu 1400\nlink set out2 mtu 1400\n")
        kind = socket.AF_INET if family == 4 else socket.AF_INET6
        level = socket.IPPROTO_IP if family == 4 else socket.IPPROTO_IPV6
        discover, errors = (IP_MTU_DISCOVER, IP_RECVERR) if family == 4 else (IPV6_MTU_DISCOVER, IPV6_RECVERR)
        fits = 1400 - overhead - (28 if family == 4 else 48)
        with socket.socket(kind, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.setsockopt(level, discover, IP_PMTUDISC_DO)
            sock.setsockopt(level, errors, 1)
            sock.connect(stage.service)
            for len_bytes in (fits, fits + 1):
                sock.send(datagrams.short(b"\xe0").ljust(len_bytes, b"\0"))
            mtu = await _reported_mtu(sock)
        assert mtu == 1400 - overhead
        found = await stage.daemon.settled()
        assert found.total("qlb_packets_forwarded_total") == 1
        assert found.by("qlb_packets_dropped_total", "reason") == {"too_big": 1}
        assert found.total("qlb_icmp_sent_total") == 1


async def _reported_mtu(sock: socket.socket) -> int:
    """Return the MTU of struct sock_extended_err, from the socket's error queue."""
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
    """An ICMP error that quotes a server's packet reaches that server's kernel."""
    kind, protocol = (socket.AF_INET, socket.IPPROTO_ICMP) if family == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    async with scene(tmp_path, mode, family=family) as stage:
        rotation = stage.servers[1].rotation
        assert rotation is not None, "the server has no QUIC-LB generator"
        answer = datagrams.long(b"", rotation.generate(), bytes(600))
        quote = _udp_packet(SERVICES[family], CLIENT_ADDRESSES[family][0], 40000, answer)
        message = struct.pack("!BBHI", *((3, 4) if family == 4 else (2, 0)), 0, 1280) + quote[:500]
        if family == 4:  # the kernel computes the checksum of ICMPv6
            message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
        with stage.hosts.backends[1].inside():
            receiver = socket.socket(kind, socket.SOCK_RAW, protocol)
            receiver.setblocking(False)
        with receiver, socket.socket(kind, socket.SOCK_RAW, protocol) as sender:
            sender.sendto(message, (SERVICES[family], 0))
            received = b""
            while not received.endswith(message[8:]):  # neighbour discovery arrives too
                received = await asyncio.get_running_loop().sock_recv(receiver, 2048)
        found = await stage.daemon.settled()
        assert found.total("qlb_icmp_forwarded_total") == 1


def _udp_packet(source: str, destination: str, port: int, datagram: bytes) -> bytes:
    udp = struct.pack("!HHHH", PORT, port, 8 + len(datagram), 0) + datagram
    if ":" in source:
        head = struct.pack("!IHBB", 6 << 28, len(udp), 17, 64)
        return head + b"".join(socket.inet_pton(socket.AF_INET6, one) for one in (source, destination)) + udp
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17, 0)
    return head + socket.inet_aton(source) + socket.inet_aton(destination) + udp
