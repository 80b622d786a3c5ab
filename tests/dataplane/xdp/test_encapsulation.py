"""Frames towards backends, octet by octet, in each mode and for each pair of address families."""

import ipaddress
import struct

import pytest

from lab.xdp.packets import IPIP, IPV6, OUR_MAC, THEIR_MAC, UDP, ethernet, ip, read_ip, udp
from lab.xdp.scene import BACKENDS, CLIENTS, PORT, SERVICES, SOURCES, Scene, cid_of, forward, pool, short
from qlb.dataplane.xdp.libbpf import XDP_REDIRECT, XDP_TX

TOWARDS_B0 = bytes.fromhex("020000000002") + bytes.fromhex("020000000011")

pytestmark = pytest.mark.toolchain

each_family = pytest.mark.parametrize("family", [4, 6])
each_pair = pytest.mark.parametrize(
    ("inner", "outer"), [(4, 4), (6, 6), (4, 6), (6, 4)], ids=["4in4", "6in6", "4in6", "6in4"]
)


def client_packet(family: int, payload: bytes = b"", **more: int | bytes) -> bytes:
    """Return a client's packet to the service, with an ID of backend 0."""
    datagram = short(cid_of(0)) + payload
    return udp((CLIENTS[family], 5555), (SERVICES[family], PORT), datagram, **more)


def one_hop_on(packet: bytes) -> bytes:
    """Return a packet with its TTL decremented and IPv4's checksum updated."""
    seen = read_ip(packet)
    if packet[0] >> 4 == 6:
        return packet[:7] + bytes((seen.ttl - 1,)) + packet[8:]
    options = packet[20 : 4 * (packet[0] & 15)]
    identification = int.from_bytes(packet[4:6], "big")
    return ip(
        *(seen.source, seen.destination, seen.protocol, seen.payload),
        ttl=seen.ttl - 1, tos=seen.tos, options=options, fragment=seen.fragment, identification=identification,
    )  # fmt: skip


@each_family
def test_l2(scene: Scene, family: int) -> None:
    """In l2 mode, the packet leaves with a decremented TTL and the next hop's MAC addresses, without its old tag."""
    plane = scene.plane("l2", pool(BACKENDS[family]))
    packet = client_packet(family, tos=0x29)
    for frame in (ethernet(packet), ethernet(packet, vlan=7)):
        result = forward(plane, frame)
        assert result.action == XDP_REDIRECT
        assert result.packet == ethernet(one_hop_on(packet), macs=TOWARDS_B0)


@each_pair
def test_ipip(scene: Scene, inner: int, outer: int) -> None:
    """In ipip mode, the packet gets an outer IP header with TTL 64, the inner DSCP and ECN, and no fragmentation."""
    plane = scene.plane("ipip", pool(BACKENDS[outer]))
    packet = client_packet(inner, tos=0xB9)
    result = forward(plane, ethernet(packet))
    assert result.action == XDP_REDIRECT
    assert result.packet[:14] == ethernet(result.packet[14:], macs=TOWARDS_B0)[:14]
    seen = read_ip(result.packet[14:])
    assert (seen.source, seen.destination) == (SOURCES[outer], BACKENDS[outer][0])
    assert seen.protocol == {4: IPIP, 6: IPV6}[inner]
    assert (seen.tos, seen.ttl, seen.fragment) == (0xB9, 64, 0x4000)
    assert seen.payload == one_hop_on(packet)


@each_pair
def test_gue(scene: Scene, inner: int, outer: int) -> None:
    """In gue mode (variant 1), the packet gets an outer IP header and UDP to port 6080 without checksum."""
    plane = scene.plane("gue", pool(BACKENDS[outer]))
    packet = client_packet(inner, tos=0x02)
    result = forward(plane, ethernet(packet))
    assert result.action == XDP_REDIRECT
    seen = read_ip(result.packet[14:])
    assert (seen.source, seen.destination) == (SOURCES[outer], BACKENDS[outer][0])
    assert (seen.protocol, seen.tos, seen.ttl, seen.fragment) == (UDP, 0x02, 64, 0x4000)
    source, port, length, checksum = struct.unpack("!HHHH", seen.payload[:8])
    assert source >= 0xC000
    assert (port, length, checksum) == (6080, len(seen.payload), 0)
    assert seen.payload[8:] == one_hop_on(packet)


@pytest.mark.parametrize("mode", ["ipip", "gue"])
def test_entropy(scene: Scene, mode: str) -> None:
    """Different flows have different outer headers (flow label, UDP source port); packets of one flow have the same."""
    plane = scene.plane(mode, pool(BACKENDS[6]))

    def outer(port: int, cid: bytes) -> tuple[int, bytes]:
        packet = udp((CLIENTS[6], port), (SERVICES[6], PORT), short(cid))
        seen = read_ip(forward(plane, ethernet(packet)).packet[14:])
        return seen.flow, seen.payload[:2] if mode == "gue" else b""

    assert len({outer(port, cid_of(0)) for port in range(1000, 1050)}) > 45
    assert len({outer(1000, cid_of(0) + bytes((n,))) for n in range(10)}) == 1


@pytest.mark.parametrize("mode", ["l2", "ipip", "gue"])
@pytest.mark.parametrize(("is_veth", "action"), [(True, XDP_REDIRECT), (False, XDP_TX)])
def test_a_backend_behind_the_same_interface(
    scene: Scene, mode: str, is_veth: bool, action: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A packet that leaves by the interface it arrived on retains its tag. On a veth it is redirected, else XDP_TX."""
    if not is_veth:
        monkeypatch.setattr("qlb.dataplane.xdp.interfaces.holds_back", lambda _: False)
    plane = scene.plane(mode, pool(["192.0.2.2"]))
    packet = client_packet(4)
    for vlan, at in ((None, 14), (7, 18)):
        result = forward(plane, ethernet(packet, vlan=vlan))
        assert result.action == action
        assert result.packet[:6] == bytes.fromhex("020000000022")
        assert result.packet[6:12] not in (OUR_MAC, THEIR_MAC)
        assert result.packet[12:at] == ethernet(packet, vlan=vlan)[12:at]
        assert result.packet.endswith(one_hop_on(packet))
        seen = read_ip(result.packet[at:])
        assert seen.destination == ("192.0.2.1" if mode == "l2" else "192.0.2.2")


@pytest.mark.parametrize("mode", ["l2", "ipip", "gue"])
@pytest.mark.parametrize("options", [b"\x01\x01\x01\x00", b"\x94\x04\x00\x00" * 10])
def test_options(scene: Scene, mode: str, options: bytes) -> None:
    """IPv4 options of the packet, up to the maximum, stay unchanged."""
    plane = scene.plane(mode, pool(BACKENDS[4]))
    packet = client_packet(4, options=options, identification=77)
    result = forward(plane, ethernet(packet))
    assert result.action == XDP_REDIRECT
    assert result.packet.endswith(one_hop_on(packet))


@pytest.mark.parametrize("mode", ["l2", "ipip", "gue"])
@each_family
def test_the_padding_of_a_short_frame_is_removed(scene: Scene, mode: str, family: int) -> None:
    """Octets after the IP packet are not forwarded."""
    plane = scene.plane(mode, pool(BACKENDS[family]))
    packet = client_packet(family)
    result, filled = (forward(plane, ethernet(packet) + more) for more in (b"", bytes(18)))
    assert filled.packet == result.packet


def test_every_checksum_that_a_ttl_can_make(scene: Scene) -> None:
    """The incremental update of IPv4's checksum is correct for every TTL, also where the sum wraps."""
    plane = scene.plane("l2", pool(BACKENDS[4]))
    for ttl in range(2, 256):
        for identification in (0, 0x1234, *(range(0xFF00 - 256 * ttl & 0xFFFF, 0xFF00 - 256 * ttl + 2 & 0xFFFF))):
            packet = client_packet(4, ttl=ttl, identification=identification)
            assert forward(plane, ethernet(packet)).packet[14:] == one_hop_on(packet)


def test_addresses_are_compared_whole(scene: Scene) -> None:
    """A destination that differs from the service in a single bit of address or port is not the service."""
    plane = scene.plane("ipip", pool(BACKENDS[4]))
    for family, bits in ((4, 32), (6, 128)):
        service = int(ipaddress.ip_address(SERVICES[family]))
        for bit in range(bits):
            other = str((ipaddress.IPv4Address if family == 4 else ipaddress.IPv6Address)(service ^ 1 << bit))
            frame = ethernet(udp((CLIENTS[family], 5555), (other, PORT), short(cid_of(0))))
            assert plane.explain(frame).decision is None
        for bit in range(16):
            frame = ethernet(udp((CLIENTS[family], 5555), (SERVICES[family], PORT ^ 1 << bit), short(cid_of(0))))
            assert plane.explain(frame).decision is None


def test_no_ipv4_address_in_an_ipv6_packet(scene: Scene) -> None:
    """An IPv6 packet to the IPv4-mapped form of the service's address is not for the service."""
    plane = scene.plane("ipip", pool(BACKENDS[4]))
    frame = ethernet(udp((CLIENTS[6], 5555), (f"::ffff:{SERVICES[4]}", PORT), short(cid_of(0))))
    assert plane.explain(frame).decision is None
