"""The control socket that a command talks to: options, environment and default."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from qlb.cli import cli
from qlb.cli.client import find_socket
from qlb.errors import ConfigError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Write a configuration with a control socket, a missing key file and a mistake; return its path."""
    path = tmp_path / "qlb.yaml"
    path.write_text("cid_configs: [{config_id: 99, key_file: missing}]\nadmin: {socket: run/../qlb.sock}\n")
    return path


def test_the_order_of_the_sources(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--socket counts first, then --config, then QLB_SOCKET, then the default."""
    monkeypatch.delenv("QLB_SOCKET", raising=False)
    assert find_socket(None, None) == Path("/run/qlb/qlb.sock")
    monkeypatch.setenv("QLB_SOCKET", "environment.sock")
    assert find_socket(None, None) == Path("environment.sock")
    assert find_socket(config, None) == config.with_name("qlb.sock")
    assert find_socket(config, Path("option.sock")) == Path("option.sock")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("listen: []\n", "admin.socket is not set"),
        ("admin: {socket: ~}\n", "admin.socket is not set"),
        ("admin: []\n", "admin.socket is not set"),
        ('admin: {socket: ""}\n', "1:17: admin.socket: must be the name of a file"),
        ("admin: {socket: [a]}\n", "1:17: admin.socket: must be the name of a file"),
        ("admin: {\n", "qlb.yaml:2:1: "),
    ],
)
def test_a_configuration_without_a_control_socket(config: Path, text: str, problem: str) -> None:
    """A configuration that names no control socket is an error with its path and, if possible, its position."""
    config.write_text(text)
    with pytest.raises(ConfigError) as raised:
        find_socket(config, None)
    assert str(raised.value).startswith(str(config))
    assert problem in str(raised.value)


def test_a_missing_configuration(tmp_path: Path) -> None:
    """A configuration that does not exist is an error, too."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        find_socket(tmp_path / "missing.yaml", None)


@pytest.mark.parametrize(
    "arguments", [["status"], ["reload"], ["drain", "a"], ["undrain", "a"], ["upgrade"], ["top", "--once"]]
)
def test_a_daemon_that_does_not_answer(config: Path, arguments: list[str]) -> None:
    """The error of every command names the socket of the configuration, and both options."""
    result = CliRunner().invoke(cli, [*arguments, "--config", str(config)])
    assert result.exit_code == 1
    assert f"no daemon answers at {config.with_name('qlb.sock')}: " in str(result.exception)
    assert "--config" in str(result.exception)
    assert "--socket" in str(result.exception)
