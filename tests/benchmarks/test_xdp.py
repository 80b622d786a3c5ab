"""A minimal run of the kernel plane's benchmark: every row is measured, and everything is removed afterwards."""

from pathlib import Path

import pytest

from benchmarks import xdp

pytestmark = pytest.mark.toolchain


def test_every_row_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A few packets per row produce figures, and the kernel's accounting of BPF programs is restored."""
    if lack := xdp.lack():
        pytest.skip(lack)
    small = {"ROUNDS": 1, "FRAMES": 2000, "DISTINCT": 300, "REPEATED": 100, "BACKENDS": (3, 30), "RATE_S": 0.2}
    for name, value in small.items():
        monkeypatch.setattr(xdp, name, value)
    before = Path("/proc/sys/kernel/bpf_stats_enabled").read_text()
    xdp.main()
    assert Path("/proc/sys/kernel/bpf_stats_enabled").read_text() == before
    output = capsys.readouterr().out
    rows = [line.split("|") for line in output.splitlines() if line.startswith("| qlb") or "backends" in line[:14]]
    assert len(rows) == 2 * len(xdp.SHAPES) + 1 + 2 + 3
    rates = [row for row in rows if len(row) == 6]
    assert len(rates) == 3
    assert all(float(row[2].replace(",", "")) > 0 for row in rates), "packets pass from end to end"
