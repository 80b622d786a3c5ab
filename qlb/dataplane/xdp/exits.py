"""The exits: interfaces by which packets can leave, and the reasons why other interfaces accept none.

The kernel's route lookup returns any interface, but a redirect works only if the interface's driver transmits frames
from an XDP program. bpf_redirect() does not report a refusal: the packet is lost later, and only a tracepoint
(xdp:xdp_redirect_err) reports it. So the program uses only interfaces with an exit. It drops and counts packets that
would leave by another one.

Two kinds of interfaces that refuse redirects have an exit through the interface below: an 802.1Q interface through its
parent, and the program writes the tag; a bridge through the port on which it has seen the next hop's MAC address.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from qlb.dataplane.xdp.netlink import ACCEPTS_REDIRECTS, Device, Netlink, xdp_features

MAX_EXITS: Final = 16384
"""The size of the program's map."""
NO_MAC: Final = bytes(6)
_NAMED: Final = 3
"""The number of backends that a sentence names."""
_AGGREGATES: Final = ("bond", "team")
"""They report the features of their members, but do not transmit packets that are redirected to themselves."""
_WITHOUT_FEATURES: Final = ("", "veth", "tun")
"""Kinds that may accept redirects if the kernel does not report features: hardware ("") and these two."""


class Key(NamedTuple):
    """The key of an exit, from the kernel's route lookup. mac: of the next hop if the exit depends on it, or NO_MAC."""

    ingress: int
    interface: int
    mac: bytes = NO_MAC


class Exit(NamedTuple):
    """An exit: the interface to redirect to, and the identifier of the VLAN tag to write (0 = none)."""

    interface: int
    vlan: int = 0


Exits = dict[Key, Exit]


class System(NamedTuple):
    """The kernel's lists. features: XDP features by interface; None if the kernel does not report them.

    neighbours: MAC addresses by interface and IP address. ports: of bridges, by bridge and MAC address. addresses: of
    this machine.
    """

    devices: Mapping[int, Device]
    features: Mapping[int, int] | None
    addresses: frozenset[bytes] = frozenset()
    neighbours: Mapping[tuple[int, str], bytes] = {}
    ports: Mapping[tuple[int, bytes], int] = {}

    @classmethod
    def read(cls) -> "System":
        """Read them from the kernel. Raises OSError."""
        with Netlink() as netlink:
            devices, addresses = netlink.devices(), netlink.addresses()
            if not any(device.kind == "bridge" and device.is_up for device in devices.values()):
                return cls(devices, xdp_features(), addresses)
            return cls(devices, xdp_features(), addresses, netlink.neighbours(), netlink.bridge_ports())


@dataclass(frozen=True, slots=True)
class Ingress:
    """An interface on which packets arrive. generic: the program runs after the driver, where more exits work.

    transmits: a packet that leaves by the same interface is transmitted by the driver (XDP_TX), not redirected.
    bond: the bond of which it is a member, if a program in the driver receives packets of that bond; else 0.
    """

    index: int
    generic: bool = False
    transmits: bool = True
    bond: int = 0


def with_members(system: System, ingresses: Sequence[Ingress]) -> list[Ingress]:
    """Return the interfaces on which the program runs: for a bond, also its members if it runs in the driver."""
    found = list(ingresses)
    for ingress in ingresses:
        members = [device.index for device in system.devices.values() if device.bond == ingress.index]
        found += [replace(ingress, index=member, bond=ingress.index) for member in members if not ingress.generic]
    return found


def find_exits(system: System, ingresses: Sequence[Ingress]) -> Exits:
    """Return all exits, up to MAX_EXITS."""
    found: Exits = {}
    for ingress in with_members(system, ingresses):
        for device in system.devices.values():
            for key, exit_ in _exits_of(system, ingress, device):
                if len(found) < MAX_EXITS:
                    found[key] = exit_
    return found


def _exits_of(system: System, ingress: Ingress, device: Device) -> Iterator[tuple[Key, Exit]]:
    if not device.is_up:
        return
    if _accepts(system, ingress, device):
        # The kernel sends a packet that a member of a bond transmits by the member that the bond chooses.
        leaves_by = ingress.index if device.index == ingress.bond else device.index
        yield Key(ingress.index, device.index), Exit(leaves_by)
        return
    lower = system.devices.get(device.lower)
    if device.vlan and lower is not None and _replaces(system, ingress, device, lower):
        yield Key(ingress.index, device.index), Exit(lower.index, device.vlan)
    if device.kind == "bridge" and not device.filters_vlans:
        for mac in {mac for (index, _), mac in system.neighbours.items() if index == device.index}:
            port = system.devices.get(system.ports.get((device.index, mac), 0))
            if port is None or port.bridge != device.index or not port.forwards:
                continue
            if _replaces(system, ingress, device, port):
                yield Key(ingress.index, device.index, mac), Exit(port.index)


def _replaces(system: System, ingress: Ingress, device: Device, lower: Device) -> bool:
    """Return whether all packets that fit an interface can leave by the one below it."""
    return lower.mtu >= device.mtu and _accepts(system, ingress, lower)


def _accepts(system: System, ingress: Ingress, device: Device) -> bool:
    """Return whether an interface transmits frames from a program on another interface, or on itself."""
    if not device.is_up:
        return False
    if device.index in (ingress.index, ingress.bond) and ingress.transmits:
        return True
    if not device.is_ethernet:
        return ingress.generic and device.is_loopback
    if ingress.generic:
        return True
    if device.kind in _AGGREGATES:
        return False
    if system.features is None:
        return device.kind in _WITHOUT_FEATURES
    return bool(system.features.get(device.index, 0) & ACCEPTS_REDIRECTS)


LINK_LOCAL: Final = -1
"""In place of an interface, if the backend's address is link-local."""


class Target(NamedTuple):
    """A backend's next hop: the interface and the address that the kernel's route names."""

    backend: str
    interface: int
    gateway: str


def find_targets(hosts: Mapping[str, str]) -> list[Target]:
    """Return the next hops of the backends that have a route. hosts: name → address."""
    known: dict[str, tuple[int, str] | None] = {}
    found = []
    with Netlink() as netlink:
        for name, host in hosts.items():
            if host not in known:
                known[host] = _route(netlink, host)
            hop = known[host]
            if hop is not None:
                found.append(Target(name, *hop))
    return found


def _route(netlink: Netlink, host: str) -> tuple[int, str] | None:
    if "%" in host:
        return LINK_LOCAL, host
    try:
        return netlink.route(host)
    except OSError:
        return None


class Refusal(NamedTuple):
    """An interface that accepts no packets. backends: behind it. reason: a sentence without the backends' names."""

    interface: str
    backends: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        """Return the reason and the names of some backends."""
        names = ", ".join(self.backends[:_NAMED])
        more = len(self.backends) - _NAMED
        return f"{self.reason}: {names}{f' and {more} more' if more > 0 else ''}"


def find_refusals(
    system: System, exits: Exits, ingresses: Sequence[Ingress], targets: Sequence[Target]
) -> list[Refusal]:
    """Return the interfaces that lead to backends and accept no packets from the program."""
    behind: dict[tuple[int, int], list[str]] = {}
    link_local = tuple(target.backend for target in targets if target.interface == LINK_LOCAL)
    for target in targets:
        for ingress in ingresses:
            if not _is_reached(system, exits, ingress, target):
                behind.setdefault((ingress.index, target.interface), []).append(target.backend)
    found = [Refusal("", link_local, _LINK_LOCAL_REASON)] if link_local else []
    return found + [
        _refusal(system, next(one for one in ingresses if one.index == came_in), system.devices[leaves], names)
        for (came_in, leaves), names in behind.items()
        if leaves in system.devices
    ]


def expect_refusals(
    system: System, indexes: Sequence[int], targets: Sequence[Target], *, generic: bool
) -> list[Refusal]:
    """Return the expected refusals with a program on these interfaces, in the driver or after it (generic).

    Drivers of network cards may accept redirects only while a program is attached, so this function assumes that they
    accept them.
    """
    devices = [system.devices[index] for index in indexes if index in system.devices]
    features = system.features
    if features is not None:
        cards = (device.index for device in devices if not device.kind)
        features = {**features, **{card: features.get(card, 0) | ACCEPTS_REDIRECTS for card in cards}}
    ingresses = [Ingress(device.index, generic, device.kind != "veth") for device in devices]
    expected = system._replace(features=features)
    return find_refusals(expected, find_exits(expected, ingresses), ingresses, targets)


def _is_reached(system: System, exits: Exits, ingress: Ingress, target: Target) -> bool:
    if Key(ingress.index, target.interface) in exits:
        return True
    device = system.devices.get(target.interface)
    if device is None or device.is_loopback:
        return True  # it was removed, or the address is of this machine: the program does not redirect
    mac = system.neighbours.get((target.interface, target.gateway))
    if mac is None:
        return device.kind == "bridge" and device.is_up and not device.filters_vlans  # the MAC address is not known yet
    return Key(ingress.index, target.interface, mac) in exits


def _refusal(system: System, ingress: Ingress, device: Device, backends: Sequence[str]) -> Refusal:
    came_in = system.devices[ingress.index].name if ingress.index in system.devices else str(ingress.index)
    return Refusal(
        device.name,
        tuple(backends),
        f"backends cannot be reached by {device.name}: {_why(system, ingress, device)}; their packets from {came_in} "
        f"are dropped as no_route",
    )


_LINK_LOCAL_REASON: Final = (
    "backends with link-local addresses cannot be reached, their packets are dropped as no_route: the kernel looks up "
    "no route to such an address for an XDP program"
)
_KINDS: Final[Mapping[str, str]] = {
    "veth": "it is a veth whose other end accepts no packets from XDP (there: ethtool -K NAME gro on)",
    "vlan": "it is a VLAN interface, and the interface below accepts no redirected packets",
    "bridge": (
        "it is a bridge that filters VLANs, or the port of the next hop is unknown or accepts no redirected packets"
    ),
}


def _why(system: System, ingress: Ingress, device: Device) -> str:
    if not device.is_up:
        return "it is down or has no carrier"
    if not device.is_ethernet:
        return "it is a tunnel or another interface without Ethernet headers"
    text = _KINDS.get(device.kind) or _driver_reason(system, device)
    return text if ingress.generic else f"{text}; forwarding.attach: generic reaches it"


def _driver_reason(system: System, device: Device) -> str:
    what = f"a {device.kind} interface" if device.kind else "an interface"
    if device.kind or system.features is None:
        return f"it is {what} that accepts no redirected packets"
    return (
        f"it is {what} whose driver accepts no redirected packets now (many drivers accept them only while an XDP "
        "program is attached: add the interface to forwarding.interfaces)"
    )
