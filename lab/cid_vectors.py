"""``make vectors``: write docs/vectors/connection-ids.json, test vectors for implementations in other languages.

Every octet comes from the oracle (lab.cid_oracle), which follows the draft's text and imports nothing of qlb. The rows
of the draft's own appendix are included. Server IDs, nonces and keys are hashes of the row's name, so that the file is
the same each time. docs/servers.md explains how to use it.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from lab import cid_oracle as oracle

ROOT: Final = Path(__file__).resolve().parents[1]
PATH: Final = ROOT / "docs" / "vectors" / "connection-ids.json"
DRAFT: Final = ROOT / "tests" / "vectors" / "quic-lb-draft.json"
BALANCER: Final = ("plaintext-8-8", "single-pass-4-12", "four-pass-3-8", "four-pass-4-7-self-encoded")
"""The CID configs of the section ``balancer``, in the order of their config IDs: 0, 1, 2 and 4."""

Row = dict[str, Any]

_PLAINTEXT_PAIRS: Final = ((1, 4), (4, 6), (8, 7), (8, 8), (15, 4), (1, 18))
_INVALID: Final = (
    ("the config ID 7 is reserved", {"config_id": 7, "server_id_length": 4, "nonce_length": 12}),
    ("config IDs are not negative", {"config_id": -1, "server_id_length": 4, "nonce_length": 12}),
    ("a server ID has at least 1 octet", {"config_id": 0, "server_id_length": 0, "nonce_length": 12}),
    ("a server ID has at most 15 octets", {"config_id": 0, "server_id_length": 16, "nonce_length": 4}),
    ("a nonce has at least 4 octets", {"config_id": 0, "server_id_length": 4, "nonce_length": 3}),
    ("the sum is at most 19 octets", {"config_id": 0, "server_id_length": 10, "nonce_length": 10}),
    ("a key has 16 octets", {"config_id": 0, "server_id_length": 4, "nonce_length": 12, "key": "00" * 15}),
    ("a key has 16 octets", {"config_id": 0, "server_id_length": 4, "nonce_length": 12, "key": "00" * 32}),
    ("an ID contains its block", {"config_id": 0, "server_id_length": 4, "nonce_length": 12, "cid_length": 16}),
    ("an ID has at most 20 octets", {"config_id": 0, "server_id_length": 4, "nonce_length": 12, "cid_length": 21}),
)


def vectors() -> Row:
    """Return the content of the file."""
    configs = list(_configs())
    named = {config["name"]: config for config in configs}
    return {
        "about": (
            "Test vectors for QUIC-LB connection IDs. All octets are hexadecimal, all lengths are octets; lengths of "
            "IDs include the first octet. docs/servers.md of qlb explains the sections."
        ),
        "specification": "draft-ietf-quic-load-balancers-21 and its editors' copy of 2026-05-29",
        "license": "Apache-2.0",
        "configs": configs,
        "encode": [_encoded(config, 0) for config in configs] + [_encoded(named[name], 1) for name in BALANCER],
        "draft": list(_draft()),
        "decode": [row for name in BALANCER for row in _decoded(named[name])],
        "balancer": {"configs": list(BALANCER), "lookups": list(_lookups(named))},
        "invalid_configs": [{"reason": reason, **fields} for reason, fields in _INVALID],
    }


def text() -> str:
    """Return the file: JSON with one row on each line."""
    sections = []
    for name, value in vectors().items():
        if isinstance(value, list):
            rows = ",\n".join(f"    {json.dumps(row)}" for row in value)
            sections.append(f"  {json.dumps(name)}: [\n{rows}\n  ]")
        elif isinstance(value, dict):
            rows = ",\n".join(f"      {json.dumps(row)}" for row in value["lookups"])
            head = f'    "configs": {json.dumps(value["configs"])}'
            sections.append(f'  {json.dumps(name)}: {{\n{head},\n    "lookups": [\n{rows}\n    ]\n  }}')
        else:
            sections.append(f"  {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(sections) + "\n}\n"


def first_octet(config: Row, low_bits: int) -> int:
    """Return the first octet of an ID. low_bits: the five random bits of a config that does not encode the length."""
    low: int = config["cid_length"] - 1 if config["length_self_encoded"] else low_bits
    return int(config["config_id"]) << 5 | low


def _configs() -> Iterator[Row]:
    """Yield every legal pair of lengths with a key, some without, and the optional fields."""
    for server_id_length, nonce_length in _PLAINTEXT_PAIRS:
        yield _config("plaintext", 0, server_id_length, nonce_length)
    for server_id_length, nonce_length in oracle.LEGAL_PAIRS:
        single = server_id_length + nonce_length == 16
        yield _config("single-pass" if single else "four-pass", 1 if single else 2, server_id_length, nonce_length)
    yield _config("plaintext", 3, 4, 8, "self-encoded", length_self_encoded=True)
    yield _config("single-pass", 5, 4, 12, "self-encoded", length_self_encoded=True)
    yield _config("four-pass", 4, 4, 7, "self-encoded", length_self_encoded=True)
    yield _config("four-pass", 6, 4, 8, "padded", cid_length=20)
    yield _config("four-pass", 6, 5, 10, "padded-self-encoded", cid_length=18, length_self_encoded=True)


def _config(
    algorithm: str,
    config_id: int,
    server_id_length: int,
    nonce_length: int,
    variant: str = "",
    *,
    length_self_encoded: bool = False,
    cid_length: int = 0,
) -> Row:
    name = "-".join(filter(None, (algorithm, str(server_id_length), str(nonce_length), variant)))
    return {
        "name": name,
        "algorithm": algorithm,
        "config_id": config_id,
        "server_id_length": server_id_length,
        "nonce_length": nonce_length,
        "cid_length": cid_length or 1 + server_id_length + nonce_length,
        "length_self_encoded": length_self_encoded,
        "key": None if algorithm == "plaintext" else _octets(f"key {name}", 16).hex(),
    }


def _encoded(config: Row, number: int) -> Row:
    """Return a row: what a server encodes, the random octets that it needs, and the ID."""
    name = f"{config['name']} {number}"
    server_id = _octets(f"server ID {name}", config["server_id_length"])
    nonce = _octets(f"nonce {name}", config["nonce_length"])
    padding = _octets(f"padding {name}", config["cid_length"] - 1 - len(server_id) - len(nonce))
    low_bits = _octets(f"low bits {name}", 1)[0] & 0x1F
    key = None if config["key"] is None else bytes.fromhex(config["key"])
    cid = bytes([first_octet(config, low_bits)]) + oracle.encode_block(key, server_id, nonce) + padding
    row: Row = {"config": config["name"], "server_id": server_id.hex(), "nonce": nonce.hex()}
    if not config["length_self_encoded"]:
        row["low_bits"] = low_bits
    if padding:
        row["padding"] = padding.hex()
    return row | {"cid": cid.hex()}


def _draft() -> Iterator[Row]:
    """Yield the rows of the draft's appendix and its worked example, with the errata that it has."""
    found = json.loads(DRAFT.read_text())
    for row in (*found["plaintext"], *found["encrypted"], found["worked_example"]):
        yield {name: row[name] for name in ("config_id", "key", "server_id", "nonce", "cid", "erratum") if name in row}


def _decoded(config: Row) -> Iterator[Row]:
    """Yield IDs under one config, valid and invalid, with the server ID that they decode to."""
    row = _encoded(config, 0)
    cid, server_id = bytes.fromhex(row["cid"]), row["server_id"]
    block_end = 1 + config["server_id_length"] + config["nonce_length"]
    yield _decode_row(config, cid, server_id, "a valid ID")
    yield _decode_row(config, cid + b"\x05", server_id, "an octet that the server has appended is ignored")
    yield _decode_row(config, bytes([cid[0] ^ 0x1F]) + cid[1:], server_id, "the low bits are not a part of the block")
    yield _decode_row(config, cid[: block_end - 1], None, "too short: an octet of the block is missing")
    yield _decode_row(config, cid[:1], None, "too short: the first octet only")
    yield _decode_row(config, b"", None, "too short: empty")
    changed = cid[: block_end - 1] + bytes([cid[block_end - 1] ^ 0x01])
    key = None if config["key"] is None else bytes.fromhex(config["key"])
    found = oracle.decode(key, config["server_id_length"], config["nonce_length"], changed)
    assert found is not None, "it is as long as before"
    yield _decode_row(config, changed, found[0].hex(), "one changed bit of the block: some server ID, never an error")


def _decode_row(config: Row, cid: bytes, server_id: str | None, note: str) -> Row:
    return {"config": config["name"], "cid": cid.hex(), "server_id": server_id, "note": note}


def _lookups(named: dict[str, Row]) -> Iterator[Row]:
    """Yield IDs that a balancer with several configs receives, and what it finds: a server ID, or a reason."""
    for name in BALANCER:
        row = _encoded(named[name], 1)
        for header in ("short", "long"):
            yield _lookup(header, row["cid"], name, row["server_id"])
    plain, single, _, strict = (bytes.fromhex(_encoded(named[name], 1)["cid"]) for name in BALANCER)
    yield _lookup("short", (bytes([3 << 5]) + plain[1:]).hex(), reason="no_config")
    yield _lookup("short", (bytes([7 << 5]) + plain[1:]).hex(), reason="reserved_config")
    yield _lookup("long", (bytes([7 << 5 | 16]) + plain[1:]).hex(), reason="reserved_config")
    yield _lookup("long", single[:-1].hex(), reason="too_short")
    yield _lookup("long", "", reason="too_short")
    server_id = _encoded(named[BALANCER[3]], 1)["server_id"]
    yield _lookup("long", (strict + b"\x01").hex(), reason="length_mismatch")
    yield _lookup("short", (strict + b"\x01").hex(), BALANCER[3], server_id)
    yield _lookup("long", (bytes([strict[0] ^ 1]) + strict[1:]).hex(), reason="length_mismatch")


def _lookup(
    header: str, cid: str, config: str | None = None, server_id: str | None = None, *, reason: str | None = None
) -> Row:
    return {"header": header, "cid": cid, "config": config, "server_id": server_id, "reason": reason}


def _octets(name: str, count: int) -> bytes:
    return hashlib.shake_128(name.encode()).digest(count)


if __name__ == "__main__":
    PATH.write_text(text())
