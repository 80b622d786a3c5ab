"""C decodes connection IDs as qlb.cid does, for every algorithm and every legal pair of lengths."""

import json
import random
from pathlib import Path
from types import ModuleType

import pytest

from lab.dataplane.worlds import SHAPES
from qlb.cid import CidCodec, CidParams
from qlb.dataplane.core.table import compile_table
from qlb.routing.maglev import DEFAULT_KEY
from qlb.routing.snapshot import compile_snapshot

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "quic-lb-draft.json").read_text())
ROWS = [*VECTORS["plaintext"], *VECTORS["encrypted"], VECTORS["worked_example"]]


def _table(params: CidParams) -> bytes:
    return compile_table(compile_snapshot(1, [params], (), fallback_key=DEFAULT_KEY))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["cid"])
def test_the_drafts_vectors(core: ModuleType, row: dict[str, str]) -> None:
    """Every row of the draft's appendix (errata corrected) and its worked example decode to their server ID."""
    server_id, nonce = bytes.fromhex(row["server_id"]), bytes.fromhex(row["nonce"])
    key = bytes.fromhex(row["key"]) if "key" in row else None
    params = CidParams(int(row["config_id"]), len(server_id), len(nonce), key)
    assert core.decode(_table(params), params.config_id, bytes.fromhex(row["cid"])) == server_id


@pytest.mark.parametrize("native", [False, True], ids=["tables", "native"])
def test_every_shape(core: ModuleType, native: bool) -> None:
    """C decodes the IDs that Python encodes, at the end of a packet and before other octets, and rejects short ones."""
    dice = random.Random(1)
    for server_id_length, nonce_length, keyed in SHAPES:
        params = CidParams(
            dice.randrange(7), server_id_length, nonce_length, dice.randbytes(16) if keyed else None, cid_length=20
        )
        codec, table = CidCodec(params), _table(params)
        for _ in range(8):
            server_id = dice.randbytes(server_id_length)
            cid = codec.encode(server_id, dice.randbytes(nonce_length))
            for whole in (cid, cid[: params.block_end], cid + dice.randbytes(40)):
                assert core.decode(table, params.config_id, whole, native) == server_id
            assert core.decode(table, params.config_id, cid[: params.block_end - 1], native) is None


def test_noise_decodes_to_the_same_noise(core: ModuleType) -> None:
    """For random octets, C and Python decode to the same bits and agree on which IDs are too short."""
    dice = random.Random(2)
    for server_id_length, nonce_length, keyed in SHAPES:
        params = CidParams(3, server_id_length, nonce_length, dice.randbytes(16) if keyed else None)
        codec, table = CidCodec(params), _table(params)
        for size in range(25):
            cid = dice.randbytes(size)
            assert core.decode(table, 3, cid) == codec.decode(cid)


def test_another_config(core: ModuleType) -> None:
    """A config ID that the table does not have decodes nothing."""
    assert core.decode(_table(CidParams(3, 4, 8)), 2, bytes(20)) is None
