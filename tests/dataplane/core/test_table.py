"""The compiled table: the core rejects invalid tables, and every server ID is found within its probes."""

import random
import struct
from types import ModuleType

import pytest

from lab import pool
from lab.dataplane.worlds import NOWHERE, World
from qlb.addresses import Endpoint
from qlb.cid import CidParams
from qlb.dataplane.core import hash_table, table
from qlb.dataplane.core.table import CONFIG, HEAD, SERVER, compile_table
from qlb.errors import QlbError
from qlb.routing.backends import Backend, BackendIndexes
from qlb.routing.maglev import DEFAULT_KEY
from qlb.routing.snapshot import compile_snapshot

FLOWS = (16, 30_000_000_000)


def _patched(octets: bytes, at: int, value: bytes) -> bytes:
    return octets[:at] + value + octets[at + len(value) :]


def _u32(value: int) -> bytes:
    return struct.pack("=I", value)


def test_the_plain_table_is_accepted(core: ModuleType) -> None:
    """The unchanged table is accepted, also from memory of another type and alignment."""
    octets = compile_table(pool.snapshot())
    core.Router(octets, *FLOWS)
    core.Router(memoryview(b"x" + octets)[1:], *FLOWS)
    core.Router(bytearray(octets), *FLOWS)


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("magic", 0x51424C54, "byte order"),
        ("version", 2, "another version"),
        ("size_bytes", 8, "length differs"),
        ("server_slots", 0, "out of range"),
        ("server_slots", 24, "out of range"),
        ("server_slots", 1 << 25, "out of range"),
        ("server_slots", 1 << 24, "not lie inside"),
        ("backend_slots", 65_537, "out of range"),
        ("backend_slots", 2, "does not exist"),
        ("ring_slots", 0xFFFFFFFF, "out of range"),
        ("ring_slots", 1 << 20, "not lie inside"),
        ("configs_at", 0, "not lie inside"),
        ("configs_at", 244, "not lie inside"),
        ("servers_at", 0xFFFFFFF8, "not lie inside"),
        ("backends_at", 8, "not lie inside"),
        ("ring_at", 12, "not lie inside"),
    ],
)
def test_a_wrong_head(core: ModuleType, field: str, value: int, problem: str) -> None:
    """Every number in the head that the core would use is validated first."""
    octets = _patched(compile_table(pool.snapshot()), HEAD.offsets[field], _u32(value))
    with pytest.raises(ValueError, match=problem):
        core.Router(octets, *FLOWS)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (0, {"algorithm": 5}),
        (0, {"server_id_len": 0}),
        (0, {"server_id_len": 16}),
        (0, {"nonce_len": 3}),
        (0, {"nonce_len": 18}),
        (1, {"nonce_len": 11}),
        (2, {"server_id_len": 8}),
        (2, {"algorithm": 4}),
        (3, {"algorithm": 3}),
        (7, {"algorithm": 1, "server_id_len": 4, "nonce_len": 4}),
    ],
)
def test_a_wrong_config(core: ModuleType, config: int, changes: dict[str, int]) -> None:
    """A CID config is rejected unless its lengths, algorithm and config ID fit together."""
    octets = compile_table(pool.snapshot())
    at = HEAD.unpack(octets)["configs_at"]
    assert isinstance(at, int)
    for field, value in changes.items():
        octets = _patched(octets, at + config * CONFIG.size_bytes + CONFIG.offsets[field], bytes((value,)))
    with pytest.raises(ValueError, match="CID config is not valid"):
        core.Router(octets, *FLOWS)


def test_an_index_of_no_backend(core: ModuleType) -> None:
    """A table whose server slots or ring refer to a backend that it does not have is rejected."""
    octets = compile_table(pool.snapshot())
    head = HEAD.unpack(octets)
    for part, size in (("servers_at", SERVER.offsets["index"]), ("ring_at", 0)):
        at = head[part]
        assert isinstance(at, int)
        with pytest.raises(ValueError, match="does not exist"):
            core.Router(_patched(octets, at + size, _u32(3)), *FLOWS)


def test_every_shorter_table(core: ModuleType) -> None:
    """A table that is cut anywhere is rejected."""
    octets = compile_table(compile_snapshot(1, [CidParams(1, 4, 8)], (), fallback_key=DEFAULT_KEY))
    for size in range(len(octets)):
        with pytest.raises(ValueError, match="not a valid table for this core"):
            core.Router(octets[:size], *FLOWS)


def test_spoilt_tables(core: ModuleType) -> None:
    """A table with random changes is rejected, or used without reads outside it (the fuzzer tests this in depth)."""
    dice = random.Random(7)
    world = World(4)
    octets = compile_table(world.snapshot)
    items = [(datagram, four_tuple, 0) for datagram, four_tuple, _ in world.traffic(50)]
    refused = 0
    for _ in range(1000):
        spoilt = bytearray(octets)
        for _ in range(dice.choice((1, 3, 30))):
            spoilt[dice.randrange(dice.choice((64, 4000, len(spoilt))))] = dice.randrange(256)
        try:
            router = core.Router(bytes(spoilt), *FLOWS)
        except ValueError:
            refused += 1
            continue
        assert all(-1 <= index < len(world.snapshot.backends) for _, index in router.decide(items))
    assert 0 < refused < 1000


def test_no_backends(core: ModuleType) -> None:
    """With a table without backends, CID configs and ring, every packet is dropped as no_backend."""
    octets = compile_table(compile_snapshot(1, [], (), fallback_key=DEFAULT_KEY))
    router = core.Router(octets, *FLOWS)
    assert router.decide([(pool.short(bytes(20)), pool.FLOW, 0)]) == [(30, -1)]


def test_server_ids_of_another_length() -> None:
    """Server IDs of another length than the CID config's are left out: no connection ID decodes to them."""
    snapshot = compile_snapshot(
        1, [CidParams(1, 4, 8)], [Backend("b", NOWHERE, {1: (b"abc", b"abcd", b"abcde")})], fallback_key=DEFAULT_KEY
    )
    octets = compile_table(snapshot)
    head = HEAD.unpack(octets)
    at, slots = head["servers_at"], head["server_slots"]
    assert isinstance(at, int)
    assert isinstance(slots, int)
    taken = [SERVER.unpack(octets, at + slot * SERVER.size_bytes) for slot in range(slots)]
    assert [server["low"] for server in taken if server["index"] != table.NO_BACKEND] == [
        int.from_bytes(b"abcd", "little")
    ]


@pytest.mark.parametrize("server_id_length", [1, 3, 4, 15])
def test_every_server_is_found_within_its_probes(server_id_length: int) -> None:
    """Sequential server IDs are found within their probes, whichever octets of them differ."""
    for shift in range(server_id_length):
        count = min(5000, 256 ** (server_id_length - shift))
        servers = [
            hash_table.Entry(*_words((number << 8 * shift).to_bytes(server_id_length, "big")), number)
            for number in range(count)
        ]
        slots, seed = hash_table.place(servers)
        assert len(slots) <= max(8, 4 * count)
        for server in servers:
            home = hash_table.hash_of(seed, server.low, server.high)
            places = [slots[(home + probe) % len(slots)] for probe in range(hash_table.PROBES)]
            assert server in places[: places.index(None) if None in places else None]


def _words(server_id: bytes) -> tuple[int, int]:
    key = server_id.ljust(15, b"\0") + b"\1"
    return int.from_bytes(key[:8], "little"), int.from_bytes(key[8:], "little")


def test_more_equal_hashes_than_probes() -> None:
    """Server IDs that fit in no table raise an error instead of an endless search."""
    same = [hash_table.Entry(1, 2, index) for index in range(hash_table.PROBES + 1)]
    with pytest.raises(QlbError, match="do not fit"):
        hash_table.place(same)


def test_30_000_backends(core: ModuleType) -> None:
    """Each of 30,000 backends is found by its ID, in a table of less than 4 MB."""
    params = CidParams(2, 4, 8)
    backends = [
        Backend(f"b{index}", Endpoint("127.0.0.1", 1), {2: (index.to_bytes(4, "big"),)}, weight=index < 2)
        for index in range(30_000)
    ]
    octets = compile_table(compile_snapshot(1, [params], BackendIndexes().arrange(backends), fallback_key=DEFAULT_KEY))
    assert len(octets) < 4_000_000
    router = core.Router(octets, *FLOWS)
    items = [(b"\x40\x40" + index.to_bytes(4, "big") + bytes(8), pool.FLOW, 0) for index in range(30_000)]
    assert router.decide(items) == [(2, index) for index in range(30_000)]
