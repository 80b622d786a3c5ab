"""The plane in its process: counters, changes under traffic, the program that it leaves, and errors."""

import dataclasses
import subprocess
import threading
import time
from pathlib import Path

import pytest

from lab.dataplane.network import long_header
from lab.xdp.packets import ethernet, udp
from lab.xdp.scene import (
    BACKENDS,
    CLIENTS,
    FOUR_PASS,
    PLAINTEXT,
    PORT,
    SERVICES,
    Scene,
    allow_forwarding,
    cid_of,
    forward,
    orders,
    pool,
    server_id,
    short,
)
from qlb.addresses import Endpoint
from qlb.dataplane.xdp import libbpf
from qlb.dataplane.xdp.attach import BPF_FOLDER
from qlb.dataplane.xdp.counters import tick_ns
from qlb.dataplane.xdp.libbpf import XDP_REDIRECT
from qlb.errors import PlaneUnavailable
from qlb.routing import counters as slots
from qlb.routing.backends import Backend, BackendState
from qlb.routing.counters import Counters
from qlb.routing.outcomes import OUTCOMES
from qlb.routing.sums import config_last_seen_ms, total_backend, total_outcomes, total_unconfigured, total_unknown

pytestmark = pytest.mark.toolchain


def frame_to(number: int, client_port: int = 5555) -> bytes:
    """Return a frame with a backend's ID."""
    return ethernet(udp((CLIENTS[4], client_port), (SERVICES[4], PORT), short(cid_of(number))))


def newcomer(client_port: int) -> bytes:
    """Return a frame with an unroutable ID."""
    return ethernet(udp((CLIENTS[4], client_port), (SERVICES[4], PORT), b"\x40\xe0" + bytes(30)))


def outcomes(sums: Counters) -> dict[str, int]:
    """Return the number of packets by outcome, without zeros."""
    return {o.name: n for o, n in zip(OUTCOMES, total_outcomes([sums]), strict=True) if n}


def test_counts(scene: Scene) -> None:
    """Packets, octets, routes and times are counted by backend and CID config, and the sums are consistent."""
    plane = scene.plane("ipip", pool(BACKENDS[4]))
    for number in (0, 1, 1):
        forward(plane, frame_to(number))
    forward(plane, ethernet(udp((CLIENTS[4], 1), (SERVICES[4], PORT), short(cid_of(0, PLAINTEXT)))))
    for _ in range(2):
        forward(plane, newcomer(7))
    forward(plane, ethernet(udp((CLIENTS[4], 1), (SERVICES[4], PORT), b"")))
    sums = plane.read_counters()
    assert outcomes(sums) == {
        "cid_config_0": 1,
        "cid_config_1": 3,
        "four_tuple_reserved_config": 1,
        "fallback_reserved_config": 1,
        "drop_empty": 1,
    }
    assert sums.slots[slots.PACKETS_RECEIVED] == 7
    assert sums.slots[slots.BYTES_RECEIVED] == 3 * len(short(cid_of(0))) + len(short(cid_of(0, PLAINTEXT))) + 2 * 32
    counts = [total_backend([sums], index) for index in range(2)]
    assert [c.forwarded[0] for c in counts] == [2, 2]
    assert [sum(c.forwarded[n] for c in counts) for n in (1, 2)] == [1, 1]
    seen = [c.last_seen_ms for c in counts]
    assert all(seen)
    at = [slots.BACKEND + slots.BACKEND_SLOTS * index for index in range(2)]
    forwarded_bytes = sum(sums.slots[one + slots.FORWARDED_BYTES] for one in at)
    assert forwarded_bytes == sums.slots[slots.BYTES_RECEIVED], "the dropped datagram was empty"
    assert sums.slots[at[1] + slots.FORWARDED_BYTES] >= 2 * len(short(cid_of(1)))
    assert [sums.slots[one + slots.NEW_FLOWS] for one in at] == [0, 0], "no long header arrived"
    assert all(abs(time.monotonic() * 1000 - ms) < 60_000 for ms in seen)
    assert config_last_seen_ms([sums], 1) <= max(seen)
    assert config_last_seen_ms([sums], 2) == 0


def test_new_flows(scene: Scene) -> None:
    """A long header with unknown IDs begins a flow, also from a known address; the same IDs again do not."""
    plane = scene.plane("ipip", pool(BACKENDS[4]))
    first, second = long_header(b"\xe1" * 8, b"mine"), long_header(b"\xe2" * 8, b"next")
    for datagram in (first, first, second, b"\x40\xe0" * 20):
        forward(plane, ethernet(udp((CLIENTS[4], 7), (SERVICES[4], PORT), datagram)))
    sums = plane.read_counters()
    at = [slots.BACKEND + slots.BACKEND_SLOTS * index for index in range(2)]
    assert sum(sums.slots[one + slots.NEW_FLOWS] for one in at) == 2
    assert sum(sums.slots[one + slots.FORWARDED_BYTES] for one in at) == sums.slots[slots.BYTES_RECEIVED]


def test_ids_that_lead_nowhere(scene: Scene) -> None:
    """Short headers with a config ID or a server ID that is unknown are counted by config ID, apart from each other."""
    plane = scene.plane("ipip", pool(BACKENDS[4]))
    for cid, times in ((b"\xa0" + bytes(20), 2), (cid_of(77), 3), (cid_of(88, PLAINTEXT), 1), (cid_of(0), 4)):
        for _ in range(times):
            forward(plane, ethernet(udp((CLIENTS[4], 5555), (SERVICES[4], PORT), short(cid))))
    sums = plane.read_counters()
    counts = [
        [total([sums], config_id).packets for config_id in range(7)] for total in (total_unconfigured, total_unknown)
    ]
    assert counts == [[0, 0, 0, 0, 0, 2, 0], [1, 3, 0, 0, 0, 0, 0]]
    last_ms = total_unknown([sums], 1).last_seen_ms
    assert abs(time.monotonic() * 1000 - last_ms) < 60_000


def test_states(scene: Scene) -> None:
    """Draining and unhealthy backends get only packets with their ID; a removed backend gets none."""
    both = pool(BACKENDS[4])
    plane = scene.plane("ipip", both)
    drained = dataclasses.replace(both[0], state=BackendState.DRAINING)
    ill = dataclasses.replace(both[0], healthy=False)
    for first in (drained, ill):
        plane.apply(orders([first, both[1]]))
        assert plane.explain(frame_to(0)).backend == 0
        assert {plane.explain(newcomer(port)).backend for port in range(1, 51)} == {1}
    plane.apply(orders([None, both[1]]))
    assert {plane.explain(frame_to(0, port)).backend for port in range(1, 51)} == {1}


def test_flow_tables(scene: Scene) -> None:
    """The flow tables remember the backends of unroutable packets for flow_timeout, unless their size is 0."""
    both = pool(BACKENDS[4])
    plane = scene.plane("ipip", both)
    plane.apply(orders(both, flow_timeout_s=10.0))
    second = 1_000_000_000 // tick_ns()
    (first,) = {plane.explain(newcomer(7), remember=True, now=100 * second).backend}
    others = [dataclasses.replace(both[first], weight=0), both[1 - first]]
    moved = others if first == 0 else others[::-1]
    plane.apply(orders(moved, flow_timeout_s=10.0))
    assert plane.explain(newcomer(7), now=109 * second).backend == first
    assert plane.explain(newcomer(7), now=111 * second).backend == 1 - first
    plane.apply(orders(moved, flow_table_size=0))
    assert plane.explain(newcomer(7), remember=True, now=101 * second).backend == 1 - first
    plane.apply(orders(both, flow_table_size=0))
    assert plane.explain(newcomer(7), now=102 * second).backend == first


def test_the_memo_is_valid_for_one_generation(scene: Scene) -> None:
    """An ID is decoded again after its server ID has moved to another backend."""
    a, b = pool(BACKENDS[4])
    plane = scene.plane("ipip", [a, b])
    assert [plane.explain(frame_to(0)).backend for _ in range(2)] == [0, 0]
    swapped = [dataclasses.replace(a, server_ids=b.server_ids), dataclasses.replace(b, server_ids=a.server_ids)]
    plane.apply(orders(swapped))
    assert plane.explain(frame_to(0)).backend == 1


def test_no_packet_sees_half_of_a_change(scene: Scene) -> None:
    """While two backends swap their IDs repeatedly, one of the two configurations decides each packet.

    Their addresses swap too: the decoded backend and its address must be of the same generation.
    """
    a, b = pool(BACKENDS[4])
    swapped = [
        Backend("b0", b.endpoint, b.server_ids),
        Backend("b1", a.endpoint, a.server_ids),
    ]  # the backend with server ID 1 is at 10.0.0.2 in both
    plane = scene.plane("l2", [a, b])
    done = threading.Event()

    def change() -> None:
        for _ in range(50):
            plane.apply(orders(swapped))
            plane.apply(orders([a, b]))
        done.set()

    changer = threading.Thread(target=change)
    program, frame = plane.program("qlb_forward"), frame_to(0)
    interface = plane.interfaces[0]
    changer.start()
    last_octets = set()
    while not done.is_set():
        last_octets.add(libbpf.run_packet(program, frame, interface=interface).packet[5])
    changer.join()
    assert last_octets == {2}


def test_it_grows(scene: Scene) -> None:
    """If there are more backends than the maps have room for, larger maps replace them; counters and flows stay."""
    few = pool(BACKENDS[4])
    plane = scene.plane("ipip", few)
    for _ in range(3):
        forward(plane, frame_to(1))
    forward(plane, newcomer(7))
    many = [*few, *(Backend(f"m{n}", Endpoint(BACKENDS[4][n % 2], PORT), _ids(n)) for n in range(2, 3000))]
    plane.apply(orders(many))
    assert plane.explain(ethernet(udp((CLIENTS[4], 1), (SERVICES[4], PORT), short(cid_of(2999))))).backend == 2999
    forward(plane, frame_to(1))
    forward(plane, newcomer(7))
    sums = plane.read_counters()
    assert total_backend([sums], 1).forwarded[0] == 4
    assert sum(outcomes(sums).values()) == sums.slots[slots.PACKETS_RECEIVED] == 6
    assert outcomes(sums)["four_tuple_reserved_config"] == 1, "the flow tables were copied"


def _ids(number: int) -> dict[int, tuple[bytes, ...]]:
    return {params.config_id: (server_id(number, params),) for params in (PLAINTEXT, FOUR_PASS)}


def attached(interface: str) -> str:
    """Return the mode of an interface's XDP program, or an empty string."""
    output = subprocess.run(["ip", "-d", "link", "show", interface], check=True, capture_output=True, text=True).stdout
    return "native" if " xdp " in output else "generic" if " xdpgeneric " in output else ""


@pytest.mark.parametrize(("attach", "found"), [("auto", "native"), ("native", "native"), ("generic", "generic")])
def test_attached_and_detached(scene: Scene, attach: str, found: str) -> None:
    """The program is attached in the driver if possible, and detached when the plane stops."""
    plane = scene.plane("ipip", pool(BACKENDS[4]), attach=attach)
    assert attached("in0") == ""
    plane.start()
    assert attached("in0") == found
    plane.stop()
    assert attached("in0") == ""


def test_loopback_has_no_driver(scene: Scene) -> None:
    """On an interface without driver support, `auto` uses generic mode."""
    allow_forwarding("lo", "ipv4")
    scene.plane("ipip", pool(BACKENDS[4]), ("lo",)).start()
    assert attached("lo") == "generic"


def test_a_program_left_attached_is_replaced(scene: Scene) -> None:
    """With keep, the program stays attached without its process; the next plane replaces it."""
    first = scene.plane("ipip", pool(BACKENDS[4]), keep=True)
    first.start()
    first.stop()
    assert attached("in0") == "native"
    second = scene.plane("gue", pool(BACKENDS[4]))
    second.start()
    assert attached("in0") == "native"
    assert forward(second, frame_to(0)).action == XDP_REDIRECT
    second.stop()
    assert attached("in0") == ""
    assert not list((BPF_FOLDER / "qlb").glob(f"{Path('/proc/self/ns/net').stat().st_ino}-*"))


def test_an_interface_of_the_same_name(scene: Scene) -> None:
    """If the interface was replaced by one of the same name, a plane starts on it although the old one left a pin."""
    first = scene.plane("ipip", pool(BACKENDS[4]), keep=True)
    first.start()
    first.stop()
    subprocess.run(["ip", "link", "del", "in0"], check=True)
    subprocess.run("ip link add in0 type veth peer name in1 && ip link set in0 up", shell=True, check=True)
    allow_forwarding("in0", "ipv4")
    second = scene.plane("ipip", pool(BACKENDS[4]))
    second.start()
    assert attached("in0") == "native"


def test_missing_prerequisites(scene: Scene) -> None:
    """The error names the missing interface, the sysctl, or the other program."""
    with pytest.raises(PlaneUnavailable, match="no network interface nowhere0"):
        scene.plane("ipip", pool(BACKENDS[4]), ("nowhere0",))
    allow_forwarding("in0", "ipv4", 0)
    with pytest.raises(PlaneUnavailable, match=r"net\.ipv4\.conf\.in0\.forwarding is 0"):
        scene.plane("ipip", pool(BACKENDS[4]))
    allow_forwarding("in0", "ipv4", 1)
    scene.plane("ipip", pool(BACKENDS[4])).start()
    with pytest.raises(PlaneUnavailable, match=r"to in0 \(auto\): it has another XDP program"):
        scene.plane("ipip", pool(BACKENDS[4])).start()


def test_without_libbpf(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the missing library, or the missing capabilities."""
    libbpf.library.cache_clear()
    try:
        with monkeypatch.context() as patch:
            patch.setattr("ctypes.CDLL", _missing)
            assert "libbpf.so.1 is missing" in libbpf.what_lacks()
        with monkeypatch.context() as patch:
            patch.setattr(libbpf, "_CAPABILITIES", {"CAP_NET_ADMIN": 62, "CAP_BPF": 63})
            assert "lacks CAP_NET_ADMIN" in libbpf.what_lacks()
    finally:
        libbpf.library.cache_clear()


def _missing(*_: object, **__: object) -> None:
    raise OSError("not there")
