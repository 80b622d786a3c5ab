"""Seeded worlds: a configuration, traffic for it, and changes while the traffic flows.

A world has six CID configs of legal shapes, backends in every state, and few clients, so that the flow
tables matter. Its clock moves by multiples of 1/64 s, which floats represent exactly. The same seed makes the
same world on every machine.
"""

import dataclasses
import functools
import ipaddress
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from qlb.addresses import Endpoint, FourTuple
from qlb.cid import CidCodec, CidParams
from qlb.routing.backends import Backend, BackendState
from qlb.routing.snapshot import Snapshot, compile_snapshot

LENGTHS: Final = tuple((s, n) for s in range(1, 16) for n in range(4, 19) if s + n <= 19)
"""Every legal pair of server ID and nonce length: 120."""
SHAPES: Final = tuple((s, n, keyed) for s, n in LENGTHS for keyed in (False, True))
WORLDS: Final = len(SHAPES) // 6
"""Worlds that cover every shape once: 40."""

HASH_KEY: Final = bytes(range(100, 116))
TICK_NS: Final = 15_625_000
"""1/64 s."""

STATES: Final = (BackendState.ACTIVE, BackendState.ACTIVE, BackendState.DRAINING)
MIXED: Final = ("v4", "v6")
"""One address of each family. No real packet has such a pair, but the reference hashes it."""
NOWHERE: Final = Endpoint("192.0.2.9", 1)

Item = tuple[bytes, FourTuple, int]
"""(datagram, 4-tuple, time in ticks)."""


@dataclass
class World:
    """One configuration, and the random generator of everything in it."""

    number: int

    def __post_init__(self) -> None:
        """Generate CID configs, backends and clients."""
        self.dice = random.Random(self.number)
        self.ticks = 0
        shapes = [SHAPES[(6 * self.number + at) % len(SHAPES)] for at in range(6)]
        config_ids = self.dice.sample(range(7), 6)
        self.params = [self._params(config_id, *shape) for config_id, shape in zip(config_ids, shapes, strict=True)]
        self.codecs = [CidCodec(params, random_bytes=self.dice.randbytes) for params in self.params]
        self.backends = list(self._backends())
        self.clients = [self._four_tuple() for _ in range(self.dice.choice((3, 30)))]
        self.cids = [self.dice.randbytes(self.dice.choice((0, 4, 8, 8, 20, 24, 25, 255))) for _ in range(20)]
        self.snapshot = self._compile(self.backends)

    def _params(self, config_id: int, server_id_length: int, nonce_length: int, keyed: bool) -> CidParams:
        key = self.dice.randbytes(16) if keyed else None
        return CidParams(config_id, server_id_length, nonce_length, key, self.dice.random() < 0.3)

    def _backends(self) -> Iterator[Backend]:
        taken: set[tuple[int, bytes]] = set()
        for index in range(self.dice.choice((1, 3, 3, 10))):
            server_ids = {}
            for params in self.params:
                found = {self.dice.randbytes(params.server_id_length) for _ in range(self.dice.choice((0, 1, 1, 2)))}
                free = {server_id for server_id in found if (params.config_id, server_id) not in taken}
                taken |= {(params.config_id, server_id) for server_id in free}
                server_ids[params.config_id] = tuple(sorted(free))
            yield Backend(f"b{index}", NOWHERE, server_ids, weight=self.dice.choice((1, 1, 2, 7)))

    def _compile(self, backends: Sequence[Backend | None]) -> Snapshot:
        previous = ring_of(tuple((b.name, b.weight) if b else None for b in backends))
        ring = previous.ring if previous else None
        return compile_snapshot(1, self.params, backends, fallback_key=HASH_KEY, ring=ring)

    def change(self) -> None:
        """Let some backends drain or fail, and remove one or bring it back."""
        dice = self.dice
        healthy = dice.choice((0.2, 0.8, 1.0))
        gone = dice.choice((-1, -1, dice.randrange(len(self.backends))))
        self.snapshot = self._compile(
            [
                None
                if at == gone
                else dataclasses.replace(backend, state=dice.choice(STATES), healthy=dice.random() < healthy)
                for at, backend in enumerate(self.backends)
            ]
        )

    def _four_tuple(self) -> FourTuple:
        families = self.dice.choice((("v4", "v4"), ("v4", "v4"), ("v6", "v6"), ("mapped", "mapped"), MIXED))
        client, service = map(self._host, families)
        return client, self.dice.randrange(65536), service, self.dice.choice((443, 4433))

    def _host(self, family: str) -> str:
        octets = self.dice.randbytes(16)
        if family == "v6":
            return str(ipaddress.IPv6Address(octets))
        return ("::ffff:" if family == "mapped" else "") + str(ipaddress.IPv4Address(octets[:4]))

    def traffic(self, count: int) -> list[Item]:
        """Generate datagrams, each with a client and a time that never decreases."""
        return [self._item() for _ in range(count)]

    def _item(self) -> Item:
        dice = self.dice
        self.ticks += dice.choice((0, 0, 0, 1, 7, 64, 300))
        return self._datagram(), dice.choice(self.clients), self.ticks

    def _datagram(self) -> bytes:
        dice = self.dice
        kind = dice.randrange(20)
        if kind < 9:
            return self._header(self.routable())
        if kind < 11:
            return self._header(self._alien())
        if kind < 15:
            return long_header(dice.choice(self.cids), dice.choice(self.cids))
        if kind < 16:
            whole = self._header(self.routable())
            return whole[: dice.randrange(len(whole))]
        if kind < 17:
            return long_header(dice.choice(self.cids), dice.choice(self.cids), version=0)
        return dice.randbytes(dice.choice((0, 1, 2, 7, 21, 60)))

    def routable(self, codec: CidCodec | None = None) -> bytes:
        """Return an ID of a backend or, sometimes, one with a random server ID. codec: of its CID config."""
        codec = codec or self.dice.choice(self.codecs)
        params = codec.params
        backend = self.dice.choice(self.backends)
        owned = backend.server_ids[params.config_id]
        if owned and self.dice.random() < 0.9:
            server_id = self.dice.choice(owned)
        else:
            server_id = self.dice.randbytes(params.server_id_length)
        return codec.encode(server_id, self.dice.randbytes(params.nonce_length))

    def _alien(self) -> bytes:
        """Return a random ID of 1 to 23 octets. Some are too short, some encode a wrong length."""
        return self.dice.randbytes(self.dice.randrange(1, 24))

    def _header(self, cid: bytes) -> bytes:
        dice = self.dice
        tail = dice.randbytes(dice.choice((0, 0, 1, 30)))
        if dice.random() < 0.5:
            return bytes((dice.randrange(128),)) + cid + tail
        return long_header(cid + tail[:1], dice.choice(self.cids), first=dice.randrange(128, 256)) + tail


@functools.lru_cache(maxsize=64)
def ring_of(members: tuple[tuple[str, int] | None, ...]) -> Snapshot:
    """Return a snapshot with the ring of these members, cached because filling a ring takes tens of milliseconds."""
    backends = [Backend(member[0], NOWHERE, weight=member[1]) if member else None for member in members]
    return compile_snapshot(1, [], backends, fallback_key=HASH_KEY)


def long_header(dcid: bytes, scid: bytes, version: int = 1, first: int = 0xC0) -> bytes:
    """Return a long header packet."""
    return bytes((first,)) + version.to_bytes(4, "big") + bytes((len(dcid),)) + dcid + bytes((len(scid),)) + scid
