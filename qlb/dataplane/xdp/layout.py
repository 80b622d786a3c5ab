"""The data that Python and the BPF program share: the layouts of layout.h, and the packing of backends and services.

`make generate` writes the constants for C, and checks of the layouts.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Self

from qlb.addresses import Endpoint, canonical_host, ipv6_octets
from qlb.dataplane.core.hash_table import Entry, place
from qlb.dataplane.core.table import HEAD, Layout

MODES: Final = ("l2", "ipip", "gue")
"""Forwarding modes, by their number in the program."""
GUE_PORT: Final = 6080
"""Assigned by IANA."""
MEMO_PAGES: Final = 16
"""Pages of 512 decoded IDs for each CPU."""
HOP_NS: Final = 500_000_000
"""For this time, the program reuses the kernel's answer about a next hop. Then it follows a changed route."""

SETTINGS: Final = Layout(
    "qlb_settings",
    {
        "mode": "I",
        "gue_port": "I",
        "service_slots": "I",
        "hop_ticks": "I",
        "service_seed": "Q",
        "service_ports": "Q",
        "redirect_only": "I",
        "unused": "I",
    },
)
GENERATION: Final = Layout(
    "qlb_generation", {"head": f"{HEAD.size_bytes}s", "flow_timeout_ticks": "Q", "number": "Q", "unused": "Q"}
)
DESTINATION: Final = Layout(
    "qlb_destination", {"flags": "I", "is_ipv6": "B", "unused": "3s", "address": "16s", "source": "16s"}
)
BACKEND: Final = Layout(
    "qlb_backend",
    {
        "forwarded": "24s",
        "forwarded_bytes": "Q",
        "new_flows": "Q",
        "last_seen": "Q",
        "hop_expires": "I",
        "hop_number": "I",
        "hop_ingress": "I",
        "hop_interface": "I",
        "hop_macs": "12s",
        "hop_mtu": "H",
        "hop_vlan": "H",
    },
)
EXIT_KEY: Final = Layout("qlb_exit_key", {"ingress": "I", "interface": "I", "mac": "6s", "unused": "2s"})
EXIT: Final = Layout("qlb_exit", {"interface": "I", "vlan": "I"})
SERVICE: Final = Layout("qlb_service", {"low": "Q", "high": "Q", "port": "Q"})
QUESTION: Final = Layout(
    "qlb_question",
    {
        "now": "Q",
        "remember": "I",
        "decision": "I",
        "outcome": "I",
        "backend": "i",
        "interface": "I",
        "unused": "I",
    },
)

_ADDRESS_BYTES: Final = 16


def pack_services(services: Sequence[Endpoint]) -> tuple[bytes, int]:
    """Return the hash table of the service addresses, and its seed."""
    keys = [_service_key(service) for service in services]
    slots, seed = place([Entry(low ^ port, high, number) for number, (low, high, port) in enumerate(keys)])
    packed = [keys[slot.value] if slot else (0, 0, 0) for slot in slots]
    return b"".join(SERVICE.pack(low=low, high=high, port=port) for low, high, port in packed), seed


def _service_key(service: Endpoint) -> tuple[int, int, int]:
    address = ipv6_octets(ipaddress.ip_address(service.host))
    port = int.from_bytes(service.port.to_bytes(2, "big"), "little")
    return int.from_bytes(address[:8], "little"), int.from_bytes(address[8:], "little"), port


def service_ports(services: Sequence[Endpoint]) -> int:
    """Return a mask of 64 bits: bit n is set if a service's port is n modulo 64."""
    mask = 0
    for service in services:
        mask |= 1 << service.port % 64
    return mask


def pack_destination(flags: int, address: str, source: str | None) -> bytes:
    """Return a backend's destination. source: address of the outer header; None if there is no route to the backend."""
    packed = ipaddress.ip_address(canonical_host(address)).packed
    return DESTINATION.pack(
        flags=flags,
        is_ipv6=len(packed) == _ADDRESS_BYTES,
        address=packed,
        source=ipaddress.ip_address(source).packed if source else b"",
    )


NO_DESTINATION: Final = bytes(DESTINATION.size_bytes)
"""The destination of a backend index that is not in use any more."""


_MIN_SERVERS: Final = 256
_MIN_BACKENDS: Final = 64


class Room(NamedTuple):
    """The number of elements in one half of each map: server IDs, backends, and slots of the ring."""

    servers: int
    backends: int
    ring: int

    @classmethod
    def for_table(cls, head: Mapping[str, int | bytes]) -> Self:
        """Return room for a table and for one of twice its size."""
        servers, backends, ring = (int(head[name]) for name in ("server_slots", "backend_slots", "ring_slots"))
        return cls(max(2 * servers, _MIN_SERVERS), max(2 * backends, _MIN_BACKENDS), max(ring, 1))

    def holds(self, head: Mapping[str, int | bytes]) -> bool:
        """Return whether a table fits."""
        wanted = (int(head[name]) for name in ("server_slots", "backend_slots", "ring_slots"))
        return all(there >= want for there, want in zip(self, wanted, strict=True))

    @property
    def elements(self) -> dict[str, int]:
        """The numbers of elements of the maps, both halves."""
        return {
            "servers": 2 * self.servers,
            "destinations": 2 * self.backends,
            "ring": 2 * self.ring,
        }


class Contents(NamedTuple):
    """The contents of the maps for one snapshot. head: of the table, by field."""

    table: bytes
    head: dict[str, int | bytes]
    destinations: bytes
    flow_entries: int
    flow_timeout_ticks: int
