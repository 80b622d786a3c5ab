"""Exits of a real network: packets are redirected only to interfaces that accept them, else dropped and counted."""

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
"""A backend behind an interface that a test creates."""


def ip(commands: str) -> None:
    """Run lines of `ip -batch`."""
    subprocess.run(["ip", "-batch", "-"], input=commands, text=True, check=True)


def frame(family: int = 4, vlan: int | None = None, payload: bytes = bytes(30)) -> bytes:
    """Return a client's frame for backend 0."""
    return ethernet(udp((CLIENTS[family], 5555), (SERVICES[family], PORT), short(cid_of(0), payload)), vlan=vlan)


def address(interface: str) -> str:
    """Return ip commands that give an interface its own network, with BEHIND in it."""
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
    """Packets to such an exit are dropped and counted; watch() and a check before the start report it."""
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


def test_auto_uses_generic_mode_if_only_that_reaches_the_backends(scene: Scene) -> None:
    """If the exit does not accept redirects from a driver, auto attaches in generic mode and packets arrive."""
    ip(EXITS["macvlan"] + address("x0"))
    plane = scene.plane("ipip", pool([BEHIND]))
    plane.start()
    assert "xdpgeneric" in subprocess.run(["ip", "link", "show", "in0"], capture_output=True, text=True).stdout
    found = plane.watch()
    assert (found.refusals, found.unreached) == ((), False)
    result = forward(plane, frame())
    assert (result.action, result.packet[:6]) == (XDP_REDIRECT, b"\x02\0\0\0\0\x77")


def test_a_veth_that_starts_to_accept_packets(scene: Scene) -> None:
    """watch() notices when the other end of a veth starts or stops accepting redirects."""
    ip(EXITS["veth without GRO"] + address("x0"))
    plane = scene.plane("ipip", pool([BEHIND]))
    for on, outcome, faults in ((1, XDP_REDIRECT, 0), (0, XDP_DROP, 1)):
        set_gro("x1", on)
        assert len(plane.watch().refusals) == faults
        assert forward(plane, frame()).action == outcome, "earlier next hops are not used again"


def forward_afresh(plane: XdpPlane, octets: bytes | None = None) -> libbpf.TestedPacket:
    """Forward a frame with a new look-up of the next hop."""
    plane.apply(plane._orders)
    return forward(plane, octets or frame())


def test_an_exit_that_appears_later(scene: Scene) -> None:
    """An exit that was created after the start is used after the next watch()."""
    plane = scene.plane("ipip", pool([BEHIND]))
    assert forward(plane, frame()).action == XDP_DROP
    ip(EXITS["veth without GRO"] + address("x0"))
    set_gro("x1")
    assert forward_afresh(plane).action == XDP_DROP
    assert counted(plane) == {"drop_no_route": 2}
    plane.watch()
    assert forward_afresh(plane).action == XDP_REDIRECT


def test_a_route_that_moves_to_an_exit_that_accepts_no_packets(scene: Scene) -> None:
    """Packets are dropped at once, and the next watch() reports the exit."""
    plane = scene.plane("ipip", pool([BEHIND]))
    ip("route add 10.7.0.0/24 via 10.0.0.2")
    plane.watch()
    assert forward_afresh(plane).action == XDP_REDIRECT
    ip("route del 10.7.0.0/24 via 10.0.0.2\n" + EXITS["macvlan"] + address("x0"))
    assert forward_afresh(plane).action == XDP_DROP
    assert plane.watch().refusals[0].interface == "x0"


def test_an_exit_that_goes_down(scene: Scene) -> None:
    """While an exit is down, packets are dropped as no_route; when it is up, it is used again."""
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
    """An exit without carrier is not used, although the kernel may still return it, because no packet would arrive."""
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
    """Packets to a backend on this machine are dropped as no_route, and no exit is reported."""
    plane = scene.plane("ipip", pool([SOURCES[4]]))
    assert forward(plane, frame()).action == XDP_DROP
    assert counted(plane) == {"drop_no_route": 1}
    assert plane.watch().refusals == ()


@pytest.mark.parametrize("mode", ["l2", "ipip", "gue"])
def test_a_bridge_with_ports(scene: Scene, mode: str) -> None:
    """The packet leaves by the port behind which the bridge has seen the next hop, and by no other port."""
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
    result = forward(plane, frame())
    assert (result.action, result.packet[:6]) == (XDP_REDIRECT, b"\x02\0\0\0\0\x77")
    assert plane.explain(frame()).interface == socket.if_nametoindex("p1")
    assert plane.watch().refusals == ()
    ip("link set p1 down")
    plane.watch()
    assert forward_afresh(plane).action == XDP_DROP
    assert counted(plane) == {"cid_config_1": 1, "drop_no_route": 1}


@pytest.mark.parametrize("mode", ["l2", "ipip", "gue"])
@pytest.mark.parametrize("came_with", [None, 5])
@pytest.mark.parametrize("back", [False, True])
def test_packets_to_a_vlan_leave_by_its_parent(scene: Scene, mode: str, came_with: int | None, back: bool) -> None:
    """The exit's tag replaces the tag of the packet, if any; the rest of the frame is as without a tag.

    The kernel may have no VLAN interfaces, so the test writes the map's entry itself. test_exits.py tests the rule.
    """
    host, out, macs = ("192.0.2.2", "in0", 0x22) if back else (BACKENDS[4][0], "out0", 2)
    plane = scene.plane(mode, pool([host]))
    plain = frame()
    tagged = plain if came_with is None else plain[:12] + b"\x81\0" + came_with.to_bytes(2, "big") + plain[12:]
    untagged = forward(plane, plain)
    index = {name: socket.if_nametoindex(name) for name in ("in0", out)}
    key = EXIT_KEY.pack(ingress=index["in0"], interface=index[out], mac=bytes(6))
    plane._exits.set(key, EXIT.pack(interface=index[out], vlan=7))
    result = forward_afresh(plane, tagged)
    assert result.action == XDP_REDIRECT
    assert result.packet[5] == macs
    assert result.packet == untagged.packet[:12] + b"\x81\0\0\7" + untagged.packet[12:]


@pytest.mark.parametrize("family", [4, 6])
def test_no_answer_that_cannot_leave(scene: Scene, family: int) -> None:
    """An ICMP answer that cannot leave by the client's interface is neither sent nor counted as sent."""
    set_gro("in1", 0)
    plane = scene.plane("ipip", pool([NARROW[family]]))
    assert forward(plane, frame(family, payload=bytes(1400))).action == XDP_DROP
    assert counted(plane) == {"drop_too_big": 1}
    assert plane.read_counters().slots[slots.ICMP_SENT] == 0


def test_a_link_local_backend(scene: Scene) -> None:
    """Packets to a link-local backend are dropped, counted and reported: BPF look-ups do not support such addresses."""
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
    """A backend with an IPv4-mapped IPv6 address is treated as one with the IPv4 address."""
    allow_forwarding("in0", "ipv6", 0)  # which an IPv4 backend does not need
    plane = scene.plane(mode, pool([f"::ffff:{BACKENDS[4][0]}"]))
    plain = scene.plane(mode, pool(BACKENDS[4]))
    one = frame()
    assert forward(plane, one).packet == forward(plain, one).packet
    assert plane.watch().refusals == ()


def test_the_outer_source_follows_the_machines_addresses(scene: Scene) -> None:
    """After an address was removed, another one is the outer source; without any, packets are dropped."""
    plane = scene.plane("ipip", pool(BACKENDS[4]))

    def source() -> str:
        plane.watch()
        result = forward_afresh(plane)
        return read_ip(result.packet[14:]).source if result.action == XDP_REDIRECT else "dropped"

    assert source() == SOURCES[4]
    ip("addr del 10.0.0.1/24 dev out0\naddr add 10.0.0.9/24 dev out0")
    ip("neigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 nud permanent dev out0")
    assert source() == "10.0.0.9"
    ip("addr del 10.0.0.9/24 dev out0")
    assert source() == "dropped"
    ip("addr add 10.0.0.1/24 dev out0\nneigh replace 10.0.0.2 lladdr 02:00:00:00:00:02 nud permanent dev out0")
    assert source() == SOURCES[4]
