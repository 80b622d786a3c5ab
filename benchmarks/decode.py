"""µs of one decode: scalar and in batches of 64, each algorithm."""

import os
from functools import partial

from benchmarks.table import Row, cost_us, print_table
from qlb.cid import CidCodec, CidParams

BATCH = 64
SHAPES = (
    ("plaintext 4 + 12", 4, 12, False),
    ("single-pass 4 + 12", 4, 12, True),
    ("four-pass 4 + 10, three passes", 4, 10, True),
    ("four-pass 3 + 8 (odd), three passes", 3, 8, True),
    ("four-pass 10 + 5 (odd), four passes", 10, 5, True),
)


def main() -> None:
    """Print one table for scalar decodes, one for batches."""
    scalar, batch = [], []
    for name, server_id_length, nonce_length, encrypted in SHAPES:
        key = os.urandom(16) if encrypted else None
        codec = CidCodec(CidParams(1, server_id_length, nonce_length, key))
        cids = [codec.encode(os.urandom(server_id_length), os.urandom(nonce_length)) for _ in range(BATCH)]
        scalar.append(Row(name, cost_us(partial(codec.decode, cids[0]))))
        batch.append(Row(name, cost_us(partial(codec.decode_batch, cids), BATCH)))
    print_table("Decode, one connection ID a call", scalar)
    print_table(f"Decode, {BATCH} connection IDs a call", batch)


if __name__ == "__main__":
    main()
