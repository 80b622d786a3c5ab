"""Three backends under four CID configs, and packets for them."""

import dataclasses
import functools
import os
from collections.abc import Sequence

from qlb.addresses import Endpoint, FourTuple
from qlb.cid import CidCodec, CidParams
from qlb.routing.backends import Backend, BackendIndexes, BackendState
from qlb.routing.flows import FlowTables
from qlb.routing.maglev import DEFAULT_KEY, Member, Ring, build_ring, ring_members
from qlb.routing.router import Router
from qlb.routing.snapshot import Snapshot, compile_snapshot

KEY = bytes(range(16))
PLAINTEXT = CidParams(0, 3, 5)
SINGLE_PASS = CidParams(1, 4, 12, KEY)
FOUR_PASS = CidParams(2, 3, 8, KEY)
STRICT = CidParams(3, 8, 5, KEY, length_self_encoded=True)
CONFIGS = (PLAINTEXT, SINGLE_PASS, FOUR_PASS, STRICT)
FLOW: FourTuple = ("192.0.2.1", 50000, "198.51.100.1", 443)


def server_id(params: CidParams, index: int) -> bytes:
    """Return the server ID of a backend under a CID config: its index plus 0xa0 in every octet."""
    return bytes([0xA0 + index]) * params.server_id_length


def backends(count: int = 3) -> list[Backend]:
    """Return backends named b0, b1 and so on."""
    return [
        Backend(
            f"b{index}",
            Endpoint("127.0.0.1", 5000 + index),
            {params.config_id: (server_id(params, index),) for params in CONFIGS},
        )
        for index in range(count)
    ]


def changed(pool: list[Backend], index: int, **fields: object) -> list[Backend]:
    """Return the pool with changed fields of one backend."""
    return [dataclasses.replace(b, **fields) if n == index else b for n, b in enumerate(pool)]  # type: ignore[arg-type]


def draining(pool: list[Backend], index: int) -> list[Backend]:
    """Return the pool with one draining backend."""
    return changed(pool, index, state=BackendState.DRAINING)


def snapshot(pool: list[Backend] | None = None, previous: Snapshot | None = None) -> Snapshot:
    """Compile a pool. previous: its ring is reused if it fits."""
    return compiled(BackendIndexes().arrange(backends() if pool is None else pool), previous)


def compiled(arranged: Sequence[Backend | None], previous: Snapshot | None = None) -> Snapshot:
    """Compile backends in the order of their indexes. previous: its ring is reused if it fits."""
    ring = previous.ring if previous else _ring(ring_members(arranged))
    return compile_snapshot(1, CONFIGS, arranged, fallback_key=DEFAULT_KEY, ring=ring)


@functools.cache
def _ring(members: tuple[Member, ...]) -> Ring:
    """Fill each ring once, because that takes tens of milliseconds, and hundreds under coverage."""
    return build_ring(members, DEFAULT_KEY)


def router(pool: list[Backend] | None = None, flow_table_size: int = 100) -> Router:
    """Return a router over a pool, with empty tables and a timeout of 30 s."""
    return Router(snapshot(pool), FlowTables(flow_table_size, 30.0))


def cid(params: CidParams, index: int) -> bytes:
    """Return a fresh ID of a backend."""
    return CidCodec(params).encode(server_id(params, index), os.urandom(params.nonce_length))


def short(dcid: bytes) -> bytes:
    """Return a short header packet."""
    return b"\x40" + dcid + b"payload"


def long(dcid: bytes, scid: bytes = b"client", version: int = 1) -> bytes:
    """Return a long header packet."""
    return b"\xc3" + version.to_bytes(4, "big") + bytes([len(dcid)]) + dcid + bytes([len(scid)]) + scid + b"payload"
