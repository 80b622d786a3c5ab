"""The state of a process, as /proc shows it."""

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
    """Start a process that waits for the end of its standard input."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def test_this_process_runs() -> None:
    """The process that reads its own state is runnable and has used processor time."""
    vitals = read_vitals(os.getpid())
    assert vitals is not None
    assert (vitals.runnable, vitals.main_runnable, vitals.state) == (True, True, "R")
    assert vitals.cpu_s > 0


def test_a_stopped_process_cannot_run(sleeper: subprocess.Popen[bytes]) -> None:
    """A stopped process is not runnable and has state T."""
    with standing_still(sleeper.pid):
        vitals = read_vitals(sleeper.pid)
    assert vitals is not None
    assert (vitals.runnable, vitals.main_runnable, vitals.state) == (False, False, "T")


def test_a_process_that_has_ended() -> None:
    """A process that has ended has no vital signs."""
    with subprocess.Popen(["true"]) as process:
        pass
    assert read_vitals(process.pid) is None


def test_children(sleeper: subprocess.Popen[bytes]) -> None:
    """Children of this process are listed if the kernel lists them. A missing process has no children."""
    if Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").exists():
        assert sleeper.pid in read_children(os.getpid())
    assert read_children(sleeper.pid) == ()
    assert read_children(0) == ()


def test_a_thread_that_waits_for_a_processor_counts(tmp_path: Path) -> None:
    """A process is runnable if any thread is, even if its first thread sleeps. Brackets in its name are no problem."""
    fields = "S 1 1 1 0 -1 4194304 1 2 3 4 150 50 0 0 20 0 2 0 1"
    _write(tmp_path / "5" / "stat", f"5 (a) R (b) {fields}")
    _write(tmp_path / "5" / "task" / "5" / "stat", f"5 (a) R (b) {fields}")
    _write(tmp_path / "5" / "task" / "6" / "stat", f"6 (x) R{fields[1:]}")
    vitals = read_vitals(5, tmp_path)
    assert vitals is not None
    assert (vitals.runnable, vitals.main_runnable, vitals.state) == (True, False, "S")
    assert vitals.cpu_s == 200 / os.sysconf("SC_CLK_TCK")


def test_no_proc(tmp_path: Path) -> None:
    """Without /proc, or with an invalid file there, no vital signs are returned."""
    assert read_vitals(5, tmp_path) is None
    _write(tmp_path / "5" / "stat", "nonsense")
    assert read_vitals(5, tmp_path) is None


@pytest.mark.parametrize(
    ("runnable", "used_s", "goes_on"), [(True, 0.1, True), (False, 0.0, False), (True, 2.5, False)]
)
def test_starvation(runnable: bool, used_s: float, goes_on: bool) -> None:
    """A process is starved if it is runnable and has not had enough processor time."""
    seen = [Vitals(True, True, 1.0, "R"), Vitals(runnable, runnable, 1.0 + used_s, "R")]
    starvation = Starvation(1 << 30, lambda _: seen.pop(0))
    assert starvation.continues() is goes_on


def test_a_process_that_has_ended_is_not_starved() -> None:
    """A process that has ended is not starved, so nothing waits for it."""
    assert not Starvation(1 << 30, lambda _: None).continues()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
