"""The published test vectors: the file is what the oracle computes, and qlb.cid agrees with every row."""

import json
from typing import Any

import pytest

from lab import cid_oracle as oracle
from lab import cid_vectors
from qlb.addresses import Endpoint
from qlb.cid import CidCodec, CidParams
from qlb.errors import CidError
from qlb.routing.backends import Backend, BackendIndexes
from qlb.routing.maglev import DEFAULT_KEY, build_ring, ring_members
from qlb.routing.outcomes import REASONS, UNKNOWN_SERVER_ID
from qlb.routing.router import find
from qlb.routing.snapshot import Snapshot, compile_snapshot
from qlb.wire.invariants import LONG, SHORT

FILE: dict[str, Any] = json.loads(cid_vectors.PATH.read_text())
CONFIGS: dict[str, dict[str, Any]] = {config["name"]: config for config in FILE["configs"]}


def params(config: dict[str, Any]) -> CidParams:
    """Return the parameters of a config of the file."""
    key = config.get("key")
    return CidParams(
        config["config_id"],
        config["server_id_length"],
        config["nonce_length"],
        None if key is None else bytes.fromhex(key),
        config.get("length_self_encoded", False),
        config.get("cid_length", 0),
    )


def by_config(rows: list[dict[str, Any]]) -> list[Any]:
    """Return one parameter of a test for each row, named after its config and ID."""
    return [pytest.param(row, id=f"{row['config']} {row['cid'][-6:]}") for row in rows]


def test_the_file_is_current() -> None:
    """The file is what ``make vectors`` writes."""
    assert cid_vectors.PATH.read_text() == cid_vectors.text(), "run make vectors, and commit the file"


def test_every_legal_pair_of_lengths_is_there() -> None:
    """The file has a config with a key for each of the 120 pairs, and a row for each config."""
    pairs = {(one["server_id_length"], one["nonce_length"]) for one in CONFIGS.values() if one["key"] is not None}
    assert pairs == set(oracle.LEGAL_PAIRS)
    assert {row["config"] for row in FILE["encode"]} == set(CONFIGS)
    assert {one["algorithm"] for one in CONFIGS.values()} == {"plaintext", "single-pass", "four-pass"}


def test_configs() -> None:
    """Each config is valid, and has the algorithm that the file states."""
    assert {name: params(config).algorithm for name, config in CONFIGS.items()} == {
        name: config["algorithm"] for name, config in CONFIGS.items()
    }


@pytest.mark.parametrize("row", by_config(FILE["encode"]))
def test_encode(row: dict[str, Any]) -> None:
    """Server ID, nonce and the random octets encode to the ID, and it decodes to both of them."""
    config = CONFIGS[row["config"]]
    random = {
        1: bytes([row.get("low_bits", 0)]),
        len(row.get("padding", "")) // 2: bytes.fromhex(row.get("padding", "")),
    }
    codec = CidCodec(params(config), random_bytes=lambda count: random[count])
    cid, server_id, nonce = (bytes.fromhex(row[name]) for name in ("cid", "server_id", "nonce"))
    assert codec.encode(server_id, nonce) == cid
    assert codec.decode(cid) == server_id
    assert oracle.decode(codec.params.key, len(server_id), len(nonce), cid) == (server_id, nonce)


@pytest.mark.parametrize("row", by_config(FILE["decode"]))
def test_decode(row: dict[str, Any]) -> None:
    """Each ID, valid or not, decodes to the server ID of the file, or to None."""
    expected = None if row["server_id"] is None else bytes.fromhex(row["server_id"])
    assert CidCodec(params(CONFIGS[row["config"]])).decode(bytes.fromhex(row["cid"])) == expected


@pytest.mark.parametrize("row", FILE["draft"], ids=lambda row: row["cid"])
def test_the_rows_of_the_draft(row: dict[str, Any]) -> None:
    """The draft's rows agree with qlb.cid. All of them encode their length."""
    server_id, nonce = bytes.fromhex(row["server_id"]), bytes.fromhex(row["nonce"])
    key = bytes.fromhex(row["key"]) if "key" in row else None
    codec = CidCodec(CidParams(row["config_id"], len(server_id), len(nonce), key, length_self_encoded=True))
    assert codec.encode(server_id, nonce).hex() == row["cid"]


@pytest.mark.parametrize("row", FILE["invalid_configs"], ids=lambda row: row["reason"])
def test_invalid_configs(row: dict[str, Any]) -> None:
    """Each config that the draft forbids is an error."""
    with pytest.raises(CidError):
        params(row)


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    """Compile the file's balancer: one backend for each of its configs."""
    configs = [CONFIGS[name] for name in FILE["balancer"]["configs"]]
    server_ids = {
        row["config"]: bytes.fromhex(row["server_id"]) for row in FILE["balancer"]["lookups"] if row["config"]
    }
    backends = [
        Backend(one["name"], Endpoint("127.0.0.1", 5001 + index), {one["config_id"]: (server_ids[one["name"]],)})
        for index, one in enumerate(configs)
    ]
    arranged = BackendIndexes().arrange(backends)
    ring = build_ring(ring_members(arranged), DEFAULT_KEY)
    return compile_snapshot(1, tuple(map(params, configs)), arranged, fallback_key=DEFAULT_KEY, ring=ring)


@pytest.mark.parametrize("row", FILE["balancer"]["lookups"], ids=lambda row: f"{row['header']} {row['cid'][:12]}")
def test_lookups(row: dict[str, Any], snapshot: Snapshot) -> None:
    """The router finds the backend with the server ID of the file, or the reason why there is none."""
    index = find(snapshot, LONG if row["header"] == "long" else SHORT, bytes.fromhex(row["cid"]))
    if row["reason"] is None:
        backend = snapshot.backends[index]
        assert backend is not None
        assert backend.name == row["config"]
    else:
        assert REASONS[~index] == row["reason"] != REASONS[UNKNOWN_SERVER_ID]
