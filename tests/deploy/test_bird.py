"""Tests of deploy/bird/: two nodes announce one address to a real router while qlb is ready; no call is lost."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from lab.clients import in_progress
from lab.daemon import Daemon, configuration, running
from lab.deploy.bird import Bird, announcing, bird, until_next_hops
from lab.deploy.tools import DEPLOY, run, tool
from lab.hosts import Host, new_host
from lab.nat import Nat
from lab.quic_servers import QuicServerBehind, quic_servers
from lab.stage import NAMES, PARAMS
from lab.stories import Gates

FOLDER: Final = DEPLOY / "bird"
SERVICES: Final = ((4, "192.0.2.1"), (6, "2001:db8::1"))
PORT: Final = 443
BACKEND: Final = "10.9.0.1"
CLIENTS: Final = tuple(f"10.8.0.{number}" for number in range(1, 13))
LIMIT_S: Final = 360.0
NODES: Final = (
    {"NODE": "198.51.100.7", "ROUTER": "198.51.100.1", "NODE6": "2001:db8:7::7", "ROUTER6": "2001:db8:7::1"},
    {"NODE": "203.0.113.7", "ROUTER": "203.0.113.1", "NODE6": "2001:db8:8::7", "ROUTER6": "2001:db8:8::1"},
)
ROUTER: Final = """
router id 198.51.100.1;
protocol device { scan time 1; }
protocol direct { ipv4; ipv6; }
protocol kernel { ipv4 { export where source = RTS_BGP; }; merge paths on; }
protocol kernel { ipv6 { export where source = RTS_BGP; }; merge paths on; }
protocol bfd { interface "*" { min rx interval 100 ms; min tx interval 100 ms; multiplier 3; }; }
"""
NEIGHBOUR: Final = """
protocol bgp {{ local {local} as 65000; neighbor {neighbour} as 65007; passive; bfd on;
  ipv{family} {{ import all; export none; }}; }}
"""


def test_bird_accepts_the_sample() -> None:
    """Bird -p prints nothing about the sample."""
    assert run(tool("bird", "bird2"), "-p", "-c", FOLDER / "bird.conf") == ""


def test_the_service_is_confined(tmp_path: Path) -> None:
    """systemd-analyze accepts every line, and rates the exposure of the service below 2.0."""
    text = (FOLDER / "qlb-announce.service").read_text().replace("/usr/local/bin/qlb-announce", "/bin/true")
    (tmp_path / "qlb-announce.service").write_text(text.replace("/usr/sbin/birdc", "/bin/true"))
    analyze = tool("systemd-analyze", "systemd")
    assert run(analyze, "verify", tmp_path / "qlb-announce.service") == ""
    found = run(analyze, "security", "--offline=yes", "--no-pager", tmp_path / "qlb-announce.service")
    match = re.search(r"Overall exposure level for qlb-announce.service: ([\d.]+)", found)
    assert match, found
    assert float(match[1]) < 2.0


@dataclass
class Node:
    """One of the two nodes. link: the router's interface to it."""

    host: Host
    bird: Bird
    daemon: Daemon
    announcer: asyncio.subprocess.Process
    link: str


@dataclass
class Scene:
    """The hosts and processes of a test. world: the host of clients, router and servers."""

    world: Host
    nodes: list[Node]
    servers: list[QuicServerBehind]
    servers_running: AsyncExitStack
    nat: Nat

    async def announced_by(self, *nodes: Node) -> None:
        """Wait until the routes to the service lead to exactly these nodes."""
        await until_next_hops(self.world, SERVICES, {node.link for node in nodes})


def _link(world: Host, node: Host, number: int) -> str:
    """Connect a node to the world; return the world's interface."""
    name, at = f"node{number}", NODES[number]
    world.ip(f"""
        link add {name} type veth peer name eth0 netns {node.path}
        addr add {at["ROUTER"]}/24 dev {name}
        addr add {at["ROUTER6"]}/64 dev {name} nodad
        link set {name} up
    """)
    node.ip(f"""
        link set lo up
        addr add 192.0.2.1/32 dev lo
        addr add 2001:db8::1/128 dev lo nodad
        link set eth0 up
        addr add {at["NODE"]}/24 dev eth0
        addr add {at["NODE6"]}/64 dev eth0 nodad
        route add default via {at["ROUTER"]}
        route add default via {at["ROUTER6"]}
    """)
    return name


def _of_node(number: int) -> str:
    """Return the sample with the definitions of node NUMBER."""
    text = (FOLDER / "bird.conf").read_text()
    for name, address in NODES[number].items():
        text, count = re.subn(rf"^define {name} = .*;$", f"define {name} = {address};", text, flags=re.MULTILINE)
        assert count == 1
    return text


@asynccontextmanager
async def anycast(folder: Path) -> AsyncIterator[Scene]:
    """Run two nodes, each with BIRD, qlb and qlb-announce, before two servers. Routes may not be announced yet."""
    with ExitStack() as hosts:
        world, *nodes = (hosts.enter_context(new_host()) for _ in range(3))
        world.ip("link set lo up\n" + "".join(f"addr add {own}/32 dev lo\n" for own in (BACKEND, *CLIENTS)))
        links = [_link(world, node, number) for number, node in enumerate(nodes)]
        hosts.enter_context(world.inside())
        Path("/proc/sys/net/ipv4/fib_multipath_hash_policy").write_text("1")  # include ports, as routers do
        async with asyncio.timeout(LIMIT_S), AsyncExitStack() as stack, AsyncExitStack() as servers_running:
            servers = await servers_running.enter_async_context(quic_servers(NAMES[:2], PARAMS, Gates(), host=BACKEND))
            router = ROUTER + "".join(
                NEIGHBOUR.format(local=at[f"ROUTER{six}"], neighbour=at[f"NODE{six}"], family=6 if six else 4)
                for at in NODES
                for six in ("", "6")
            )
            await stack.enter_async_context(bird(world, folder / "router", router))
            nodes_running = []
            for number, (node, link) in enumerate(zip(nodes, links, strict=True)):
                its_bird = await stack.enter_async_context(bird(node, folder / f"bird{number}", _of_node(number)))
                health = {"interval": "100ms", "timeout": "500ms", "rise": "1", "fall": "3"}
                services = [(address, PORT) for _, address in SERVICES]
                config = configuration(services, [PARAMS], servers, health=health, shutdown_delay="4s")
                daemon = await stack.enter_async_context(
                    running(
                        folder / f"qlb{number}",
                        config,
                        may_log_errors=True,
                        admin=(NODES[number]["NODE"], 9464),
                        prefix=node.prefix,
                    )
                )
                announcer = await stack.enter_async_context(
                    announcing(
                        FOLDER / "qlb-announce",
                        its_bird,
                        "anycast*",
                        *("--unix-socket", str(daemon.socket), "http://qlb/readyz"),
                    )
                )
                nodes_running.append(Node(node, its_bird, daemon, announcer, link))
            yield Scene(world, nodes_running, servers, servers_running, stack.enter_context(Nat()))


@pytest.mark.e2e
@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
async def test_a_node_that_is_not_ready_is_withdrawn(tmp_path: Path) -> None:
    """A node that is killed, stopped or without servers is withdrawn and later announced again; no call is lost."""
    tool("curl", "curl")
    async with anycast(tmp_path) as scene:
        one, other = scene.nodes
        await scene.announced_by(one, other)
        ports = [scene.nat.port((SERVICES[0][1], PORT), host=client) for client in CLIENTS]
        async with in_progress([port.address for port in ports], timeout_s=LIMIT_S) as calls:
            await calls.until_more()
            for node in scene.nodes:
                assert (await node.daemon.metrics()).total("qlb_packets_forwarded_total", route="cid") > 0
                assert "Up" in await node.bird.ask("show bfd sessions")
            await one.daemon.kill()
            await scene.announced_by(other)
            scene.nat.rebind_all()
            await calls.until_more()
            await one.daemon.start()
            await scene.announced_by(one, other)
            await calls.until_more()
            other.daemon.terminate()
            await scene.announced_by(one)
            assert (await other.daemon.metrics()).total("qlb_build_info") == 1, "the withdrawn node still runs"
            scene.nat.rebind_all()
            await calls.until_more()
            assert await other.daemon.stop() == 0
            await other.daemon.start()
            await scene.announced_by(one, other)
            one.announcer.terminate()
            await scene.announced_by(other)
            await calls.until_more()
        assert calls.lost == []
        assert sum(server.accepted for server in scene.servers) == len(CLIENTS)
        await scene.servers_running.aclose()
        await scene.announced_by()
