"""Tests of calls beside floods: the traffic that a run sends, and its results."""

import pytest

from benchmarks import flood
from benchmarks.network import namespace_options

pytestmark = pytest.mark.toolchain


def test_a_run_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """The table has one row without a flood and one for each number of sources; the calls are answered."""
    if not namespace_options():
        pytest.skip("no permission to create networks (unshare --net)")
    flood.main(["--plane", "asyncio", "--only", "none", "--only", "routable", "--rate", "500", "--seconds", "0.5"])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    table = [dict(zip(flood.HEAD, row, strict=True)) for row in rows if len(row) == len(flood.HEAD)][2:]
    assert [(row["flood"], row["sources"]) for row in table] == [
        ("none", ""),
        ("routable", "one each"),
        ("routable", "one"),
    ]
    assert table[0]["sent"] == "0"
    assert all(int(row["sent"].replace(",", "")) > 0 for row in table[1:])
    assert all(float(row["p50 ms"]) > 0 for row in table)


def test_floods_match_their_names() -> None:
    """Garbage has the reserved config rotation bits; routable packets have the config ID of the flooded backend."""
    kinds = {one.name: one for one in flood.floods() if one.sources == 0}
    assert bytes.fromhex(kinds["garbage"].prefix)[1] >> 5 == 7
    assert bytes.fromhex(kinds["routable"].prefix)[1] >> 5 == flood.PARAMS.config_id
    assert bytes.fromhex(kinds["initial"].prefix)[:5] == b"\xc3\0\0\0\1"
