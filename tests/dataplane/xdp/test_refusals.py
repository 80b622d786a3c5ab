"""Packets that are dropped, answered with an ICMP error, or passed to the kernel."""

from collections.abc import Callable
from typing import Final

import pytest

from lab.xdp.packets import OUR_MAC, THEIR_MAC, UDP, ethernet, icmp, ip, read_ip, udp
from lab.xdp.scene import (
    BACKENDS,
    CLIENTS,
    NARROW,
    NARROW_MTU,
    NOWHERE,
    PORT,
    SERVICES,
    SILENT,
    SOURCES,
    Scene,
    cid_of,
    forward,
    pool,
    short,
)
from qlb.dataplane.xdp.libbpf import XDP_DROP, XDP_PASS, XDP_REDIRECT
from qlb.dataplane.xdp.plane import XdpPlane
from qlb.routing import counters as slots
from qlb.routing.outcomes import DROP_TOO_BIG, OUTCOMES
from qlb.routing.sums import last_sample, total_outcomes

pytestmark = pytest.mark.toolchain

OVERHEAD: Final = {"l2": {4: 0, 6: 0}, "ipip": {4: 20, 6: 40}, "gue": {4: 28, 6: 48}}
QUOTE_BYTES: Final = {4: 548, 6: 1232}
ANSWERS: Final = {4: (3, 4), 6: (2, 0)}
"""Type and code of fragmentation needed and of packet too big."""

each_family = pytest.mark.parametrize("family", [4, 6])
each_mode = pytest.mark.parametrize("mode", ["l2", "ipip", "gue"])


def counted(plane: XdpPlane) -> dict[str, int]:
    """Return the number of packets by outcome, without zeros. Check that their sum is the number received."""
    sums = plane.read_counters()
    found = {o.name: n for o, n in zip(OUTCOMES, total_outcomes([sums]), strict=True) if n}
    assert sums.slots[slots.PACKETS_RECEIVED] == sum(found.values())
    return found


def to_service(family: int, datagram: bytes, **more: int | bytes) -> bytes:
    """Return a client's datagram to the service."""
    return udp((CLIENTS[family], 5555), (SERVICES[family], PORT), datagram, **more)


@each_mode
@each_family
def test_hop_limit(scene: Scene, mode: str, family: int) -> None:
    """A packet with hop limit 0 or 1 is dropped, so that two balancers that send to each other end the loop."""
    plane = scene.plane(mode, pool(BACKENDS[family]))
    for ttl, action in ((0, XDP_DROP), (1, XDP_DROP), (2, XDP_REDIRECT)):
        assert forward(plane, ethernet(to_service(family, short(cid_of(0)), ttl=ttl))).action == action
    assert counted(plane) == {"cid_config_1": 1, "drop_hop_limit": 2}


@each_mode
@each_family
@pytest.mark.parametrize(("to", "outcome"), [(SILENT, "drop_no_neighbour"), (NOWHERE, "drop_no_route")])
def test_no_route_or_neighbour(scene: Scene, mode: str, family: int, to: dict[int, str], outcome: str) -> None:
    """Without a route or a neighbour, the packet is dropped and counted with the reason."""
    plane = scene.plane(mode, pool([to[family]]))
    assert forward(plane, ethernet(to_service(family, short(cid_of(0))))).action == XDP_DROP
    assert counted(plane) == {outcome: 1}


@each_mode
@each_family
@pytest.mark.parametrize("vlan", [None, 7])
def test_too_big(scene: Scene, mode: str, family: int, vlan: int | None) -> None:
    """The longest packet that fits is forwarded; for one more octet, the client gets an ICMP error with the MTU."""
    plane = scene.plane(mode, pool([NARROW[family]]))
    fits = NARROW_MTU - OVERHEAD[mode][family]
    head = len(to_service(family, b""))
    longest, longer = (to_service(family, short(cid_of(0), bytes(fits - head - 16 + more))) for more in (0, 1))
    assert (len(longest), len(longer)) == (fits, fits + 1)
    assert forward(plane, ethernet(longest, vlan=vlan)).action == XDP_REDIRECT

    result = forward(plane, ethernet(longer, vlan=vlan))
    if family == 6 and len(longer) < 1280:
        assert result.action == XDP_DROP  # no IPv6 path is so narrow
        return
    assert result.action == XDP_REDIRECT
    kind, code = ANSWERS[family]
    quote = longer[: QUOTE_BYTES[family]]
    answer = icmp(SERVICES[family], CLIENTS[family], kind, code, quote, rest=fits)
    if family == 4:
        answer = ip(SERVICES[4], CLIENTS[4], 1, read_ip(answer).payload, fragment=0)
    assert result.packet == ethernet(answer, vlan=vlan, macs=THEIR_MAC + OUR_MAC)
    assert len(answer) < len(longer)
    assert counted(plane) == {"cid_config_1": 1, "drop_too_big": 1}
    assert plane.read_counters().slots[slots.ICMP_SENT] == 1


def test_answers_are_bounded(scene: Scene) -> None:
    """The rate of ICMP answers is bounded; all packets that are too big are counted as dropped."""
    plane = scene.plane("ipip", pool([NARROW[4]]))
    frame = ethernet(to_service(4, short(cid_of(0), bytes(1300))))
    actions = [forward(plane, frame).action for _ in range(2000)]
    assert actions[0] == XDP_REDIRECT
    answers = actions.count(XDP_REDIRECT)
    assert answers == plane.read_counters().slots[slots.ICMP_SENT] < 2000
    assert counted(plane) == {"drop_too_big": 2000}


@each_family
def test_a_sample_of_what_was_dropped(scene: Scene, family: int) -> None:
    """The beginning and the length of the last dropped datagram of each reason are stored."""
    plane = scene.plane("ipip", pool([SILENT[family]]))
    datagram = short(cid_of(0), bytes(range(100)))
    forward(plane, ethernet(to_service(family, datagram)))
    forward(plane, ethernet(to_service(family, b"\x80")))
    sums = [plane.read_counters()]
    by_reason = {o.reason: last_sample(sums, number) for number, o in enumerate(OUTCOMES)}
    assert by_reason["no_neighbour"].octets == datagram[:64]
    assert by_reason["no_neighbour"].length == len(datagram)
    assert by_reason["truncated"].octets == b"\x80"
    assert by_reason["too_big"].seen_ms == last_sample(sums, DROP_TOO_BIG).seen_ms == 0


def test_fragments(scene: Scene) -> None:
    """First fragments to the service are dropped and counted; later ones have no port and go to the kernel."""
    plane = scene.plane("ipip", pool(BACKENDS[4]))
    first = ethernet(to_service(4, short(cid_of(0)), fragment=0x2000))
    later = ethernet(ip(CLIENTS[4], SERVICES[4], UDP, bytes(64), fragment=0x0010))
    fragment6 = b"\x11\0" + bytes((0, 1)) + bytes(4)
    inner = to_service(6, short(cid_of(0)))[40:]
    first6 = ethernet(ip(CLIENTS[6], SERVICES[6], 44, fragment6 + inner))
    later6 = ethernet(ip(CLIENTS[6], SERVICES[6], 44, b"\x11\0" + bytes((0, 8)) + bytes(4) + inner))
    for frame, action in ((first, XDP_DROP), (later, XDP_PASS), (first6, XDP_DROP), (later6, XDP_PASS)):
        result = forward(plane, frame)
        assert result.action == action
        assert result.packet == frame
    assert counted(plane) == {"drop_fragment": 2}


def others() -> dict[str, bytes]:
    """Return frames that are not for the service."""
    quic = short(cid_of(0))
    tcp = ip(CLIENTS[4], SERVICES[4], 6, bytes(20))
    return {
        "another address": ethernet(udp((CLIENTS[4], 5555), ("192.0.2.2", PORT), quic)),
        "another port": ethernet(udp((CLIENTS[4], 5555), (SERVICES[4], PORT + 1), quic)),
        "from the service": ethernet(udp((SERVICES[4], PORT), (CLIENTS[4], 5555), quic)),
        "TCP": ethernet(tcp),
        "TCP over IPv6": ethernet(ip(CLIENTS[6], SERVICES[6], 6, bytes(20))),
        "ARP": OUR_MAC + THEIR_MAC + b"\x08\x06" + bytes(28),
        "two tags": OUR_MAC + THEIR_MAC + b"\x81\0\0\7\x81\0\0\7" + ethernet(to_service(4, quic))[12:],
        "hop-by-hop options": ethernet(ip(CLIENTS[6], SERVICES[6], 0, b"\x11" + bytes(7) + bytes(30))),
        "echo request": ethernet(icmp(CLIENTS[4], SERVICES[4], 8, 0, bytes(40))),
        "echo request, IPv6": ethernet(icmp(CLIENTS[6], SERVICES[6], 128, 0, bytes(40))),
        "neighbour solicitation": ethernet(icmp(CLIENTS[6], SERVICES[6], 135, 0, bytes(40))),
        "UDP longer than its packet": ethernet(ip(CLIENTS[4], SERVICES[4], UDP, b"\0\1\x11\x51\0\x20\0\0" + bytes(8))),
        "UDP shorter than its packet": ethernet(ip(CLIENTS[4], SERVICES[4], UDP, b"\0\1\x11\x51\0\x0a\0\0" + bytes(8))),
        "not a frame": bytes(14),
    }


@pytest.mark.parametrize("name", others())
def test_frames_for_the_kernel(scene: Scene, name: str) -> None:
    """Frames that are not for the service are passed unchanged to the kernel and not counted."""
    plane = scene.plane("gue", pool(BACKENDS[4]))
    frame = others()[name]
    result = forward(plane, frame)
    assert (result.action, result.packet) == (XDP_PASS, frame)
    assert counted(plane) == {}


def server_packet(family: int, datagram: bytes) -> bytes:
    """Return a server's packet to the client, as an ICMP error quotes it."""
    return udp((SERVICES[family], PORT), (CLIENTS[family], 5555), datagram)


def long_from(number: int) -> bytes:
    """Return a server's handshake packet. Its source ID is the server's."""
    return b"\xe0" + bytes((0, 0, 0, 1, 8)) + bytes(8) + bytes((15,)) + cid_of(number) + bytes(1100)


ERRORS: Final = {4: [(3, 3), (3, 4), (11, 0), (12, 0)], 6: [(1, 4), (2, 0), (3, 0), (4, 1)]}


@each_mode
@each_family
def test_errors_go_to_the_server_that_they_are_about(scene: Scene, mode: str, family: int) -> None:
    """An ICMP error goes unchanged to the server whose ID is in the quoted long header."""
    plane = scene.plane(mode, pool(BACKENDS[family]))
    for kind, code in ERRORS[family]:
        for number, host in enumerate(BACKENDS[family]):
            for length in (len(server_packet(family, b"")) + 30, 548):
                quote = server_packet(family, long_from(number))[:length]
                error = icmp(
                    "203.0.113.1" if family == 4 else NOWHERE[6], SERVICES[family], kind, code, quote, rest=1400
                )
                result = forward(plane, ethernet(error))
                assert result.action == XDP_REDIRECT
                assert result.packet[5] == number + 2
                if mode != "l2":
                    seen = read_ip(result.packet[14:])
                    assert (seen.source, seen.destination) == (SOURCES[family], host)
                assert result.packet.endswith(error[20 if family == 4 else 40 :])
    assert counted(plane) == {}
    assert plane.read_counters().slots[slots.ICMP_FORWARDED] == 16


@each_family
def test_errors_about_short_headers_follow_their_client(scene: Scene, family: int) -> None:
    """An error that quotes a short header, which has only the client's ID, follows the client's unroutable packets."""
    plane = scene.plane("ipip", pool(BACKENDS[family]))
    unroutable = b"\x40\xe0" + bytes(30)
    frame = ethernet(to_service(family, unroutable))
    before = forward(plane, frame)
    quote = server_packet(family, b"\x40" + bytes(40))
    error = icmp(CLIENTS[family], SERVICES[family], *ERRORS[family][0], quote)
    result = forward(plane, ethernet(error))
    assert result.action == XDP_REDIRECT
    assert read_ip(result.packet[14:]).destination == read_ip(before.packet[14:]).destination


Change = Callable[[int], bytes]


def not_errors() -> dict[str, Change]:
    """Return ICMP errors that do not concern our servers, by family."""

    def of(kind: int, quote: Callable[[int], bytes]) -> Change:
        return lambda family: icmp(CLIENTS[family], SERVICES[family], *ERRORS[family][kind], quote(family))

    return {
        "about a packet from elsewhere": of(0, lambda f: udp((CLIENTS[f], PORT), (CLIENTS[f], 5555), long_from(0))),
        "about another port": of(0, lambda f: udp((SERVICES[f], 80), (CLIENTS[f], 5555), long_from(0))),
        "about TCP": of(0, lambda f: ip(SERVICES[f], CLIENTS[f], 6, bytes(40))),
        "about the other family": of(0, lambda f: server_packet(10 - f, long_from(0))),
        "about nothing": of(0, lambda _: b""),
    }


@each_family
@pytest.mark.parametrize("name", not_errors())
def test_errors_about_other_packets_go_to_the_kernel(scene: Scene, family: int, name: str) -> None:
    """An ICMP error about another packet is not forwarded, so that an attacker cannot reach backends with it."""
    plane = scene.plane("ipip", pool(BACKENDS[family]))
    frame = ethernet(not_errors()[name](family))
    result = forward(plane, frame)
    assert (result.action, result.packet) == (XDP_PASS, frame)


@each_family
def test_errors_cut_off_at_every_octet(scene: Scene, family: int) -> None:
    """An error with any length of quote is forwarded to a backend, or passed to the kernel unchanged."""
    plane = scene.plane("gue", pool(BACKENDS[family]))
    whole = server_packet(family, long_from(1))
    for length in range(120):
        frame = ethernet(icmp(CLIENTS[family], SERVICES[family], *ERRORS[family][0], whole[:length]))
        result = forward(plane, frame)
        if length < len(server_packet(family, b"")):
            assert (result.action, result.packet) == (XDP_PASS, frame)
        elif length >= len(server_packet(family, long_from(1)[:30])):
            assert read_ip(result.packet[14:]).destination == BACKENDS[family][1]
        else:
            assert result.action == XDP_REDIRECT


@each_family
def test_errors_too_big_to_be_forwarded(scene: Scene, family: int) -> None:
    """An ICMP error that is too big is dropped without an ICMP answer."""
    plane = scene.plane("ipip", pool([NARROW[family], NARROW[family]]))
    quote = server_packet(family, long_from(0) + bytes(400))
    result = forward(plane, ethernet(icmp(CLIENTS[family], SERVICES[family], *ERRORS[family][0], quote)))
    assert result.action == XDP_DROP
    assert plane.read_counters().slots[slots.ICMP_SENT] == 0
