"""A balancer in its own network: two interfaces, backends on the second one, and the plane under test.

No packet is sent: BPF test runs execute the program. Routes and neighbours are real.
"""

import ctypes
import dataclasses
import fcntl
import socket
import struct
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lab.dataplane.settings import DEFAULTS
from qlb.addresses import Endpoint
from qlb.cid import CidCodec, CidParams
from qlb.dataplane.base import Orders
from qlb.dataplane.xdp.libbpf import TestedPacket, run_packet
from qlb.dataplane.xdp.plane import XdpPlane
from qlb.dataplane.xdp.program import FORWARD, XdpSettings
from qlb.routing.backends import Backend
from qlb.routing.snapshot import compile_snapshot

PORT: Final = 4433
SERVICES: Final = {4: "192.0.2.1", 6: "2001:db8::1"}
CLIENTS: Final = {4: "198.51.100.7", 6: "2001:db8:c::7"}
BACKENDS: Final = {4: ("10.0.0.2", "10.0.0.3"), 6: ("fd00::2", "fd00::3")}
SOURCES: Final = {4: "10.0.0.1", 6: "fd00::1"}
"""Addresses of the balancer towards its backends."""
NARROW: Final = {4: "10.9.0.2", 6: "fd09::2"}
"""A backend behind a path with NARROW_MTU."""
NARROW_MTU: Final = 1300
SILENT: Final = {4: "10.0.0.99", 6: "fd00::99"}
"""An address on the link that does not answer."""
NOWHERE: Final = {4: "203.0.113.9", 6: "2001:db8:dead::9"}
HASH_KEY: Final = bytes(range(16))
PLAINTEXT: Final = CidParams(config_id=0, server_id_length=4, nonce_length=6)
FOUR_PASS: Final = CidParams(config_id=1, server_id_length=4, nonce_length=10, key=bytes(range(16)))

_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_SGRO: Final = 0x2C
_COMMANDS: Final = """
link set lo up
link add in0 type veth peer name in1
link add out0 address 02:00:00:00:00:11 type veth peer name out1
link set in0 up
link set in1 up
link set out0 up
link set out1 up
addr add 192.0.2.254/24 dev in0
addr add 10.0.0.1/24 dev out0
addr add 2001:db8::fe/64 dev in0 nodad
addr add fd00::1/64 dev out0 nodad
neigh add 10.0.0.2 lladdr 02:00:00:00:00:02 nud permanent dev out0
neigh add 10.0.0.3 lladdr 02:00:00:00:00:03 nud permanent dev out0
neigh add fd00::2 lladdr 02:00:00:00:00:02 nud permanent dev out0
neigh add fd00::3 lladdr 02:00:00:00:00:03 nud permanent dev out0
neigh add 192.0.2.2 lladdr 02:00:00:00:00:22 nud permanent dev in0
route add 10.9.0.0/24 via 10.0.0.2 mtu lock 1300
route add fd09::/64 via fd00::2 mtu lock 1300
"""


def build() -> None:
    """Create the interfaces, routes and neighbours, and enable forwarding."""
    subprocess.run(["ip", "-batch", "-"], input=_COMMANDS, text=True, check=True)
    for interface in ("in1", "out1"):
        set_gro(interface)
    for family in ("ipv4", "ipv6"):
        for interface in ("in0", "out0"):
            allow_forwarding(interface, family)


def set_gro(interface: str, on: int = 1) -> None:
    """Switch GRO of a veth on or off. With GRO, it accepts the frames that XDP redirects to its other end."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        value = (ctypes.c_uint32 * 2)(_ETHTOOL_SGRO, on)
        request = struct.pack("16sP", interface.encode(), ctypes.addressof(value)).ljust(40, b"\0")
        fcntl.ioctl(sock, _SIOCETHTOOL, request)


def allow_forwarding(interface: str, family: str, allowed: int = 1) -> None:
    """Set the forwarding sysctl, which the kernel's route lookups for BPF require."""
    Path(f"/proc/sys/net/{family}/conf/{interface}/forwarding").write_text(str(allowed), encoding="ascii")


def pool(hosts: Sequence[str], **more: Any) -> list[Backend]:
    """Return backends at these addresses. Backend n has the server ID n + 1. more: further fields of each."""
    return [
        Backend(
            f"b{n}", Endpoint(host, PORT), {p.config_id: (server_id(n, p),) for p in (PLAINTEXT, FOUR_PASS)}, **more
        )
        for n, host in enumerate(hosts)
    ]


def server_id(number: int, params: CidParams) -> bytes:
    """Return the server ID of a backend of pool()."""
    return (number + 1).to_bytes(params.server_id_length, "big")


def cid_of(number: int, params: CidParams = FOUR_PASS) -> bytes:
    """Return a connection ID of a backend of pool()."""
    return CidCodec(params).encode(server_id(number, params), bytes(params.nonce_length))


def short(cid: bytes, payload: bytes = bytes(30)) -> bytes:
    """Return a short header packet."""
    return b"\x40" + cid + payload


def orders(backends: Sequence[Backend | None], **settings: Any) -> Orders:
    """Return orders to forward to these backends."""
    snapshot = compile_snapshot(1, (PLAINTEXT, FOUR_PASS), backends, fallback_key=HASH_KEY)
    return Orders(snapshot, dataclasses.replace(DEFAULTS, **settings))


@dataclass
class Scene:
    """The planes under test. They are stopped at the end."""

    planes: list[XdpPlane] = field(default_factory=list)

    def plane(
        self, mode: str, backends: Sequence[Backend], interfaces: tuple[str, ...] = ("in0",), **more: Any
    ) -> XdpPlane:
        """Load a plane for the service addresses without attaching it. more: fields of XdpSettings."""
        services = tuple(Endpoint(host, PORT) for host in SERVICES.values())
        settings = XdpSettings(services=services, interfaces=interfaces, mode=mode, **more)
        self.planes.append(XdpPlane(settings, orders(backends)))
        return self.planes[-1]

    def close(self) -> None:
        """Stop every plane."""
        for plane in self.planes:
            with suppress(OSError):
                plane.stop()


def forward(plane: XdpPlane, packet: bytes, interface: str = "in0") -> TestedPacket:
    """Run the forwarding program on a packet. Its counters change as for a real packet."""
    return run_packet(plane.program(FORWARD), packet, interface=socket.if_nametoindex(interface))
