"""The snapshot: configuration and health, compiled for the packet path. It is immutable and replaced as a whole.

Only this module compiles snapshots. The supervisor sends them to the workers, and every plane uses the same one. Each
CID config has a bounded memo of decoded IDs: a cache, not state, which is discarded with the snapshot.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from qlb.addresses import FourTuple
from qlb.cid import CidCodec, CidParams
from qlb.routing.backends import Backend
from qlb.routing.maglev import FourTupleHash, Ring, assign, build_ring, ring_members
from qlb.routing.outcomes import TOO_SHORT, UNKNOWN_SERVER_ID

MEMO_ENTRIES: Final = 65_536
"""IDs that the memo of one CID config holds, about 10 MB at most. A full memo is emptied."""


class RoutableConfig:
    """One CID config on the balancer: connection ID → backend index."""

    __slots__ = ("_block_end", "_decode", "_memo", "_server_ids", "codec")

    def __init__(self, codec: CidCodec, server_ids: Mapping[bytes | None, int]) -> None:
        """Start with an empty memo. server_ids: server ID → backend index."""
        self.codec = codec
        self._decode = codec.decode
        self._block_end = codec.params.block_end
        self._server_ids: dict[bytes | None, int] = dict(server_ids)
        self._memo: dict[bytes, int] = {}

    def __reduce__(self) -> tuple[type[RoutableConfig], tuple[CidCodec, Mapping[bytes | None, int]]]:
        """Pickle without the memo."""
        return RoutableConfig, (self.codec, self._server_ids)

    def find(self, cid: bytes) -> int:
        """Return the backend index that the ID decodes to, or the complement (~) of the reason that it is unroutable.

        cid: first octet included; octets after the block are ignored.
        """
        end = self._block_end
        if len(cid) < end:
            return ~TOO_SHORT
        block = cid[1:end]
        index = self._memo.get(block)
        if index is None:
            index = self._server_ids.get(self._decode(cid), ~UNKNOWN_SERVER_ID)
            # Only routable IDs enter the memo, so that random IDs cannot displace those of live connections.
            if index >= 0:
                if len(self._memo) >= MEMO_ENTRIES:
                    self.forget()
                self._memo[block] = index
        return index

    @property
    def remembered(self) -> int:
        """The number of IDs in the memo."""
        return len(self._memo)

    @property
    def server_ids(self) -> Mapping[bytes | None, int]:
        """Server ID → backend index. The key type includes None so that a failed decode can be looked up."""
        return self._server_ids

    def forget(self) -> None:
        """Empty the memo, so that the next find() decodes every ID again."""
        self._memo.clear()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Configuration and health at one moment, compiled.

    configs: indexed by the three config rotation bits, 0 to 7; None if no CID config has them (7 is always None).
    backends: by index; None if the index has no backend. ring: the Maglev table of names and weights.
    fallback: slot of the ring → index of a backend that accepts new connections; empty if none does.
    """

    generation: int
    configs: tuple[RoutableConfig | None, ...]
    backends: tuple[Backend | None, ...]
    ring: Ring = field(repr=False)
    fallback: array[int] = field(repr=False)
    _hash: FourTupleHash = field(repr=False)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle for a worker, without the hash's AES context and the ring's slots, which only compiling uses."""
        key_alone = Ring(self.ring.key, (), array("i"))
        return _restore, (self.generation, self.configs, self.backends, key_alone, self.fallback)

    def fallback_backend(self, four_tuple: FourTuple) -> int:
        """Return the backend index for a new connection, or -1 if no backend accepts any."""
        slots = self.fallback
        return slots[self._hash.hash(four_tuple) % len(slots)] if slots else -1


def compile_snapshot(
    generation: int,
    cid_params: Sequence[CidParams],
    backends: Sequence[Backend | None],
    *,
    fallback_key: bytes,
    ring: Ring | None = None,
) -> Snapshot:
    """Compile a snapshot.

    cid_params: with different config IDs. backends: by index, as BackendIndexes.arrange() returns them.
    fallback_key: 16 octets. ring: of an earlier snapshot; it is reused if names, weights and key are unchanged,
    because filling a ring takes tens of milliseconds to seconds.
    """
    by_name = {backend.name: index for index, backend in enumerate(backends) if backend is not None}
    present = [backend for backend in backends if backend is not None]
    members = ring_members(backends)
    if ring is None or ring.members != members or ring.key != fallback_key:
        ring = build_ring(members, fallback_key)
    takers = {backend.name for backend in present if backend.accepts_new}
    owners = [by_name[member.name] if member.name in takers else -1 for member in members]
    configs = tuple(_routable_config(config_id, cid_params, backends) for config_id in range(8))
    return _restore(generation, configs, tuple(backends), ring, assign(ring, owners))


def _routable_config(
    config_id: int, cid_params: Sequence[CidParams], backends: Sequence[Backend | None]
) -> RoutableConfig | None:
    params = next((params for params in cid_params if params.config_id == config_id), None)
    if params is None:
        return None
    server_ids: dict[bytes | None, int] = {
        server_id: index
        for index, backend in enumerate(backends)
        if backend is not None
        for server_id in backend.server_ids.get(config_id, ())
    }
    return RoutableConfig(CidCodec(params), server_ids)


def fallback_shares(snapshot: Snapshot) -> tuple[float, ...]:
    """Return for each backend index its share of the fallback's slots, own and lent ones, 0 to 1."""
    owned = Counter(snapshot.fallback)
    return tuple(owned[index] / len(snapshot.fallback) if owned else 0.0 for index in range(len(snapshot.backends)))


def _restore(
    generation: int,
    configs: tuple[RoutableConfig | None, ...],
    backends: tuple[Backend | None, ...],
    ring: Ring,
    fallback: array[int],
) -> Snapshot:
    return Snapshot(generation, configs, backends, ring, fallback, FourTupleHash(ring.key))
