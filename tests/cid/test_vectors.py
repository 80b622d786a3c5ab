"""The draft's test vectors, with errata, through the library and through the oracle."""

import json
from pathlib import Path
from typing import Any

import pytest

from lab import cid_oracle as oracle
from qlb.cid import CidCodec, CidParams

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "quic-lb-draft.json").read_text())
ROWS: list[dict[str, Any]] = [*VECTORS["plaintext"], *VECTORS["encrypted"], VECTORS["worked_example"]]


def _octets(row: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(row[name])


def _params(row: dict[str, Any]) -> CidParams:
    key = _octets(row, "key") if "key" in row else None
    sizes = len(_octets(row, "server_id")), len(_octets(row, "nonce"))
    return CidParams(row["config_id"], *sizes, key, length_self_encoded=True)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["cid"])
class TestRow:
    """Tests of every row of the appendix, and of the worked example."""

    def test_encode(self, row: dict[str, Any]) -> None:
        """Server ID and nonce encode to the printed connection ID, first octet included."""
        codec = CidCodec(_params(row))
        assert codec.encode(_octets(row, "server_id"), _octets(row, "nonce")) == _octets(row, "cid")

    def test_decode(self, row: dict[str, Any]) -> None:
        """The printed connection ID decodes to its server ID, also with appended octets."""
        codec, cid, server_id = CidCodec(_params(row)), _octets(row, "cid"), _octets(row, "server_id")
        assert codec.decode(cid) == server_id
        assert [codec.decode(one) for one in (cid, cid + b"tail", cid[:-1])] == [server_id, server_id, None]

    def test_first_octet(self, row: dict[str, Any]) -> None:
        """The first octet has three bits of config ID and five bits for the number of octets after it."""
        first, *rest = _octets(row, "cid")
        assert (first >> 5, first & 0x1F) == (row["config_id"], len(rest))

    def test_oracle(self, row: dict[str, Any]) -> None:
        """The oracle agrees in both directions, nonce included."""
        key, server_id, nonce = _params(row).key, _octets(row, "server_id"), _octets(row, "nonce")
        assert oracle.encode_block(key, server_id, nonce) == _octets(row, "cid")[1:]
        assert oracle.decode(key, len(server_id), len(nonce), _octets(row, "cid")) == (server_id, nonce)

    def test_algorithm(self, row: dict[str, Any]) -> None:
        """A key and 16 octets mean single-pass, a key and another sum four-pass, no key plaintext."""
        named = row.get("algorithm", "four-pass" if "key" in row else "plaintext")
        assert named.startswith(_params(row).algorithm.split()[0].removesuffix("-pass"))


def test_errata_are_noted() -> None:
    """Each row with a misprint in the draft says so, and the file names its source."""
    marked = [row["cid"] for row in ROWS if "erratum" in row]
    assert marked == ["2a350d28b42003487d970b", "125779c9cc86beb3a3a4a3ca96fce4bfe0cdbc", "0767947d29be054a"]
    assert "draft-ietf-quic-load-balancers" in VECTORS["source"]
    assert "right_1" in VECTORS["pseudocode_erratum"]
