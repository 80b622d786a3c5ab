"""Calls beside floods: what a run sends and sees."""

import pytest

from benchmarks import flood
from benchmarks.network import namespace_options

pytestmark = pytest.mark.toolchain


def test_a_run_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """One row without a flood and one for each way to send one kind; the calls are answered."""
    if not namespace_options():
        pytest.skip("no leave to make networks (unshare --net)")
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


def test_floods_are_what_their_names_say() -> None:
    """Garbage has the reserved config, routable an ID that the flooded backend's configuration decodes."""
    kinds = {one.name: one for one in flood.floods() if one.sources == 0}
    assert bytes.fromhex(kinds["garbage"].prefix)[1] >> 5 == 7
    assert bytes.fromhex(kinds["routable"].prefix)[1] >> 5 == flood.PARAMS.config_id
    assert bytes.fromhex(kinds["initial"].prefix)[:5] == b"\xc3\0\0\0\1"
