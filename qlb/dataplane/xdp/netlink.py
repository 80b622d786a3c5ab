"""Read the kernel's interfaces, neighbours and routes over netlink. This needs no privileges.

Spec: rtnetlink(7), netlink(7); the kernel's Documentation/netlink/specs/netdev.yaml for the XDP features of drivers.
"""

import ipaddress
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

_ROUTE: Final = 0
_GENERIC: Final = 16
_ERROR: Final = 2
_DONE: Final = 3
_REQUEST: Final = 1
_DUMP: Final = 0x300
_GET_LINK: Final = 18
_GET_ADDRESS: Final = 22
_GET_ROUTE: Final = 26
_GET_NEIGHBOUR: Final = 30
_HEADER: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_TYPE_MASK: Final = 0x3FFF
_RECEIVE_BYTES: Final = 1 << 18
_TIMEOUT_S: Final = 5.0

_ETHERNET: Final = 1
_LOOPBACK: Final = 772
_IFF_UP: Final = 1
_IFF_LOWER_UP: Final = 1 << 16
_FAMILY_BRIDGE: Final = 7
_PORT_FORWARDING: Final = 3
_NUD_PERMANENT: Final = 0x80
_MAC_BYTES: Final = 6
_CONTROL: Final = 0x10
_CONTROL_GET_FAMILY: Final = 3
_DEVICE_GET: Final = 1
_ETH_P_8021Q: Final = 0x8100

NATIVE: Final = 1
GENERIC: Final = 2
"""The mode of an attached XDP program: in the driver, or after it."""
ACCEPTS_REDIRECTS: Final = 4
"""The XDP feature of interfaces that transmit redirected frames (NETDEV_XDP_ACT_NDO_XMIT)."""

Attributes = dict[int, bytes]


@dataclass(frozen=True, slots=True)
class Device:
    """An interface. kind: of a virtual one (``veth``, ``bridge``, ``vlan``), else "". is_up: up, with a carrier.

    lower: the interface below it, 0 if there is none in this network namespace. vlan: the identifier of an 802.1Q
    interface, else 0. bridge: the bridge of which it is a port, else 0. forwards: spanning tree allows this port of a
    bridge to forward. filters_vlans: it is a bridge that filters by VLAN tags. bond: the bond of which it is a member,
    else 0. attached: the mode of its XDP program (NATIVE, GENERIC), else 0.
    """

    index: int
    name: str
    is_ethernet: bool = True
    is_loopback: bool = False
    is_up: bool = True
    mtu: int = 1500
    kind: str = ""
    lower: int = 0
    vlan: int = 0
    bridge: int = 0
    forwards: bool = False
    filters_vlans: bool = False
    bond: int = 0
    attached: int = 0


class Netlink:
    """A connection to the kernel. Calls raise OSError."""

    def __init__(self, protocol: int = _ROUTE) -> None:
        """Connect. protocol: number of the netlink protocol."""
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self._sock.settimeout(_TIMEOUT_S)
        self._sock.bind((0, 0))

    def __enter__(self) -> Self:
        """Return the connection."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the connection."""
        self._sock.close()

    def devices(self) -> dict[int, Device]:
        """Return all interfaces by index."""
        found = (_read_device(body) for body in self.ask(_GET_LINK, bytes(16), dump=True))
        return {device.index: device for device in found}

    def addresses(self) -> frozenset[bytes]:
        """Return all addresses of this machine in the kernel's form, which is only useful to detect changes."""
        return frozenset(
            body[:8] + _attributes(body[8:]).get(1, b"") for body in self.ask(_GET_ADDRESS, bytes(8), dump=True)
        )

    def route(self, host: str) -> tuple[int, str]:
        """Return the interface by which packets to a host leave, and the next hop's address.

        Raises OSError if there is no route.
        """
        packed = ipaddress.ip_address(host).packed
        family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
        question = struct.pack("=BBBBBBBBI", family, 8 * len(packed), 0, 0, 0, 0, 0, 0, 0) + _attribute(1, packed)
        for body in self.ask(_GET_ROUTE, question):
            attributes = _attributes(body[12:])
            gateway = str(ipaddress.ip_address(attributes[5])) if 5 in attributes else host
            return _u32(attributes.get(4)), gateway
        raise OSError("no route")

    def neighbours(self) -> dict[tuple[int, str], bytes]:
        """Return the known MAC addresses by interface and IP address."""
        found = {}
        for body in self.ask(_GET_NEIGHBOUR, bytes(12), dump=True):
            attributes = _attributes(body[12:])
            mac = attributes.get(2, b"")
            if 1 in attributes and len(mac) == _MAC_BYTES:
                found[_i32(body, 4), str(ipaddress.ip_address(attributes[1]))] = mac
        return found

    def bridge_ports(self) -> dict[tuple[int, bytes], int]:
        """Return the port on which each bridge has seen a MAC address, by bridge and address."""
        found = {}
        question = struct.pack("=BBHiHBB", _FAMILY_BRIDGE, 0, 0, 0, 0, 0, 0)
        for body in self.ask(_GET_NEIGHBOUR, question, dump=True):
            state, attributes = struct.unpack_from("=H", body, 8)[0], _attributes(body[12:])
            if 9 in attributes and 2 in attributes and not state & _NUD_PERMANENT:  # else the bridge's own
                found[_u32(attributes[9]), attributes[2]] = _i32(body, 4)
        return found

    def ask(self, kind: int, body: bytes, *, dump: bool = False) -> Iterator[bytes]:
        """Send a request and yield the bodies of the answers. kind: of the message. dump: request a whole list."""
        flags = _REQUEST | (_DUMP if dump else 0)
        self._sock.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
        while True:
            octets = self._sock.recv(_RECEIVE_BYTES)
            while len(octets) >= _HEADER.size:
                length, answered, _, _, _ = _HEADER.unpack_from(octets)
                message, octets = octets[_HEADER.size : length], octets[(length + 3) & ~3 :]
                if answered == _DONE:
                    return
                if answered == _ERROR:
                    number = -_i32(message, 0)
                    raise OSError(number, f"netlink request {kind} failed")
                yield message
                if not dump:
                    return


def xdp_features() -> dict[int, int] | None:
    """Return the XDP features of interfaces, as bits by index; None if the kernel does not report them (before 6.3)."""
    try:
        with Netlink(_GENERIC) as netlink:
            question = struct.pack("=BBH", _CONTROL_GET_FAMILY, 1, 0) + _attribute(2, b"netdev\0")
            (answer,) = netlink.ask(_CONTROL, question)
            (family,) = struct.unpack("=H", _attributes(answer[4:])[1])
            found = {}
            for body in netlink.ask(family, struct.pack("=BBH", _DEVICE_GET, 1, 0), dump=True):
                attributes = _attributes(body[4:])
                found[_u32(attributes.get(1))] = int.from_bytes(attributes.get(3, b""), sys.byteorder)
            return found
    except OSError:
        return None


def _read_device(body: bytes) -> Device:
    kind, index, flags = struct.unpack_from("=xxHiI", body)
    attributes = _attributes(body[16:])
    link = _attributes(attributes.get(18, b""))
    data, port = _attributes(link.get(2, b"")), _attributes(link.get(5, b""))
    name = link.get(1, b"").rstrip(b"\0").decode()
    master, master_kind = _u32(attributes.get(10)), link.get(4, b"").rstrip(b"\0")
    here = 37 not in attributes  # else the index belongs to another network namespace
    is_8021q = name == "vlan" and int.from_bytes(data.get(5, b""), "big") == _ETH_P_8021Q
    return Device(
        index=index,
        name=attributes.get(3, b"").rstrip(b"\0").decode(),
        is_ethernet=kind == _ETHERNET,
        is_loopback=kind == _LOOPBACK,
        is_up=bool(flags & _IFF_UP and flags & _IFF_LOWER_UP),
        mtu=_u32(attributes.get(4)),
        kind=name,
        lower=_u32(attributes.get(5)) if here else 0,
        vlan=int.from_bytes(data.get(1, b"")[:2], sys.byteorder) if is_8021q else 0,
        bridge=master if master_kind == b"bridge" else 0,
        bond=master if master_kind == b"bond" else 0,
        forwards=port.get(1, b"\0")[0] == _PORT_FORWARDING,
        filters_vlans=name == "bridge" and bool(data.get(7, b"\0")[0]),
        attached=_attributes(attributes.get(43, b"")).get(2, b"\0")[0],
    )


def _attribute(kind: int, value: bytes) -> bytes:
    return (_ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value).ljust((len(value) + 7) & ~3, b"\0")


def _attributes(octets: bytes) -> Attributes:
    found = {}
    while len(octets) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(octets)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _TYPE_MASK] = octets[_ATTRIBUTE.size : length]
        octets = octets[(length + 3) & ~3 :]
    return found


def _u32(octets: bytes | None) -> int:
    return int.from_bytes((octets or b"")[:4], sys.byteorder)


def _i32(octets: bytes, at: int) -> int:
    value: int = struct.unpack_from("=i", octets, at)[0]
    return value
