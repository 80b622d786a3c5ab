"""Measure one routing decision in C (parse, decode, route), in ns.

The tables compare the algorithms, AES by tables with AES by CPU instructions, and few with many backends.
Every datagram has another connection ID, of a randomly chosen backend, because the C core caches no decoded ID.
The loop is core_loop.c, on one thread. The fallback and flow-table rows are packets with unroutable IDs.
Needs a C compiler.
"""

import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.options import command_line
from qlb.addresses import Endpoint
from qlb.cid import CidCodec, CidParams
from qlb.dataplane.core.table import compile_table
from qlb.routing.backends import Backend, BackendIndexes
from qlb.routing.maglev import DEFAULT_KEY
from qlb.routing.snapshot import Snapshot, compile_snapshot

BACKENDS: Final = (3, 300, 30_000)
DATAGRAMS: Final = 16_384
DATAGRAM_BYTES: Final = 64
KEY: Final = bytes(range(16))
SHAPES: Final = {
    "plaintext 4 + 10": CidParams(0, 4, 10),
    "single pass 4 + 12": CidParams(1, 4, 12, KEY),
    "four-pass 4 + 10, three passes": CidParams(2, 4, 10, KEY),
    "four-pass 9 + 5, four passes": CidParams(3, 9, 5, KEY),
}
FLOWS: Final = 65_536


class Traffic(NamedTuple):
    """One row: the datagrams, and the size of the flow tables (flows)."""

    name: str
    datagrams: list[bytes]
    flows: int = 0


def main(arguments: Sequence[str] = ()) -> None:
    """Measure, and print one table for each AES implementation."""
    command_line("benchmarks.core", __doc__).parse_args(arguments)
    compiler = shutil.which("cc")
    if compiler is None:
        print("\nOne decision in C: not measured, no C compiler (cc) is installed")
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        here = Path(__file__).parent
        command = [compiler, "-std=c11", "-O2", f"-I{here.parent}/qlb/dataplane", str(here / "core_loop.c")]
        subprocess.run([*command, "-o", str(folder / "core_loop")], check=True)
        figures = {count: _measure(folder, count) for count in BACKENDS}
    for aes in ("native", "tables"):
        _print(aes, {count: rows[aes] for count, rows in figures.items()})


def _measure(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """Return AES implementation → row → ns for this number of backends."""
    (folder / "table").write_bytes(compile_table(_snapshot(count)))
    rows: dict[str, dict[str, float]] = {"native": {}, "tables": {}}
    for traffic in _traffic(count):
        octets = b"".join(datagram.ljust(DATAGRAM_BYTES, b"\0") for datagram in traffic.datagrams)
        (folder / "datagrams").write_bytes(octets)
        for aes, figures in rows.items():
            files = map(str, (folder / "core_loop", folder / "table", folder / "datagrams"))
            words = [*files, aes, str(traffic.flows)]
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            figures[traffic.name] = float(done.stdout.split()[0])
    return rows


def _snapshot(count: int) -> Snapshot:
    backends = [
        Backend(
            f"b{number}",
            Endpoint("127.0.0.1", 5000),
            {p.config_id: (number.to_bytes(p.server_id_length, "big"),) for p in SHAPES.values()},
        )
        for number in range(count)
    ]
    return compile_snapshot(1, [*SHAPES.values()], BackendIndexes().arrange(backends), fallback_key=DEFAULT_KEY)


def _traffic(count: int) -> Iterator[Traffic]:
    dice = random.Random(1)
    for name, params in SHAPES.items():
        codec, length = CidCodec(params), params.server_id_length
        server_ids = (dice.randrange(count).to_bytes(length, "big") for _ in range(DATAGRAMS))
        yield Traffic(name, [b"\x40" + codec.encode(s, dice.randbytes(params.nonce_length)) for s in server_ids])
    unroutable = [b"\x40\xff" + dice.randbytes(40) for _ in range(DATAGRAMS)]
    yield Traffic("unroutable, short header: fallback, no flow table", unroutable)
    yield Traffic("unroutable, short header: known 4-tuple", unroutable, FLOWS)
    first = [b"\xc0\0\0\0\1\x08\xff" + dice.randbytes(7) + b"\x08" + dice.randbytes(8) for _ in range(DATAGRAMS)]
    yield Traffic("unroutable, long header: fallback, no flow table", first)
    yield Traffic("unroutable, long header: known source ID", first, FLOWS)
    yield Traffic("unroutable, long header: never seen, tables full", first, DATAGRAMS // 2)


def _print(aes: str, figures: dict[int, dict[str, float]]) -> None:
    floor = next(iter(figures[BACKENDS[0]].values()))
    names = list(figures[BACKENDS[0]])
    width = max(map(len, names))
    print(f"\nOne decision in C, AES {aes}: ns, and the ratio to the first figure of the table\n")
    print(f"| {'':{width}} | " + " | ".join(f"{count:,} backends" for count in BACKENDS) + " |")
    print(f"| {'-' * width} |" + " --- |" * len(BACKENDS))
    for name in names:
        cells = (f"{figures[count][name]:.0f} ({figures[count][name] / floor:.1f})" for count in BACKENDS)
        print(f"| {name:{width}} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main(sys.argv[1:])
