"""Write the input of lab/fuzz/fuzz_core.c: ``python -m lab.fuzz.core_seeds FOLDER``.

FOLDER/table is a compiled table with a small ring, since the fuzzer copies it for every input. FOLDER/corpus contains
inputs with routable packets, which random octets would not contain.
"""

import dataclasses
import random
import sys
from pathlib import Path

from lab import pool
from qlb.cid import CidCodec
from qlb.dataplane.core.table import HEAD, compile_table

SEEDS = 60
RING_SLOTS = 251


def write(folder: Path) -> None:
    """Write table and corpus into an existing folder."""
    dice = random.Random(251)
    snapshot = pool.snapshot(pool.changed(pool.draining(pool.backends(4), 1), 2, healthy=False))
    table = compile_table(dataclasses.replace(snapshot, fallback=snapshot.fallback[:RING_SLOTS]))
    (folder / "table").write_bytes(table)
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for number in range(SEEDS):
        spoilt = number % 3 == 0
        patch = _patch(dice, table) if spoilt else b""
        packets = b"".join(_packet(dice) for _ in range(dice.randrange(1, 8)))
        (corpus / str(number)).write_bytes(bytes((dice.randrange(4) << 1 | spoilt,)) + patch + packets)


def _patch(dice: random.Random, table: bytes) -> bytes:
    """Return a patch of one octet, which is in the table's head in half of all cases."""
    at = dice.randrange(dice.choice((HEAD.size_bytes, len(table))))
    return b"\1" + at.to_bytes(3, "little") + bytes((dice.randrange(256),))


def _packet(dice: random.Random) -> bytes:
    params = dice.choice(pool.CONFIGS)
    cid = CidCodec(params, random_bytes=dice.randbytes).encode(
        pool.server_id(params, dice.randrange(5)), dice.randbytes(params.nonce_length)
    )
    alien = b"\xff" + dice.randbytes(dice.choice((0, 7, 19)))
    datagram = dice.choice(
        (pool.short(cid), pool.long(cid), pool.short(alien), pool.long(alien, dice.randbytes(8)), pool.long(b"", b""))
    )
    return bytes((dice.randrange(256), len(datagram))) + datagram


if __name__ == "__main__":
    write(Path(sys.argv[1]))
