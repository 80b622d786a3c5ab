"""Tests of what commands derive from the daemon's answers: the exit code and the output."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from qlb.cli import control, rotate
from qlb.errors import QlbError

BEHIND = "worker 1 (process 7) has not taken the configuration yet; it goes on by the one before"


def _run(monkeypatch: pytest.MonkeyPatch, code: int, answer: dict[str, Any], *arguments: str) -> tuple[int, str]:
    """Run a command against a daemon with a fixed answer; return the exit code and the output."""
    monkeypatch.setattr(control, "ask", lambda *_, **__: (code, answer))
    command = next(one for one in control.COMMANDS if one.name == arguments[0])
    result = CliRunner().invoke(command, arguments[1:])
    return result.exit_code, result.output


@pytest.mark.parametrize(("code", "exit_code"), [(200, 0), (409, 1), (422, 2), (500, 1), (503, 1)])
def test_exit_codes_of_a_reload(monkeypatch: pytest.MonkeyPatch, code: int, exit_code: int) -> None:
    """Exit codes: 0 for success, 1 for a failure at run time, 2 for an invalid configuration."""
    answer = {"ok": code == 200, "generation": 3, "problems": [], "warnings": [], "changes": []}
    assert _run(monkeypatch, code, answer, "reload")[0] == exit_code
    assert _run(monkeypatch, code, answer, "reload", "--json") == (exit_code, json.dumps(answer) + "\n")


def test_a_reload_that_a_worker_has_not_applied(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output does not report success; it names the worker that lags behind."""
    answer = {"ok": False, "generation": 3, "problems": [BEHIND], "incomplete": True}
    code, output = _run(monkeypatch, 503, answer, "reload")
    assert (code, output.splitlines()) == (1, [BEHIND, "qlb: generation 3 is in force, but not in every worker"])


@pytest.mark.parametrize("command", ["drain", "undrain"])
def test_a_drain_that_a_worker_has_not_applied(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    """The command exits with code 1 and prints the reason."""
    assert _run(monkeypatch, 503, {"ok": False, "error": BEHIND}, command, "a") == (1, f"qlb: {BEHIND}\n")


def test_warnings_of_an_upgrade(monkeypatch: pytest.MonkeyPatch) -> None:
    """The upgrade is reported as done, followed by its warnings."""
    code, output = _run(monkeypatch, 200, {"ok": True, "pid": 9, "warnings": ["12 sessions …"]}, "upgrade")
    assert (code, output.splitlines()) == (0, ["upgraded; process 9 has taken over", "qlb: 12 sessions …"])


def test_a_step_of_a_rotation_that_a_worker_has_not_applied(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The file is not restored, because most workers apply it: the error asks to run the command again."""
    monkeypatch.setattr(rotate, "ask", lambda *_, **__: (503, {"problems": [BEHIND], "incomplete": True}))

    class Config:
        class admin:  # noqa: N801 (named like the section)
            socket = tmp_path

    monkeypatch.setattr(Path, "is_socket", lambda _: True)
    with pytest.raises(QlbError, match="not in every worker; run this again:\nworker 1"):
        rotate._reload(Config, force=False)  # type: ignore[arg-type]
