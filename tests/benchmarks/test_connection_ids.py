"""Tests of the files of connection IDs that the load sends."""

from pathlib import Path

import pytest

from benchmarks.connection_ids import server_id, write_cids
from benchmarks.points import SHAPES, Point
from qlb.cid import CidCodec


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fresh", [False, True])
def test_each_flow_keeps_its_backend(shape: str, fresh: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flow f belongs to backend f modulo the number of backends in every lap; no fresh ID occurs twice."""
    monkeypatch.setattr("benchmarks.connection_ids.FRESH", 30)
    point = Point(flows=10, shape=shape, fresh=fresh, backends=3)
    octets, length = write_cids(point, tmp_path).read_bytes(), SHAPES[shape].cid_length
    cids = [octets[at : at + length] for at in range(0, len(octets), length)]
    assert len(set(cids)) == len(cids) == (30 if fresh else 10)
    codec = CidCodec(SHAPES[shape])
    assert [codec.decode(cid) for cid in cids] == [server_id(at % 10 % 3) for at in range(len(cids))]
