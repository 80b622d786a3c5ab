"""`qlb config`: from the file, and from a running daemon."""

import json
from pathlib import Path

import pytest

from lab.command_line import KEY, Run
from qlb.cli import config as module


def test_the_file(qlb: Run, config: Path) -> None:
    """The file is printed in its normal form, without its key."""
    result = qlb("config", config)
    assert (result.code, result.err) == (0, "")
    assert "  - config_id: 1  # fingerprint " in result.out
    assert "weight" not in result.out
    assert KEY not in result.out
    assert qlb("config", "--config", config).out == result.out


def test_the_effective_configuration(qlb: Run, config: Path) -> None:
    """--effective adds the defaults; --json prints the same as JSON."""
    result = qlb("config", "--effective", "--json", config)
    found = json.loads(result.out)
    assert found["forwarding"]["plane"] == "auto"
    assert found["backends"][0] | {"weight": 1, "state": "active"} == found["backends"][0]
    assert KEY not in result.out


def test_a_configuration_without_its_key_files(qlb: Run, config: Path) -> None:
    """--no-keys prints a configuration whose key file is missing; without it, the missing file is the error."""
    config.write_text(config.read_text().replace(f"key: {KEY}", "key_file: missing.hex"))
    assert qlb("config", config).code == 2
    result = qlb("config", "--no-keys", config)
    assert (result.code, "fingerprint" in result.out) == (0, False)
    assert f"key_file: {config.with_name('missing.hex')}" in result.out


def test_a_wrong_configuration(qlb: Run, config: Path) -> None:
    """A configuration with a problem is not printed: exit code 2."""
    config.write_text(config.read_text() + "lisen: x\n")
    result = qlb("config", config)
    assert (result.code, result.out) == (2, "")
    assert "lisen" in result.err


@pytest.mark.parametrize(
    ("arguments", "target", "socket"),
    [
        ([], "/config", "env.sock"),
        (["--effective"], "/config/effective", "env.sock"),
        (["--socket", "a.sock"], "/config", "a.sock"),
        (["--live", "CONFIG"], "/config", "qlb.sock"),
        (["--socket", "a.sock", "CONFIG"], "/config", "a.sock"),
    ],
)
def test_a_running_daemon(
    qlb: Run, config: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], target: str, socket: str
) -> None:
    """Without CONFIG, and with --live or --socket, the daemon prints what is in force, with its generation."""
    config.write_text(config.read_text() + "admin: {socket: qlb.sock}\n")
    monkeypatch.setenv("QLB_SOCKET", "env.sock")
    asked = []

    def ask(path: Path, method: str, asked_for: str) -> tuple[int, object]:
        asked.append((path.name, method, asked_for))
        return 200, {"generation": 3, "config": {"listen": ["127.0.0.1:1"]}}

    monkeypatch.setattr(module, "ask", ask)
    result = qlb("config", *(str(config) if one == "CONFIG" else one for one in arguments))
    assert result.out == "# in force: generation 3\nlisten:\n  - 127.0.0.1:1\n"
    assert asked == [(socket, "POST", target)]


@pytest.mark.parametrize(("code", "answer", "text"), [(404, {}, "older version"), (500, {"error": "oh"}, "oh")])
def test_a_daemon_that_cannot_answer(
    qlb: Run, monkeypatch: pytest.MonkeyPatch, code: int, answer: dict[str, str], text: str
) -> None:
    """The error names the socket and the reason; a daemon of an older version is named as such."""
    monkeypatch.setattr(module, "ask", lambda *_: (code, answer))
    result = qlb("config", "--socket", "a.sock")
    assert result.code == 1
    assert "a.sock" in result.err
    assert text in result.err


def test_no_daemon(qlb: Run, tmp_path: Path) -> None:
    """Without a daemon the error is that of every command; --no-keys is refused."""
    result = qlb("config", "--socket", tmp_path / "none.sock")
    assert (result.code, "no daemon answers at" in result.err) == (1, True)
    assert qlb("config", "--no-keys").code == 2
