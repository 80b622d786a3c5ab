"""Ways out of a real network: packets by those that accept none are dropped and counted, the others are used."""

import socket
import subprocess
from typing import Final

import pytest

from lab.xdp.packets import ethernet, read_ip, udp
from lab.xdp.scene import (
    BACKENDS,
    CLIENTS,
    NARROW,
    PORT,
    SERVICES,
    SOURCES,
    Scene,
    allow_forwarding,
    cid_of,
    forward,
    pool,
    set_gro,
    short,
)
from qlb.dataplane.xdp import libbpf
from qlb.dataplane.xdp.interfaces import find_faults
from qlb.dataplane.xdp.layout import EXIT, EXIT_KEY
from qlb.dataplane.xdp.libbpf import XDP_DROP, XDP_REDIRECT
from qlb.dataplane.xdp.plane import XdpPlane
from qlb.routing import counters as slots
from tests.dataplane.xdp.test_refusals import counted

pytestmark = pytest.mark.toolchain

BEHIND: Final = "10.7.0.2"
"""A backend behind an interface that a test makes."""


def ip(commands: str) -> None:
    """Run lines of `ip -batch`."""
    subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True)


def frame(family: int = 4, vlan: int | None = None, payload: bytes = bytes(30)) -> bytes:
    """Return a client's frame for backend 0."""
    return ethernet(udp((CLIENTS[family], 5555), (SERVICES[family], PORT), short(cid_of(0), payload)), vlan=vlan)


def address(interface: str) -> str:
    """Give an interface a network of its own, with BEHIND in it."""
    return f"""
link set {interface} up
addr add 10.7.0.1/24 dev {interface}
neigh add {BEHIND} lladdr 02:00:00:00:00:77 nud permanent dev {interface}
"""


EXITS: Final = {
    "veth without GRO": "link add x0 type veth peer name x1\nlink set x1 up\n",
    "bridge": "link add x0 type bridge\n",
    "macvlan": "link add x0 link out0 type macvlan mode bridge\n",
    "vxlan": "link add x0 type vxlan id 7 remote 10.0.0.2 dstport 4789\n",
}


@pytest.mark.parametrize("name", EXITS)
def test_an_exit_that_accepts_no_packets(scene: Scene, name: str) -> None:
    """Dropped and counted, never as forwarded; found by the first look, and by a check before."""
    ip(EXITS[name] + address("x0"))
    plane = scene.plane("ipip", pool([BEHIND]), attach="native")
    plane.start()
    assert forward(plane, frame()).action == XDP_DROP
    assert counted(plane) == {"drop_no_route": 1}
    found = plane.watch()
    (refusal,) = found.refusals
    assert (refusal.interface, refusal.backends, found.unreached) == ("x0", ("b0",), True)
    assert find_faults(("in0",), "native", {"b0": BEHIND}) == (str(refusal),)
    assert find_faults(("in0",), "auto", {"b0": BEHIND}) == ()


def test_auto_attaches_after_the_driver_where_only_that_reaches_the_backends(scene: Scene) -> None:
    """Slower, but packets arrive; with a backend that is reached from the driver it stays there."""
    ip(EXITS["macvlan"] + address("x0"))
    plane = scene.plane("ipip", pool([BEHIND]))
    plane.start()
    assert "xdpgeneric" in subprocess.run(["ip", "link", "show", "in0"], capture_output=True, text=True).stdout
    found = plane.watch()
    assert (found.refusals, found.unreached) == ((), False)
    told = forward(plane, frame())
    assert (told.action, told.packet[:6]) == (XDP_REDIRECT, b"\x02\0\0\0\0\x77")


def test_a_veth_that_begins_to_accept(scene: Scene) -> None:
    """Its other end is changed while the program runs: the next look finds it, both ways."""
    ip(EXITS["veth without GRO"] + address("x0"))
    plane = scene.plane("ipip", pool([BEHIND]))
    for on, outcome, faults in ((1, XDP_REDIRECT, 0), (0, XDP_DROP, 1)):
        set_gro("x1", on)
        assert len(plane.watch().refusals) == faults
        assert forward(plane, frame()).action == outcome, "next hops that were asked for before are forgotten"


def forward_afresh(plane: XdpPlane, octets: bytes | None = None) -> libbpf.TestedPacket:
    """Forward a frame after the kernel's earlier answers about next hops were forgotten."""
    plane.apply(plane._orders)
    return forward(plane, octets or frame())


def test_an_exit_that_appears_later(scene: Scene) -> None:
    """A route moves to an interface that was not there at the start: refused until the next look, then used."""
    plane = scene.plane("ipip", pool([BEHIND]))
    assert forward(plane, frame()).action == XDP_DROP
    ip(EXITS["veth without GRO"] + address("x0"))
    set_gro("x1")
    assert forward_afresh(plane).action == XDP_DROP
    assert counted(plane) == {"drop_no_route": 2}
    plane.watch()
    assert forward_afresh(plane).action == XDP_REDIRECT


def test_a_route_that_moves_to_an_exit_that_accepts_none(scene: Scene) -> None:
    """Found by the next thorough look; dropped at once."""
    plane = scene.plane("ipip", pool([BEHIND]))
    ip("route add 10.7.0.0/24 via 10.0.0.2")
    plane.watch()
    assert forward_afresh(plane).action == XDP_REDIRECT
    ip("route del 10.7.0.0/24 via 10.0.0.2\n" + EXITS["macvlan"] + address("x0"))
    assert forward_afresh(plane).action == XDP_DROP
    assert plane.watch().refusals[0].interface == "x0"


def test_an_exit_that_goes_down(scene: Scene) -> None:
    """No route by it any more; it is used again once it is up."""
    plane = scene.plane("ipip", pool(BACKENDS[4]))
    assert forward(plane, frame()).action == XDP_REDIRECT
    ip("link set out0 down")
    plane.watch()
    assert forward_afresh(plane).action == XDP_DROP
    ip("link set out0 up\nneigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 nud permanent dev out0")
    plane.watch()
    assert forward_afresh(plane).action == XDP_REDIRECT
    assert counted(plane) == {"cid_config_1": 2, "drop_no_route": 1}


def test_an_exit_without_a_carrier(scene: Scene) -> None:
    """The kernel may go on to name it; nothing would arrive."""
    plane = scene.plane("ipip", pool(BACKENDS[4]))
    ip("link set out1 down")
    plane.watch()
    assert forward_afresh(plane).action == XDP_DROP
    assert counted(plane) == {"drop_no_route": 1}
    assert "no carrier" in str(plane.watch().refusals[0])
    ip("link set out1 up")
    plane.watch()
    assert forward_afresh(plane).action == XDP_REDIRECT


def test_a_backend_that_is_this_machine(scene: Scene) -> None:
    """The kernel does not forward to itself: counted as no route, and no exit is blamed."""
    plane = scene.plane("ipip", pool([SOURCES[4]]))
    assert forward(plane, frame()).action == XDP_DROP
    assert counted(plane) == {"drop_no_route": 1}
    assert plane.watch().refusals == ()


@pytest.mark.parametrize("mode", ["l2", "ipip", "gue"])
def test_a_bridge_with_ports(scene: Scene, mode: str) -> None:
    """The packet leaves by the port behind which the bridge has seen the next hop, and by no other."""
    ports = "".join(
        f"link add p{n} type veth peer name q{n}\nlink set p{n} up\nlink set q{n} up\nlink set p{n} master x0\n"
        for n in range(2)
    )
    ip(EXITS["bridge"] + ports + address("x0"))
    for port in ("q0", "q1"):
        set_gro(port)
    subprocess.run("bridge fdb add 02:00:00:00:00:77 dev p1 master static", shell=True, check=True)
    plane = scene.plane(mode, pool([BEHIND]))
    plane.watch()
    told = forward(plane, frame())
    assert (told.action, told.packet[:6]) == (XDP_REDIRECT, b"\x02\0\0\0\0\x77")
    assert plane.explain(frame()).interface == socket.if_nametoindex("p1")
    assert plane.watch().refusals == ()
    ip("link set p1 down")
    plane.watch()
    assert forward_afresh(plane).action == XDP_DROP
    assert counted(plane) == {"cid_config_1": 1, "drop_no_route": 1}


@pytest.mark.parametrize("mode", ["l2", "ipip", "gue"])
@pytest.mark.parametrize("came_with", [None, 5])
@pytest.mark.parametrize("back", [False, True])
def test_a_vlan_is_left_by_its_parent(scene: Scene, mode: str, came_with: int | None, back: bool) -> None:
    """The tag is written, whatever tag the packet came with, and all else is as without one.

    The kernel at hand may have no VLAN interfaces, so the map's row is written by hand; test_exits.py has the rule.
    """
    host, out, macs = ("192.0.2.2", "in0", 0x22) if back else (BACKENDS[4][0], "out0", 2)
    plane = scene.plane(mode, pool([host]))
    plain = frame()
    tagged = plain if came_with is None else plain[:12] + b"\x81\0" + came_with.to_bytes(2, "big") + plain[12:]
    untagged = forward(plane, plain)
    index = {name: socket.if_nametoindex(name) for name in ("in0", out)}
    key = EXIT_KEY.pack(ingress=index["in0"], interface=index[out], mac=bytes(6))
    plane._exits.set(key, EXIT.pack(interface=index[out], vlan=7))
    told = forward_afresh(plane, tagged)
    assert told.action == XDP_REDIRECT
    assert told.packet[5] == macs
    assert told.packet == untagged.packet[:12] + b"\x81\0\0\7" + untagged.packet[12:]


@pytest.mark.parametrize("family", [4, 6])
def test_no_answer_that_cannot_leave(scene: Scene, family: int) -> None:
    """ICMP messages to clients are subject to the same rule, and not counted as sent where they cannot be."""
    set_gro("in1", 0)
    plane = scene.plane("ipip", pool([NARROW[family]]))
    assert forward(plane, frame(family, payload=bytes(1400))).action == XDP_DROP
    assert counted(plane) == {"drop_too_big": 1}
    assert plane.read_counters().slots[slots.ICMP_SENT] == 0


def test_a_link_local_backend(scene: Scene) -> None:
    """The kernel answers no program about such addresses: dropped and counted, reported, and never sent elsewhere."""
    ip("neigh add fe80::77 lladdr 02:00:00:00:00:77 nud permanent dev out0")
    for interface in ("out0", "nowhere0"):
        plane = scene.plane("ipip", pool([f"fe80::77%{interface}"]))
        assert forward(plane, frame()).action == XDP_DROP
        assert counted(plane) == {"drop_no_route": 1}
        found = plane.watch()
        assert "link-local" in str(found.refusals[0])
        assert found.unreached


@pytest.mark.parametrize("mode", ["l2", "ipip", "gue"])
def test_a_mapped_backend(scene: Scene, mode: str) -> None:
    """An IPv4 address in its IPv6 form is that IPv4 address, in every way."""
    allow_forwarding("in0", "ipv6", 0)  # which an IPv4 backend does not need
    plane = scene.plane(mode, pool([f"::ffff:{BACKENDS[4][0]}"]))
    plain = scene.plane(mode, pool(BACKENDS[4]))
    one = frame()
    assert forward(plane, one).packet == forward(plain, one).packet
    assert plane.watch().refusals == ()


def test_the_outer_source_follows_the_machines_addresses(scene: Scene) -> None:
    """An address that is taken away is not sent from any more; without any, packets are dropped."""
    plane = scene.plane("ipip", pool(BACKENDS[4]))

    def source() -> str:
        plane.watch()
        told = forward_afresh(plane)
        return read_ip(told.packet[14:]).source if told.action == XDP_REDIRECT else "dropped"

    assert source() == SOURCES[4]
    ip("addr del 10.0.0.1/24 dev out0\naddr add 10.0.0.9/24 dev out0")
    ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 nud permanent dev out0")
    assert source() == "10.0.0.9"
    ip("addr del 10.0.0.9/24 dev out0")
    assert source() == "dropped"
    ip("addr add 10.0.0.1/24 dev out0\nneigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 nud permanent dev out0")
    assert source() == SOURCES[4]
