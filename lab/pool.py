"""Three backends behind four configurations, and packets that they could get."""

import dataclasses
import functools
import os

from qlb.addresses import Endpoint, FourTuple
from qlb.cid import CidCodec, CidParams
from qlb.routing.backends import Backend, BackendIndexes, BackendState
from qlb.routing.flows import FlowTables
from qlb.routing.maglev import DEFAULT_KEY
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
    """The server ID of a backend under a config: its index in every octet, plus 0xa0."""
    return bytes([0xA0 + index]) * params.server_id_length


def backends(count: int = 3) -> list[Backend]:
    """Backends b0, b1, …"""
    return [
        Backend(
            f"b{index}",
            Endpoint("127.0.0.1", 5000 + index),
            {params.config_id: (server_id(params, index),) for params in CONFIGS},
        )
        for index in range(count)
    ]


def changed(pool: list[Backend], index: int, **fields: object) -> list[Backend]:
    """The pool with one backend that differs."""
    return [dataclasses.replace(b, **fields) if n == index else b for n, b in enumerate(pool)]  # type: ignore[arg-type]


def draining(pool: list[Backend], index: int) -> list[Backend]:
    """The pool with one backend draining."""
    return changed(pool, index, state=BackendState.DRAINING)


def snapshot(pool: list[Backend] | None = None, previous: Snapshot | None = None) -> Snapshot:
    """Compile a pool. The ring of the plain one is filled once: that takes tens of milliseconds."""
    arranged = BackendIndexes().arrange(backends() if pool is None else pool)
    return compile_snapshot(1, CONFIGS, arranged, fallback_key=DEFAULT_KEY, ring=(previous or _plain()).ring)


@functools.cache
def _plain() -> Snapshot:
    return compile_snapshot(1, CONFIGS, backends(), fallback_key=DEFAULT_KEY)


def router(pool: list[Backend] | None = None, flow_table_size: int = 100) -> Router:
    """A router over a pool, with empty tables of 30 s."""
    return Router(snapshot(pool), FlowTables(flow_table_size, 30.0))


def cid(params: CidParams, index: int) -> bytes:
    """A fresh ID of a backend."""
    return CidCodec(params).encode(server_id(params, index), os.urandom(params.nonce_length))


def short(dcid: bytes) -> bytes:
    """A short header packet."""
    return b"\x40" + dcid + b"payload"


def long(dcid: bytes, scid: bytes = b"client", version: int = 1) -> bytes:
    """A long header packet."""
    return b"\xc3" + version.to_bytes(4, "big") + bytes([len(dcid)]) + dcid + bytes([len(scid)]) + scid + b"payload"
