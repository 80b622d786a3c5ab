"""Measure decoding one connection ID, in µs, by each algorithm."""

import os
import sys
from collections.abc import Sequence
from functools import partial

from benchmarks.options import command_line
from benchmarks.table import Row, cost_us, print_table
from qlb.cid import CidCodec, CidParams

SHAPES = (
    ("plaintext 4 + 12", 4, 12, False),
    ("single-pass 4 + 12", 4, 12, True),
    ("four-pass 4 + 10, three passes", 4, 10, True),
    ("four-pass 3 + 8 (odd), three passes", 3, 8, True),
    ("four-pass 10 + 5 (odd), four passes", 10, 5, True),
)


def main(arguments: Sequence[str] = ()) -> None:
    """Measure, and print one table."""
    command_line("benchmarks.decode", __doc__).parse_args(arguments)
    rows = []
    for name, server_id_length, nonce_length, encrypted in SHAPES:
        key = os.urandom(16) if encrypted else None
        codec = CidCodec(CidParams(1, server_id_length, nonce_length, key))
        cid = codec.encode(os.urandom(server_id_length), os.urandom(nonce_length))
        rows.append(Row(name, cost_us(partial(codec.decode, cid))))
    print_table("Decode one connection ID", rows)


if __name__ == "__main__":
    main(sys.argv[1:])
