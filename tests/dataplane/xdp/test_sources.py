"""Sources that no client can have are dropped before the decision, and packets cannot loop endlessly."""

from typing import Final

import pytest

from lab.xdp.packets import ethernet, read_ip, udp
from lab.xdp.scene import (
    BACKENDS,
    CLIENTS,
    PORT,
    SERVICES,
    SOURCES,
    Scene,
    cid_of,
    forward,
    orders,
    pool,
    short,
)
from qlb.addresses import Endpoint
from qlb.dataplane.xdp.libbpf import XDP_DROP, XDP_REDIRECT
from qlb.dataplane.xdp.plane import XdpPlane
from qlb.dataplane.xdp.program import XdpSettings
from tests.dataplane.xdp.test_refusals import counted

pytestmark = pytest.mark.toolchain

BAD: Final = {
    4: ("0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.0.9", "224.0.0.1", "239.1.2.3", "255.255.255.255"),
    6: ("::", "::1", "ff02::1", "ff0e::7", "::ffff:198.51.100.7"),
}
GOOD: Final = {
    4: ("1.0.0.0", "126.1.1.1", "128.0.0.1", "223.255.255.255", "240.0.0.1", "255.255.255.254", SERVICES[4]),
    6: ("::2", "::1:0:0:1", "1::", "fe80::7", "fd00::7", "fe00::1", "64:ff9b::1.2.3.4", SERVICES[6]),
}
MTU: Final = 1500
OTHER_PORT: Final = PORT + 64
"""The port of a second service. Its last six bits are those of PORT."""


def plane_of(scene: Scene, mode: str, family: int) -> XdpPlane:
    """Return a plane with two service addresses in each family, on two ports."""
    services = [Endpoint(host, port) for host in SERVICES.values() for port in (PORT, OTHER_PORT)]
    settings = XdpSettings(services=tuple(services), interfaces=("in0",), mode=mode)
    scene.planes.append(XdpPlane(settings, orders(pool(BACKENDS[family]))))
    return scene.planes[-1]


@pytest.mark.parametrize("mode", ["l2", "ipip", "gue"])
@pytest.mark.parametrize("family", [4, 6])
def test_sources_that_no_client_has(scene: Scene, mode: str, family: int) -> None:
    """Unspecified, loopback, multicast, broadcast and mapped sources, port 0 and services are dropped and counted."""
    plane = plane_of(scene, mode, family)
    service = (SERVICES[family], PORT)
    sources = [(host, 5555) for host in BAD[family]]
    sources += [(CLIENTS[family], 0), service, (SERVICES[family], OTHER_PORT)]
    for source in sources:
        for datagram in (short(cid_of(0)), b"\x40\xe0" + bytes(30)):
            frame = ethernet(udp(source, service, datagram))
            result = forward(plane, frame)
            assert (result.action, result.packet) == (XDP_DROP, frame), source
    assert counted(plane) == {"drop_bad_source": 2 * len(sources)}


@pytest.mark.parametrize("family", [4, 6])
def test_sources_that_clients_have(scene: Scene, family: int) -> None:
    """Addresses next to the bad ranges, clients with the service's port, and clients on its host are forwarded."""
    plane = plane_of(scene, "ipip", family)
    sources = [(host, 5555) for host in GOOD[family]]
    sources += [(CLIENTS[family], port) for port in (1, PORT, OTHER_PORT, 65535)] + [(SERVICES[family], PORT + 128)]
    for source in sources:
        frame = ethernet(udp(source, (SERVICES[family], PORT), short(cid_of(0))))
        assert forward(plane, frame).action == XDP_REDIRECT, source
    assert counted(plane) == {"cid_config_1": len(sources)}


def test_a_fragment_from_a_bad_source(scene: Scene) -> None:
    """A fragment from a bad source is counted as bad_source; packets for other destinations go to the kernel."""
    plane = plane_of(scene, "ipip", 4)
    assert forward(plane, ethernet(udp(("0.0.0.0", 1), (SERVICES[4], PORT), b"\x40", fragment=0x2000))).action == 1
    assert counted(plane) == {"drop_bad_source": 1}
    assert forward(plane, ethernet(udp(("0.0.0.0", 1), (SERVICES[4], PORT + 1), b"\x40"))).action == 2


def inside(mode: str, packet: bytes) -> bytes:
    """Return the inner packet."""
    if mode == "l2":
        return packet
    payload = read_ip(packet).payload
    return payload[8:] if mode == "gue" else payload


@pytest.mark.parametrize("mode", ["l2", "ipip", "gue"])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("outer", [4, 6])
def test_two_balancers_that_name_each_other(scene: Scene, mode: str, family: int, outer: int) -> None:
    """Each turn decrements the packet's own hop limit, so that a loop ends and the packet is dropped as hop_limit."""
    plane = scene.plane(mode, pool(BACKENDS[family if mode == "l2" else outer]))
    packet = udp((CLIENTS[family], 5555), (SERVICES[family], PORT), short(cid_of(0)), ttl=9)
    turns = 0
    while (result := forward(plane, ethernet(packet))).action == XDP_REDIRECT:
        leaving = result.packet[14:]
        packet, turns = inside(mode, leaving), turns + 1
        assert read_ip(packet).ttl == 9 - turns
        if mode != "l2":
            assert read_ip(leaving).ttl == 64
    assert turns == 8
    assert counted(plane) == {"cid_config_1": 8, "drop_hop_limit": 1}


def test_a_tunnel_packet_that_looks_like_a_clients(scene: Scene) -> None:
    """A loop through a service on GUE's port ends: each turn adds a header, until the packet is too big.

    The backend's address is that of the service on the next balancer. No packet is duplicated.
    """
    services = (Endpoint(BACKENDS[4][0], 6080),)
    settings = XdpSettings(services=services, interfaces=("in0",), mode="gue")
    scene.planes.append(XdpPlane(settings, orders(pool([BACKENDS[4][0]]))))
    plane, turns = scene.planes[-1], 0
    packet = udp((CLIENTS[4], 5555), (BACKENDS[4][0], 6080), b"\x40\xe0" + bytes(100))
    assert len(packet) == 130
    while read_ip((result := forward(plane, ethernet(packet))).packet[14:]).source == SOURCES[4]:
        packet, turns = result.packet[14:], turns + 1
    assert turns == (MTU - 130) // 28
    found = counted(plane)
    assert found.pop("drop_too_big") == 1
    assert sum(found.values()) == turns


@pytest.mark.parametrize("mode", ["ipip", "gue"])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("outer", [4, 6])
def test_marks_are_copied_outside(scene: Scene, mode: str, family: int, outer: int) -> None:
    """Every value of DSCP and ECN is copied to the outer header; the inner header stays unchanged."""
    plane = scene.plane(mode, pool(BACKENDS[outer]))
    for tos in range(256):
        packet = udp((CLIENTS[family], 5555), (SERVICES[family], PORT), short(cid_of(0)), tos=tos)
        leaving = forward(plane, ethernet(packet)).packet[14:]
        assert (read_ip(leaving).tos, read_ip(inside(mode, leaving)).tos) == (tos, tos)
