"""The XDP program and the memory plane choose the same outcome and backend for the same packets."""

import ipaddress
import random
import struct
from typing import Final

import pytest

from lab.dataplane.settings import DEFAULTS
from lab.dataplane.worlds import TICK_NS, WORLDS, World
from lab.memory_plane import MemoryPlane
from lab.xdp.packets import ethernet, udp
from lab.xdp.scene import BACKENDS, CLIENTS, PORT, SERVICES, Scene, cid_of, orders, pool, short
from qlb.addresses import Endpoint, FourTuple, canonical_host
from qlb.dataplane.base import Orders
from qlb.dataplane.xdp.libbpf import XDP_PASS
from qlb.dataplane.xdp.plane import XdpPlane
from qlb.dataplane.xdp.program import XdpSettings

pytestmark = pytest.mark.toolchain

DATAGRAMS: Final = 2600
"""In each world; together with the truncated ones, more than 100,000 in total."""
OPTIONS: Final = (b"", b"", b"\x01\x01\x01\x00", b"\x94\x04\x00\x00" * 10)


def framed(datagram: bytes, four_tuple: FourTuple, dice: random.Random) -> bytes:
    """Return a client's frame with a datagram, with and without a tag, options and padding."""
    client, client_port, service, service_port = four_tuple
    more = {"options": dice.choice(OPTIONS)} if ":" not in service else {}
    packet = udp((client, client_port), (service, service_port), datagram, tos=dice.randrange(256), **more)
    return ethernet(packet, vlan=dice.choice((None, None, 7))) + bytes(dice.choice((0, 0, 3)))


@pytest.mark.parametrize("number", range(WORLDS))
@pytest.mark.usefixtures("scene")
def test_decisions_are_those_of_the_memory_plane(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The decisions agree for every algorithm and pair of lengths, all header forms, and garbage.

    The packets are IPv4 and IPv6, with and without a tag. The world changes once, and the flow tables stay.
    """
    monkeypatch.setattr("qlb.dataplane.xdp.plane.tick_ns", lambda: TICK_NS)  # the worlds have their own clock
    world = World(number)
    world.clients = [_canonical(client) for client in world.clients]
    current = Orders(world.snapshot, DEFAULTS)
    services = {Endpoint(service, port) for _, _, service, port in world.clients}
    plane = XdpPlane(XdpSettings(services=tuple(services), interfaces=(), mode="ipip"), current)
    oracle, dice, at = MemoryPlane(current), random.Random(number), 10**6
    try:
        for _ in range(2):
            for datagram, four_tuple, ticks in world.traffic(DATAGRAMS // 2):
                frame = framed(datagram, four_tuple, dice)
                found = plane.explain(frame, remember=True, now=at + ticks)
                wanted = oracle.handle(datagram, four_tuple, ticks / 64)
                assert (found.decision, found.backend) == wanted, (frame.hex(), four_tuple)
            world.change()
            current = Orders(world.snapshot, DEFAULTS)
            plane.apply(current)
            oracle.apply(current)
    finally:
        plane.stop()


def _canonical(four_tuple: FourTuple) -> FourTuple:
    """Return a 4-tuple of one address family, from a source that is not dropped before the decision."""
    client, client_port, service, service_port = four_tuple
    client, service = canonical_host(client), canonical_host(service)
    if ":" in service and ":" not in client:
        client = f"64:ff9b::{client}"
    packed = ipaddress.ip_address(client).packed
    if packed[0] in (0, 127, 255) or packed[0] >> 4 == 14:
        client = str(ipaddress.ip_address(b"\x20" + packed[1:]))
    return client, client_port or 1, service, service_port


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("vlan", [None, 7])
def test_cut_off_at_every_octet(scene: Scene, family: int, vlan: int | None) -> None:
    """A frame that ends too early is passed to the kernel unchanged and without a decision."""
    plane = scene.plane("ipip", pool(BACKENDS[family]))
    more = {"options": OPTIONS[3]} if family == 4 else {}
    frame = ethernet(udp((CLIENTS[family], 5555), (SERVICES[family], PORT), short(cid_of(0)), **more), vlan=vlan)
    assert plane.explain(frame).decision == 1
    for size in range(14, len(frame)):
        found = plane.explain(frame[:size])
        assert (found.decision, found.action, found.packet) == (None, XDP_PASS, frame[:size])


@pytest.mark.parametrize("family", [4, 6])
def test_datagrams_cut_off_at_every_octet(scene: Scene, family: int) -> None:
    """For packets with truncated datagrams, the program decides as the memory plane does."""
    current = orders(pool(BACKENDS[family]))
    plane, oracle = scene.plane("ipip", pool(BACKENDS[family])), MemoryPlane(current)
    long = b"\xc0" + struct.pack("!I", 1) + bytes((15,)) + cid_of(1) + bytes((8,)) + bytes(8) + bytes(20)
    client, service = CLIENTS[family], SERVICES[family]
    for whole in (long, short(cid_of(1))):
        for size in range(len(whole) + 1):
            datagram = whole[:size]
            found = plane.explain(ethernet(udp((client, 5555), (service, PORT), datagram)), remember=True)
            assert (found.decision, found.backend) == oracle.handle(datagram, (client, 5555, service, PORT), 0.0), size


def test_any_octets_at_all(scene: Scene) -> None:
    """Random frames, and valid ones with changed octets, cause no error; frames that are passed are unchanged."""
    plane, dice = scene.plane("gue", pool(BACKENDS[4])), random.Random(2026)
    good = [ethernet(udp((CLIENTS[f], 5555), (SERVICES[f], PORT), short(cid_of(0)))) for f in (4, 6)]
    for _ in range(4000):
        frame = bytearray(dice.choice(good) if dice.random() < 0.8 else dice.randbytes(dice.randrange(14, 200)))
        for _ in range(dice.choice((0, 1, 3))):
            frame[dice.randrange(len(frame))] = dice.randrange(256)
        found = plane.explain(bytes(frame), remember=True)
        assert found.decision is None or found.outcome is not None
        if found.action == XDP_PASS:
            assert found.packet[: len(frame)] == bytes(frame)[: len(found.packet)]
