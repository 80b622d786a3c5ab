"""The rules for exits, tested with lists of interfaces as a kernel would report them. No kernel is needed."""

from dataclasses import replace
from typing import Any, Final

import pytest

from qlb.dataplane.xdp import exits
from qlb.dataplane.xdp.exits import (
    NO_MAC,
    Exit,
    Ingress,
    Key,
    System,
    Target,
    expect_refusals,
    find_exits,
    find_refusals,
)
from qlb.dataplane.xdp.netlink import ACCEPTS_REDIRECTS, Device

IN: Final = 2
OUT: Final = 3
OTHER: Final = 4
MAC: Final = b"\x02\0\0\0\0\x02"
INGRESS: Final = Ingress(IN)
GENERIC: Final = Ingress(IN, generic=True)
GATEWAY: Final = "10.0.0.2"


def system(*devices: Device, accepting: tuple[int, ...] = (), **more: Any) -> System:
    """Return a system with in0 and these devices. accepting: interfaces that report that they accept redirects."""
    features = {device.index: ACCEPTS_REDIRECTS if device.index in accepting else 3 for device in devices}
    everything = {device.index: device for device in (Device(IN, "in0"), *devices)}
    return System(everything, features, **more)


def leaving(one: System, ingress: Ingress = INGRESS) -> dict[Key, Exit]:
    """Return the exits, without those by the interface that packets arrive on."""
    return {key: way for key, way in find_exits(one, [ingress]).items() if key.interface != IN}


def refusals(one: System, ingress: Ingress = INGRESS) -> list[str]:
    """Return the reports about a backend behind OUT."""
    found = find_refusals(one, find_exits(one, [ingress]), [ingress], [Target("a", OUT, GATEWAY)])
    return [str(refusal) for refusal in found]


def test_a_driver_that_accepts_redirects() -> None:
    """An interface that accepts redirects is used as the kernel returns it, and nothing is reported."""
    one = system(Device(OUT, "out0"), accepting=(OUT,))
    assert leaving(one) == {Key(IN, OUT): Exit(OUT)}
    assert refusals(one) == []


@pytest.mark.parametrize("kind", ["", "bridge", "vlan", "macvlan", "ipvlan", "dummy", "vxlan", "veth", "bond", "team"])
def test_a_driver_that_accepts_no_redirects(kind: str) -> None:
    """In driver mode, such an interface is not used and is reported with a remedy; in generic mode it is used."""
    one = system(Device(OUT, "out0", kind=kind, filters_vlans=kind == "bridge"))
    assert leaving(one) == {}
    (text,) = refusals(one)
    assert "backends cannot be reached by out0" in text
    assert "attach: generic" in text
    assert text.endswith("dropped as no_route: a")
    assert leaving(one, GENERIC) == {Key(IN, OUT): Exit(OUT)}
    assert refusals(one, GENERIC) == []


@pytest.mark.parametrize("kind", ["bond", "team"])
def test_a_bond_reports_its_members_features(kind: str) -> None:
    """A bond or team is not used, whatever it reports, because it does not transmit redirected frames."""
    assert leaving(system(Device(OUT, "bond0", kind=kind), accepting=(OUT,))) == {}


@pytest.mark.parametrize("ingress", [INGRESS, GENERIC])
def test_an_interface_without_ethernet_headers(ingress: Ingress) -> None:
    """An interface without Ethernet headers is never used: a tunnel would send the MAC addresses as payload."""
    one = system(Device(OUT, "tun0", is_ethernet=False, kind="tun"), accepting=(OUT,))
    assert leaving(one, ingress) == {}
    assert "without Ethernet headers" in refusals(one, ingress)[0]


@pytest.mark.parametrize("ingress", [INGRESS, GENERIC])
def test_an_interface_that_is_down(ingress: Ingress) -> None:
    """An interface that is down is not used."""
    one = system(Device(OUT, "out0", is_up=False), accepting=(OUT,))
    assert leaving(one, ingress) == {}
    assert "it is down" in refusals(one, ingress)[0]


@pytest.mark.parametrize(
    ("kind", "accepts"),
    [("", True), ("veth", True), ("tun", True), ("bridge", False), ("vlan", False), ("bond", False), ("dummy", False)],
)
def test_kernels_that_report_no_features(kind: str, accepts: bool) -> None:
    """On kernels before 6.3, the kind of interface decides: hardware may accept redirects, most virtual ones do not."""
    one = System({IN: Device(IN, "in0"), OUT: Device(OUT, "out0", kind=kind)}, None)
    assert bool(leaving(one)) is accepts


def test_back_by_the_same_interface() -> None:
    """The driver transmits back by the same interface; if that needs a redirect, the interface's features decide."""
    one = system()
    assert find_exits(one, [INGRESS]) == {Key(IN, IN): Exit(IN)}
    assert find_exits(one, [replace(INGRESS, transmits=False)]) == {}


def test_a_vlan() -> None:
    """The parent of a VLAN interface sends with a tag, also if it is the interface that packets arrive on."""
    vlan = Device(OUT, "out0.7", kind="vlan", vlan=7, lower=OTHER)
    one = system(vlan, Device(OTHER, "out0"), accepting=(OTHER,))
    assert leaving(one)[Key(IN, OUT)] == Exit(OTHER, 7)
    assert refusals(one) == []
    assert leaving(system(replace(vlan, lower=IN)))[Key(IN, OUT)] == Exit(IN, 7)
    assert leaving(one, GENERIC)[Key(IN, OUT)] == Exit(OUT)


@pytest.mark.parametrize(
    "change",
    [{"vlan": 0}, {"lower": 0}, {"lower": 99}, {"is_up": False}, {"mtu": 9000}],
    ids=["another protocol", "no parent here", "the parent is missing", "down", "the parent has a smaller MTU"],
)
def test_a_vlan_that_cannot_be_replaced(change: dict[str, Any]) -> None:
    """A VLAN interface whose parent cannot send in its place is reported."""
    vlan = replace(Device(OUT, "out0.7", kind="vlan", vlan=7, lower=OTHER), **change)
    one = system(vlan, Device(OTHER, "out0"), accepting=(OTHER,))
    assert Key(IN, OUT) not in leaving(one)
    assert len(refusals(one)) == 1


def bridged(port: Device | None = None, **more: Any) -> System:
    """Return a system with a bridge (OUT) that has seen MAC behind a port (OTHER)."""
    port = port or Device(OTHER, "port0", bridge=OUT, forwards=True)
    known: dict[str, object] = {"neighbours": {(OUT, GATEWAY): MAC}, "ports": {(OUT, MAC): OTHER}}
    return system(Device(OUT, "br0", kind="bridge"), port, accepting=(OTHER,), **{**known, **more})


def test_a_bridge() -> None:
    """For a bridge, the port behind which it has seen the next hop sends, for that next hop alone."""
    assert leaving(bridged()) == {Key(IN, OUT, MAC): Exit(OTHER), Key(IN, OTHER): Exit(OTHER)}
    assert refusals(bridged()) == []
    assert leaving(bridged(), GENERIC)[Key(IN, OUT)] == Exit(OUT)
    port = replace(Device(IN, "in0"), bridge=OUT, forwards=True)
    one = bridged(ports={(OUT, MAC): IN})
    assert leaving(one._replace(devices={**one.devices, IN: port}))[Key(IN, OUT, MAC)] == Exit(IN)


@pytest.mark.parametrize(
    "one",
    [
        bridged(ports={}),
        bridged(Device(OTHER, "port0", bridge=OUT, forwards=False)),
        bridged(Device(OTHER, "port0", bridge=99, forwards=True)),
        bridged(Device(OTHER, "port0", bridge=OUT, forwards=True, is_up=False)),
        bridged(Device(OTHER, "port0", bridge=OUT, forwards=True, mtu=1400)),
        bridged()._replace(features={}),
        bridged()._replace(devices={IN: Device(IN, "in0"), OUT: Device(OUT, "br0", kind="bridge", filters_vlans=True)}),
    ],
    ids=[
        "never seen",
        "port blocked",
        "port of another",
        "port down",
        "port has a smaller MTU",
        "port refuses",
        "filters VLANs",
    ],
)
def test_a_bridge_that_cannot_be_replaced(one: System) -> None:
    """A bridge without a usable port is reported once the next hop's MAC address is known."""
    assert not any(key.interface == OUT for key in leaving(one))
    assert "it is a bridge" in refusals(one)[0]


def test_unknown_next_hops_are_not_reported() -> None:
    """A next hop that has not answered, a removed interface and a backend on this machine are not reported."""
    assert refusals(bridged(neighbours={})) == []
    assert refusals(system()) == []
    assert refusals(system(Device(OUT, "lo", is_ethernet=False, is_loopback=True))) == []


def test_one_sentence_for_an_interface() -> None:
    """An interface is reported once, whatever the number of backends behind it, for each ingress that it refuses."""
    one = system(Device(OUT, "out0", kind="dummy"), Device(OTHER, "in1"))
    targets = [Target(f"b{n}", OUT, GATEWAY) for n in range(5)]
    ingresses = [INGRESS, Ingress(OTHER, generic=True)]
    (refusal,) = find_refusals(one, find_exits(one, ingresses), ingresses, targets)
    assert refusal.backends == ("b0", "b1", "b2", "b3", "b4")
    assert str(refusal).endswith("from in0 are dropped as no_route: b0, b1, b2 and 2 more")


def test_packets_that_arrive_on_a_bond() -> None:
    """In driver mode, the program runs on a bond's members, and packets that leave by the bond leave by the member."""
    one = System(
        {
            IN: Device(IN, "bond0", kind="bond"),
            OUT: Device(OUT, "eth0", bond=IN),
            OTHER: Device(OTHER, "eth1", bond=IN),
        },
        {},
    )
    found = find_exits(one, [INGRESS])
    assert {key: way for key, way in found.items() if key.interface == IN} == {
        Key(IN, IN): Exit(IN),
        Key(OUT, IN): Exit(OUT),
        Key(OTHER, IN): Exit(OTHER),
    }
    assert find_refusals(one, found, [INGRESS], [Target("a", IN, GATEWAY)]) == []
    assert {key.ingress for key in find_exits(one, [GENERIC])} == {IN}


def test_cards_that_accept_redirects_once_a_program_is_attached() -> None:
    """Such a card is expected to accept them if it gets a program; not so a veth, where the other end decides."""
    one, targets = system(Device(OUT, "out0"), Device(OTHER, "v0", kind="veth")), [Target("a", OUT, GATEWAY)]
    assert len(expect_refusals(one, [IN], targets, generic=False)) == 1
    assert expect_refusals(one, [IN, OUT], targets, generic=False) == []
    assert expect_refusals(one, [IN], targets, generic=True) == []
    assert len(expect_refusals(one, [IN, OTHER], [Target("a", OTHER, GATEWAY)], generic=False)) == 2
    assert expect_refusals(one._replace(features=None), [IN, 99], targets, generic=False) == []


def test_the_map_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exits beyond the map's size are left out, so that packets to them are dropped."""
    monkeypatch.setattr(exits, "MAX_EXITS", 2)
    one = system(Device(OUT, "out0"), Device(OTHER, "out1"), accepting=(OUT, OTHER))
    assert find_exits(one, [INGRESS]) == {Key(IN, IN, NO_MAC): Exit(IN), Key(IN, OUT, NO_MAC): Exit(OUT)}
