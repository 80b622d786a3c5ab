"""What /proc tells of a process."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.stopped import standing_still
from qlb.handover.processes import Starvation, Vitals, read_children, read_vitals

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this /proc")


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that waits for its stdin to end."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_this_process_runs() -> None:
    """Who reads it is on a processor, and has used time."""
    vitals = read_vitals(os.getpid())
    assert vitals is not None
    assert (vitals.runnable, vitals.main_runnable, vitals.state) == (True, True, "R")
    assert vitals.cpu_s > 0


def test_a_stopped_process_cannot_run(sleeper: subprocess.Popen[bytes]) -> None:
    """Its state is T."""
    with standing_still(sleeper.pid):
        vitals = read_vitals(sleeper.pid)
    assert vitals is not None
    assert (vitals.runnable, vitals.main_runnable, vitals.state) == (False, False, "T")


def test_one_that_has_ended() -> None:
    """There is nothing to read."""
    with subprocess.Popen(["true"]) as process:
        pass
    assert read_vitals(process.pid) is None


def test_children(sleeper: subprocess.Popen[bytes]) -> None:
    """Those of this process, where the kernel lists them; none of a process that is not there."""
    if Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists():
        assert sleeper.pid in read_children(os.getpid())
    assert read_children(sleeper.pid) == ()
    assert read_children(0) == ()


def test_a_thread_that_waits_for_a_processor_counts(tmp_path: Path) -> None:
    """The first thread sleeps, another one is runnable; a name with brackets and blanks misleads nobody."""
    fields = "S 1 1 1 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 2 0 1"
    _write(tmp_path / "5" / "stat", f"5 (a) R (b) {fields}")
    _write(tmp_path / "5" / "task" / "5" / "stat", f"5 (a) R (b) {fields}")
    _write(tmp_path / "5" / "task" / "6" / "stat", f"6 (x) R{fields[1:]}")
    vitals = read_vitals(5, tmp_path)
    assert vitals is not None
    assert (vitals.runnable, vitals.main_runnable, vitals.state) == (True, False, "S")
    assert vitals.cpu_s == 200 / os.sysconf("SC_CLK_TCK")


def test_no_proc(tmp_path: Path) -> None:
    """Other systems, and a file that is none of these."""
    assert read_vitals(5, tmp_path) is None
    _write(tmp_path / "5" / "stat", "nonsense")
    assert read_vitals(5, tmp_path) is None


@pytest.mark.parametrize(
    ("runnable", "used_s", "goes_on"), [(True, 0.1, True), (False, 0.0, False), (True, 2.5, False)]
)
def test_starvation(runnable: bool, used_s: float, goes_on: bool) -> None:
    """Late for want of a processor: it could run, and has not had what would be enough."""
    seen = [Vitals(True, True, 1.0, "R"), Vitals(runnable, runnable, 1.0 + used_s, "R")]
    starvation = Starvation(1 << 30, lambda _: seen.pop(0))
    assert starvation.goes_on() is goes_on


def test_who_has_ended_does_not_starve() -> None:
    """There is nobody to wait for."""
    assert not Starvation(1 << 30, lambda _: None).goes_on()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
