"""The exit codes and the output of commands for the daemon's answers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from lab.readings import sample_reading
from qlb.cli import cli, operate, rotate
from qlb.errors import QlbError
from qlb.observe.status import build_status

BEHIND = "worker 1 (process 7) has not taken the configuration yet; it goes on by the one before"


def _run(monkeypatch: pytest.MonkeyPatch, code: int, answer: dict[str, Any], *arguments: str) -> tuple[int, str]:
    """Run a command against a daemon that gives one answer; return the exit code and the output."""
    monkeypatch.setattr(operate, "ask", lambda *_, **__: (code, answer))
    result = CliRunner().invoke(cli, arguments)
    return result.exit_code, result.output


@pytest.mark.parametrize(("code", "exit_code"), [(200, 0), (409, 1), (422, 2), (500, 1), (503, 1)])
def test_exit_codes_of_a_reload(monkeypatch: pytest.MonkeyPatch, code: int, exit_code: int) -> None:
    """The exit code is 0 after a reload, 2 if the configuration is wrong, and 1 after another failure."""
    answer = {"ok": code == 200, "generation": 3, "problems": [], "warnings": [], "changes": []}
    assert _run(monkeypatch, code, answer, "reload")[0] == exit_code
    assert _run(monkeypatch, code, answer, "reload", "--json") == (exit_code, json.dumps(answer) + "\n")


def test_a_reload_that_a_worker_has_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a worker is behind, the output names it and does not report a reload."""
    answer = {"ok": False, "generation": 3, "problems": [BEHIND], "incomplete": True}
    code, output = _run(monkeypatch, 503, answer, "reload")
    assert (code, output.splitlines()) == (1, [BEHIND, "qlb: generation 3 is in force, but not in every worker"])


@pytest.mark.parametrize("command", ["drain", "undrain"])
def test_a_drain_that_a_worker_has_not_applied(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """If a worker is behind, the exit code is 1 and the output has the reason."""
    assert _run(monkeypatch, 503, {"ok": False, "error": BEHIND}, command, "a") == (1, f"qlb: {BEHIND}\n")


def test_an_upgrade_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade that succeeds prints its warnings, too."""
    code, output = _run(monkeypatch, 200, {"ok": True, "pid": 9, "warnings": ["12 sessions …"]}, "upgrade")
    assert (code, output.splitlines()) == (0, ["upgraded; process 9 has taken over", "qlb: 12 sessions …"])


def test_an_upgrade_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade that fails prints the reason, and that the old process continues."""
    code, output = _run(monkeypatch, 422, {"ok": False, "problems": ["no memory"]}, "upgrade")
    assert (code, output.splitlines()) == (1, ["qlb: no memory", "qlb: not upgraded; the old process continues"])


def test_a_step_of_a_rotation_that_a_worker_has_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is not restored, because most workers use it: the error asks the operator to run the step again."""
    monkeypatch.setattr(rotate, "ask", lambda *_, **__: (503, {"problems": [BEHIND], "incomplete": True}))
    monkeypatch.setattr(Path, "is_socket", lambda _: True)
    with pytest.raises(QlbError, match="not in every worker; run this again:\nworker 1"):
        rotate._reload(Path("qlb.sock"), force=False)


def test_the_status_of_a_backend_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command prints the words of the last probe below the backend, and JSON without any change."""
    answer = build_status(sample_reading())
    code, output = _run(monkeypatch, 200, answer, "status")
    assert code == 0
    rows = output.splitlines()
    (at,) = [number for number, line in enumerate(rows) if line.startswith("b:2 ")]
    assert rows[at + 1] == "    it loops; no answer; wrong key"
    code, output = _run(monkeypatch, 200, answer, "status", "--json")
    assert json.loads(output) == json.loads(json.dumps(answer))


def test_status_loads_no_library_for_screens() -> None:
    """The command does not import rich, which only ``qlb top`` needs: each import costs an operator time."""
    script = "import sys, qlb.cli.operate, qlb.cli.tables; print([name for name in sys.modules if 'rich' in name])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
