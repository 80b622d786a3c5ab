"""Measure one routing decision in Python, and counting it, in µs.

The rows compare connection IDs that repeat, which the memo answers, with fresh ones, which are decoded.
"""

import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial

from benchmarks.options import command_line
from benchmarks.table import Row, cost_us, print_table
from qlb.addresses import Endpoint
from qlb.cid import CidGenerator, CidParams
from qlb.routing.backends import Backend, BackendIndexes
from qlb.routing.counters import SIZE_BYTES, Counters
from qlb.routing.flows import FlowTables
from qlb.routing.maglev import DEFAULT_KEY
from qlb.routing.router import Router
from qlb.routing.snapshot import RoutableConfig, compile_snapshot

BACKENDS = 30
FLOW = ("192.0.2.1", 50000, "198.51.100.1", 443)
FRESH = 50_000


def main(arguments: Sequence[str] = ()) -> None:
    """Measure, and print one table of decisions."""
    command_line("benchmarks.decide", __doc__).parse_args(arguments)
    params = [CidParams(0, 4, 10), CidParams(1, 4, 12, os.urandom(16)), CidParams(2, 4, 10, os.urandom(16))]
    backends = [
        Backend(f"b{n}", Endpoint("127.0.0.1", 5000 + n), {p.config_id: (n.to_bytes(4, "big"),) for p in params})
        for n in range(BACKENDS)
    ]
    snapshot = compile_snapshot(1, params, BackendIndexes().arrange(backends), fallback_key=DEFAULT_KEY)
    router = Router(snapshot, FlowTables(65_536, 30.0))
    stateless = Router(snapshot, FlowTables(0, 30.0))
    rows = []
    for p in params:
        generator = CidGenerator(p, (7).to_bytes(4, "big"))
        repeated = b"\x40" + generator.generate() + bytes(60)
        rows.append(Row(f"{p.algorithm}, repeated ID", cost_us(partial(router.decide, repeated, FLOW, 1.0))))
        fresh = itertools.cycle([b"\x40" + generator.generate() + bytes(60) for _ in range(FRESH)])
        config = snapshot.configs[p.config_id]
        assert config is not None
        rows.append(Row(f"{p.algorithm}, fresh ID", cost_us(partial(_decide_fresh, router, config, fresh))))
    unknown = b"\x40\xff" + bytes(60)
    rows.append(Row("unroutable, known 4-tuple", cost_us(lambda: router.decide(unknown, FLOW, 1.0))))
    rows.append(Row("unroutable, fallback", cost_us(lambda: stateless.decide(unknown, FLOW, 1.0))))
    counters = Counters(bytearray(SIZE_BYTES))
    rows.append(Row("counting it", cost_us(lambda: counters.count(1, 7, 1))))
    print_table(f"One decision, {BACKENDS} backends", rows)


def _decide_fresh(router: Router, config: RoutableConfig, datagrams: Iterator[bytes]) -> None:
    """Decide on the next datagram with an empty memo, so that its ID is new. The figure includes emptying the memo."""
    config.forget()
    router.decide(next(datagrams), FLOW, 1.0)


if __name__ == "__main__":
    main(sys.argv[1:])
