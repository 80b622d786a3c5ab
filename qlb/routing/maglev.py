"""The fallback: a pure function of the 4-tuple, equal on every balancer and in every process.

It decides for packets with an unroutable ID and an unknown flow. The 4-tuple is hashed under a key onto a Maglev ring.
The hash is AES as a CBC-MAC, since the packet path uses AES anyway. The ring distributes new connections by weight.
When one of N backends is added or removed, about 1/N of these connections move.

Only names and weights determine the ring. A backend that receives no new connections for now stays on it, and other
backends receive the connections of its slots. So the connections of other backends do not move, and its own return to
it later.

Spec: draft-ietf-quic-load-balancers, section "Baseline Fallback Algorithm"; the ring is that of "Maglev:
A Fast and Reliable Software Network Load Balancer" (NSDI 2016), section 3.4.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from qlb.addresses import FourTuple, packed_host
from qlb.routing.backends import Backend

DEFAULT_KEY: Final = bytes.fromhex("716c62206d61676c65762066616c6c62")
"""The key if the configuration has none. It is public, so that balancers agree without further configuration."""

RING_SIZES: Final = (65_537, 1_048_583)
"""Sizes of a ring in slots, all prime. A ring has the first size with SLOTS_PER_BACKEND slots for each backend."""
SLOTS_PER_BACKEND: Final = 16

_RELOCATIONS: Final = 16
"""Other slots to try if the owner of a slot receives no new connections, before one is chosen from a list."""


class Member(NamedTuple):
    """One backend on the ring. weight: 1 to 65535."""

    name: str
    weight: int


@dataclass(frozen=True, slots=True)
class Ring:
    """A filled Maglev table. key: 16 octets. slots: for each slot, the index in members of its owner."""

    key: bytes = field(repr=False)
    members: tuple[Member, ...]
    slots: array[int] = field(repr=False)


def ring_members(backends: Iterable[Backend | None]) -> tuple[Member, ...]:
    """Return the members of a ring of these backends, sorted by name: every backend with a weight above 0."""
    present = (backend for backend in backends if backend is not None and backend.weight > 0)
    return tuple(sorted(Member(backend.name, backend.weight) for backend in present))


def ring_size(members: int) -> int:
    """Return the number of slots of a ring. members: the number of members, one or more."""
    return next((size for size in RING_SIZES if size >= SLOTS_PER_BACKEND * members), RING_SIZES[-1])


def build_ring(members: Sequence[Member], key: bytes) -> Ring:
    """Fill a ring. members: in any order; without members the ring has no slots. key: 16 octets."""
    ordered = tuple(sorted(members))
    if not ordered:
        return Ring(key, (), array("i"))
    size = ring_size(len(ordered))
    slots = array("i", [-1]) * size
    places = [_permutation(member.name, key, size) for member in ordered]
    at = [offset for offset, _ in places]
    strides = [stride for _, stride in places]
    heaviest = max(member.weight for member in ordered)
    shares = [member.weight / heaviest for member in ordered]
    credit = [0.0] * len(ordered)
    everyone = range(len(ordered))
    left = size
    while True:
        for position in everyone:
            credit[position] += shares[position]
            if credit[position] < 1:
                continue
            credit[position] -= 1
            slot, stride = at[position], strides[position]
            while slots[slot] >= 0:
                slot += stride
                if slot >= size:
                    slot -= size
            slots[slot] = position
            at[position] = slot
            left -= 1
            if not left:
                return Ring(key, ordered, slots)


def assign(ring: Ring, indexes: Sequence[int]) -> array[int]:
    """Return the backend index for each slot; an empty array if no member receives new connections.

    indexes: for each member of the ring its backend index, or -1 if it receives no new connections. The slots of such
    a member are lent to the owners of other slots; only the slot number determines which.
    """
    takers = [index for index in indexes if index >= 0]
    if not takers:
        return array("i")
    slots = ring.slots
    assigned = array("i", map(indexes.__getitem__, slots))
    if len(takers) == len(indexes):
        return assigned
    lent = [slot for slot, index in enumerate(assigned) if index < 0]
    for slot in lent:
        assigned[slot] = _relocate(slot, slots, indexes, takers)
    return assigned


def _relocate(slot: int, slots: array[int], indexes: Sequence[int], takers: list[int]) -> int:
    seed = slot
    for _ in range(_RELOCATIONS):
        seed = (seed * 0x9E3779B1 + 0x7F4A7C15) & 0xFFFFFFFF  # a full-period sequence that separates nearby slots
        index = indexes[slots[(seed >> 8) % len(slots)]]
        if index >= 0:
            return index
    return takers[seed % len(takers)]


def _permutation(name: str, key: bytes, size: int) -> tuple[int, int]:
    digest = hashlib.blake2b(name.encode(), key=key, digest_size=16).digest()
    offset = int.from_bytes(digest[:8], "big") % size
    stride = int.from_bytes(digest[8:], "big") % (size - 1) + 1
    return offset, stride


class FourTupleHash:
    """A keyed hash of 4-tuples, 32 bits long."""

    __slots__ = ("_encrypt",)

    def __init__(self, key: bytes) -> None:
        """Create the AES context. key: 16 octets."""
        # A CBC-MAC from single ECB blocks, chained in hash(), so that one AES context serves every hash.
        self._encrypt = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update

    def hash(self, four_tuple: FourTuple) -> int:
        """Return the first four octets of the MAC as a big-endian number.

        IPv4: one block of client address, service address, client port, service port and 00000004. IPv6: one block of
        client port, service port, eight zero octets and 00000006, then one block for each address. An IPv4-mapped IPv6
        address counts as IPv4. Because of the marker, no message is a prefix of another.
        Raises ValueError if a host is not an IP literal.
        """
        client_host, client_port, service_host, service_port = four_tuple
        client, service = packed_host(client_host), packed_host(service_host)
        ports = client_port.to_bytes(2, "big") + service_port.to_bytes(2, "big")
        if len(client) == len(service) == 4:
            return int.from_bytes(self._encrypt(client + service + ports + b"\0\0\0\x04")[:4], "big")
        mac = self._encrypt(ports + b"\0\0\0\0\0\0\0\0\0\0\0\x06")
        for address in (client, service):
            mac = self._encrypt(_xor(mac, address.rjust(16, b"\0")))
        return int.from_bytes(mac[:4], "big")


def _xor(left: bytes, right: bytes) -> bytes:
    return (int.from_bytes(left, "big") ^ int.from_bytes(right, "big")).to_bytes(16, "big")
