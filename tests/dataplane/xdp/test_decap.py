"""Decapsulation on a backend: hand-made packets in BPF test runs, octet by octet."""

import itertools
import random
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple

import pytest

from lab.xdp.packets import IPIP, IPV6, UDP, checksum, ethernet, ip, udp
from qlb.dataplane.xdp import libbpf
from qlb.dataplane.xdp.decap import COUNTERS, DecapSettings, Decapsulator
from qlb.dataplane.xdp.libbpf import XDP_DROP, XDP_PASS, run_packet

pytestmark = pytest.mark.toolchain

SERVICES: Final = {4: "192.0.2.1", 6: "2001:db8::1"}
CLIENTS: Final = {4: "198.51.100.7", 6: "2001:db8:c::7"}
BALANCERS: Final = {4: "10.0.0.1", 6: "fd00::1"}
STRANGERS: Final = {4: "10.0.1.1", 6: "fd01::1"}
OURS: Final = {4: "10.0.0.2", 6: "fd00::2"}
CARRIED: Final = {4: IPIP, 6: IPV6}
GUE_PORT: Final = 6081
"""Not the default, so that the tests show that the setting is used."""
NOT_ECT, ECT_1, ECT_0, CE = range(4)
DSCP: Final = 0xB8

each_inner = pytest.mark.parametrize("inner", [4, 6])
each_outer = pytest.mark.parametrize("outer", [4, 6])


class Result(NamedTuple):
    """The result for a frame. counted: the counter that increased by one, or an empty string."""

    action: int
    frame: bytes
    counted: str


class Backend:
    """The program, loaded once for all tests."""

    def __init__(self) -> None:
        """Load it for both services and both balancers' networks."""
        self.decapsulator = Decapsulator(
            DecapSettings(
                interfaces=(),
                services=tuple(map(ip_address, SERVICES.values())),
                sources=(ip_network("10.0.0.0/24"), ip_network("fd00::/64")),
                port=GUE_PORT,
            )
        )

    def receive(self, frame: bytes) -> Result:
        """Run the program on a frame."""
        before = self.decapsulator.read_counters()
        action, packet, _ = run_packet(self.decapsulator.program, frame)
        after = self.decapsulator.read_counters()
        counted = [name for name in COUNTERS for _ in range(after[name] - before[name])]
        assert len(counted) <= 1
        return Result(action, packet, "".join(counted))


@pytest.fixture(scope="module")
def backend() -> Iterator[Backend]:
    """Load the committed object once, or skip the test if this process cannot load BPF programs."""
    if lack := libbpf.what_lacks():
        pytest.skip(lack)
    loaded = Backend()
    yield loaded
    loaded.decapsulator.close()


def client_packet(family: int, *, to: str | None = None, size: int = 100, **more: int | bytes) -> bytes:
    """Return a client's packet to the service. more: arguments of ip()."""
    datagram = bytes(at % 251 for at in range(size))
    return udp((CLIENTS[family], 50_000), (to or SERVICES[family], 4433), datagram, **more)


def gue_0(packet: bytes, *, fields: bytes = b"", first: int = 0, protocol: int | None = None, flags: int = 0) -> bytes:
    """Return a packet after a GUE header of variant 0. fields: the octets that the header's length counts."""
    carried = CARRIED[packet[0] >> 4] if protocol is None else protocol
    return bytes((first | len(fields) // 4, carried, flags >> 8, flags & 0xFF)) + fields + packet


def gue(outer: int, payload: bytes, *, port: int = GUE_PORT, source: str | None = None, **more: int | bytes) -> bytes:
    """Return a balancer's UDP datagram without checksum, as qlb sends it. payload: variant 0 or 1."""
    head = (50_001).to_bytes(2, "big") + port.to_bytes(2, "big") + (8 + len(payload)).to_bytes(2, "big") + bytes(2)
    tos = int(more.pop("tos", 0))
    return ip(source or BALANCERS[outer], OURS[outer], UDP, head + payload, tos=tos, **more)


def ipip(
    outer: int,
    packet: bytes,
    *,
    source: str | None = None,
    protocol: int | None = None,
    tos: int = 0,
    **more: int | bytes,
) -> bytes:
    """Return a packet in an outer IP header. protocol: if it is not the packet's. more: arguments of ip()."""
    carried = CARRIED[packet[0] >> 4] if protocol is None else protocol
    return ip(source or BALANCERS[outer], OURS[outer], carried, packet, tos=tos, **more)


def wrappings(outer: int, packet: bytes, **more: int | bytes) -> dict[str, bytes]:
    """Return a packet in every supported encapsulation. more: arguments of ip() for the outer header."""
    return {
        "ipip": ipip(outer, packet, **more),
        "gue 1": gue(outer, packet, **more),
        "gue 0": gue(outer, gue_0(packet), **more),
        "gue 0, private data": gue(outer, gue_0(packet, fields=bytes(range(12))), **more),
        "gue 0, the longest": gue(outer, gue_0(packet, fields=bytes(124)), **more),
    }


@each_outer
@each_inner
@pytest.mark.parametrize("vlan", [None, 7, 0xEFFF])
def test_the_outer_headers_are_removed(backend: Backend, inner: int, outer: int, vlan: int | None) -> None:
    """After IP in IP or GUE is removed, the inner packet is unchanged, for all pairs of families, tagged or not."""
    packet = client_packet(inner, tos=DSCP, ttl=63)
    for name, wrapped in wrappings(outer, packet, tos=DSCP).items():
        result = backend.receive(ethernet(wrapped, vlan=vlan))
        assert result == (XDP_PASS, ethernet(packet, vlan=vlan), "decapsulated"), name


@each_inner
@pytest.mark.parametrize("words", [1, 5, 10])
def test_ipv4_options_are_skipped(backend: Backend, inner: int, words: int) -> None:
    """Options of the outer header are removed with it; options of the inner header stay."""
    more: dict[str, int | bytes] = {"options": b"\x94\x04\x00\x00" * words} if inner == 4 else {}
    packet = client_packet(inner, **more)
    for name, wrapped in wrappings(4, packet, options=b"\x01\x01\x01\x00" * words).items():
        assert backend.receive(ethernet(wrapped)) == (XDP_PASS, ethernet(packet), "decapsulated"), name


@each_outer
def test_the_longest_headers(backend: Backend, outer: int) -> None:
    """The longest outer headers are removed: a tag, IPv4 with all options, UDP, the longest GUE header."""
    packet = client_packet(4, size=0)
    more = {"options": bytes(40)} if outer == 4 else {}
    wrapped = gue(outer, gue_0(packet, fields=bytes(124)), **more)
    assert backend.receive(ethernet(wrapped, vlan=1)) == (XDP_PASS, ethernet(packet, vlan=1), "decapsulated")


@each_outer
@each_inner
def test_padding_stays_behind_the_packet(backend: Backend, inner: int, outer: int) -> None:
    """The padding of a short frame stays after the inner packet; the kernel uses the inner packet's own length."""
    packet = client_packet(inner, size=1)
    for wrapped in wrappings(outer, packet).values():
        padded = ethernet(packet) + bytes(9)
        assert backend.receive(ethernet(wrapped) + bytes(9)) == (XDP_PASS, padded, "decapsulated")


@each_outer
@each_inner
@pytest.mark.parametrize("outer_ecn", range(4))
@pytest.mark.parametrize("inner_ecn", range(4))
def test_ecn(backend: Backend, inner: int, outer: int, inner_ecn: int, outer_ecn: int) -> None:
    """Each combination of ECN fields gives the specified one, and DSCP stays. Spec: RFC 6040, section 4.2, figure 4."""
    left = {
        NOT_ECT: {NOT_ECT: NOT_ECT, ECT_0: NOT_ECT, ECT_1: NOT_ECT, CE: None},
        ECT_0: {NOT_ECT: ECT_0, ECT_0: ECT_0, ECT_1: ECT_1, CE: CE},
        ECT_1: {NOT_ECT: ECT_1, ECT_0: ECT_1, ECT_1: ECT_1, CE: CE},
        CE: {NOT_ECT: CE, ECT_0: CE, ECT_1: CE, CE: CE},
    }[inner_ecn][outer_ecn]
    packet = client_packet(inner, tos=DSCP | inner_ecn)
    for name, wrapped in wrappings(outer, packet, tos=0x28 | outer_ecn).items():
        result = backend.receive(ethernet(wrapped))
        if left is None:
            assert result == (XDP_DROP, ethernet(wrapped), "bad_ecn"), name
        else:
            wanted = ethernet(client_packet(inner, tos=DSCP | left))
            assert result == (XDP_PASS, wanted, "decapsulated"), name


def test_the_ipv4_checksum_follows_the_mark(backend: Backend) -> None:
    """The checksum is updated with the ECN field: a correct one stays correct, a wrong one stays wrong."""
    dice = random.Random(6040)
    for _ in range(500):
        tos = dice.randrange(256) & 0xFC | dice.choice((ECT_0, ECT_1))
        packet = client_packet(4, tos=tos, ttl=dice.randrange(256), identification=dice.randrange(65536))
        left = backend.receive(ethernet(ipip(4, packet, tos=CE))).frame[14:]
        assert left[1] == tos | CE
        assert checksum(left[:20]) == 0
        assert left[12:] == packet[12:]
        wrong = packet[:10] + bytes((packet[10] ^ 0x55,)) + packet[11:]
        assert checksum(backend.receive(ethernet(ipip(4, wrong, tos=CE))).frame[14:34]) != 0


@each_outer
@each_inner
def test_another_destination(backend: Backend, inner: int, outer: int) -> None:
    """A packet for another inner destination is passed to the kernel unchanged."""
    others = {4: ("192.0.2.2", "10.0.0.2"), 6: ("2001:db8::2", "2001:db8:0:1::1", "::ffff:192.0.2.2")}[inner]
    for to in others:
        for wrapped in wrappings(outer, client_packet(inner, to=to)).values():
            assert backend.receive(ethernet(wrapped)) == (XDP_PASS, ethernet(wrapped), "not_for_us")


@each_outer
@each_inner
def test_another_source(backend: Backend, inner: int, outer: int) -> None:
    """A packet from another outer source is passed to the kernel unchanged."""
    packet = client_packet(inner)
    for wrapped in (ipip(outer, packet, source=STRANGERS[outer]), gue(outer, packet, source=STRANGERS[outer])):
        assert backend.receive(ethernet(wrapped)) == (XDP_PASS, ethernet(wrapped), "wrong_source")


@each_outer
def test_any_source(outer: int) -> None:
    """Without configured sources, every outer source is accepted."""
    if lack := libbpf.what_lacks():
        pytest.skip(lack)
    settings = DecapSettings(interfaces=(), services=(ip_address(SERVICES[4]),), port=GUE_PORT)
    decapsulator, packet = Decapsulator(settings), client_packet(4)
    try:
        for source in (BALANCERS[outer], STRANGERS[outer]):
            frame = ethernet(ipip(outer, packet, source=source))
            assert run_packet(decapsulator.program, frame)[:2] == (XDP_PASS, ethernet(packet))
    finally:
        decapsulator.close()


FOREIGN: Final = {
    "a client's packet": client_packet(4),
    "a client's packet, IPv6": client_packet(6),
    "another port": gue(4, client_packet(4), port=6080),
    "first fragment": ipip(4, client_packet(4), fragment=0x2000),
    "later fragment": ipip(4, client_packet(4), fragment=0x0007),
    "GUE in a fragment": gue(4, client_packet(4), fragment=0x2000),
    "IPv6 fragment header": ip(BALANCERS[6], OURS[6], 44, bytes((IPIP, 0, 0, 0, 0, 0, 0, 1)) + client_packet(4)),
    "TCP": ip(BALANCERS[4], OURS[4], 6, client_packet(4)),
    "GUE control message": gue(4, gue_0(client_packet(4), first=0x20)),
    "GUE of something else": gue(4, gue_0(client_packet(4), protocol=47)),
    "GUE of no next header": gue(4, gue_0(client_packet(4), protocol=59)),
    "GUE with optional fields": gue(4, gue_0(client_packet(4), fields=bytes(4), flags=0x8000)),
    "GUE with private flags": gue(4, gue_0(client_packet(4), fields=bytes(4), flags=1)),
    "GUE variant 1, neither 4 nor 6": gue(4, b"\x55" + client_packet(4)[1:]),
    "GUE variant 2": gue(4, b"\x80" + client_packet(4)[1:]),
    "GUE variant 3": gue(4, b"\xff" + client_packet(4)[1:]),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_packets_without_outer_headers(backend: Backend, name: str) -> None:
    """A packet that is not encapsulated is passed to the kernel unchanged and not counted."""
    for vlan in (None, 7):
        frame = ethernet(FOREIGN[name], vlan=vlan)
        assert backend.receive(frame) == (XDP_PASS, frame, "")


def test_other_frames(backend: Backend) -> None:
    """ARP, a second tag, and a length in place of a type are passed to the kernel unchanged and not counted."""
    tagged = ethernet(ipip(4, client_packet(4)), vlan=7)
    for frame in (
        tagged[:12] + b"\x08\x06" + bytes(46),
        tagged[:16] + b"\x81\x00\x00\x08" + tagged[16:],
        tagged[:12] + b"\x88\xa8" + tagged[14:],
        tagged[:12] + b"\x00\x40" + tagged[14:],
    ):
        assert backend.receive(frame) == (XDP_PASS, frame, "")


def _with(packet: bytes, at: int, octets: bytes) -> bytes:
    return packet[:at] + octets + packet[at + len(octets) :]


MALFORMED: Final = {
    "outer version": _with(ethernet(ipip(4, client_packet(4))), 14, b"\x55"),
    "outer version, IPv6": _with(ethernet(ipip(6, client_packet(4))), 14, b"\x50"),
    "outer header too short": ethernet(_with(ipip(4, client_packet(4)), 0, b"\x44")),
    "outer length below its header": ethernet(_with(ipip(4, client_packet(4)), 2, b"\x00\x13")),
    "outer length beyond the frame": ethernet(_with(ipip(4, client_packet(4)), 2, b"\x01\x00")),
    "outer length beyond the frame, IPv6": ethernet(_with(ipip(6, client_packet(4)), 4, b"\xff\xff")),
    "inner version 5": ethernet(ipip(4, _with(client_packet(4), 0, b"\x55"), protocol=IPIP)),
    "inner version 5, IPv6": ethernet(ipip(6, _with(client_packet(6), 0, b"\x50"), protocol=IPV6)),
    "IPv6 said to be IPv4": ethernet(ipip(4, client_packet(6), protocol=IPIP)),
    "IPv4 said to be IPv6": ethernet(ipip(4, client_packet(4), protocol=IPV6)),
    "GUE of IPv6 said to be IPv4": ethernet(gue(4, gue_0(client_packet(6), protocol=IPIP))),
    "inner header too short": ethernet(ipip(4, _with(client_packet(4), 0, b"\x44"))),
    "inner length below its header": ethernet(ipip(4, _with(client_packet(4), 2, b"\x00\x13"))),
    "inner longer than outer": ethernet(ipip(4, client_packet(4)[:-1])) + b"\0",
    "inner longer than outer, IPv6": ethernet(ipip(6, client_packet(6)[:-1])) + b"\0",
    "inner longer than UDP": ethernet(_with(gue(4, client_packet(4)), 24, (8 + 127).to_bytes(2, "big"))),
    "UDP longer than IP": ethernet(_with(gue(4, client_packet(4)), 24, (8 + 129).to_bytes(2, "big"))),
    "UDP shorter than itself": ethernet(_with(gue(4, client_packet(4)), 24, b"\x00\x07")),
    "GUE longer than UDP": ethernet(gue(4, gue_0(b"", protocol=IPIP, first=9) + bytes(32))),
    "nothing inside": ethernet(ipip(4, b"", protocol=IPIP)),
    "nothing inside, IPv6": ethernet(ipip(6, b"", protocol=IPV6)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_contradictions(backend: Backend, name: str) -> None:
    """A packet with contradicting lengths or versions is passed to the kernel unchanged and counted as malformed."""
    frame = MALFORMED[name]
    assert backend.receive(frame) == (XDP_PASS, frame, "malformed")


@each_outer
@each_inner
@pytest.mark.parametrize("vlan", [None, 7])
def test_truncation_at_every_octet(backend: Backend, inner: int, outer: int, vlan: int | None) -> None:
    """A truncated frame is passed to the kernel unchanged. The shortest frame of a driver has 14 octets."""
    packet = client_packet(inner, size=5)
    for name, wrapped in wrappings(outer, packet).items():
        frame = ethernet(wrapped, vlan=vlan)
        for size in range(14, len(frame)):
            result = backend.receive(frame[:size])
            assert result[:2] == (XDP_PASS, frame[:size]), (name, size)
            assert result.counted in ("", "malformed"), (name, size)


@each_outer
@each_inner
def test_a_whole_outer_packet_with_less_in_it(backend: Backend, inner: int, outer: int) -> None:
    """A truncated inner packet in a complete outer packet is never decapsulated."""
    packet = client_packet(inner, size=5)
    for size in range(len(packet)):
        for first in (b"", bytes((0, CARRIED[inner], 0, 0))):
            frame = ethernet(gue(outer, first + packet[:size]))
            assert backend.receive(frame)[:2] == (XDP_PASS, frame)
        frame = ethernet(ipip(outer, packet[:size], protocol=CARRIED[inner]))
        assert backend.receive(frame) == (XDP_PASS, frame, "malformed")


def test_any_octets(backend: Backend) -> None:
    """Random changes cause no error and no action except PASS and DROP; the MAC addresses stay."""
    dice = random.Random(4433)
    frames = [
        ethernet(wrapped, vlan=vlan)
        for inner, outer, vlan in itertools.product((4, 6), (4, 6), (None, 7))
        for wrapped in wrappings(outer, client_packet(inner, size=20)).values()
    ]
    for _ in range(10_000):
        frame = bytearray(dice.choice(frames))
        for _ in range(dice.randrange(1, 4)):
            frame[dice.randrange(12, len(frame))] = dice.randrange(256)
        result = run_packet(backend.decapsulator.program, bytes(frame))
        assert result.action in (XDP_PASS, XDP_DROP), frame.hex()
        assert result.packet[:12] == frame[:12]
        assert len(result.packet) <= len(frame)
