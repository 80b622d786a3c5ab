"""The control socket that a command talks to: options, environment and default."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote

import click
import pytest
from click.testing import CliRunner

from qlb.admin.routes import CONFIGURATION_HEADER
from qlb.cli import cli, client
from qlb.cli.client import ConfigCommand, config_option, find_socket, socket_of
from qlb.errors import ConfigError, QlbError


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Write a configuration with a control socket, a missing key file and a mistake; return its path."""
    path = tmp_path / "qlb.yaml"
    path.write_text("cid_configs: [{config_id: 99, key_file: missing}]\nadmin: {socket: run/../qlb.sock}\n")
    return path


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the default control socket: its folder is of this test, and it does not exist."""
    for name in ("QLB_SOCKET", "QLB_CONFIG", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    return tmp_path / "qlb.sock"


def test_the_order_of_the_sources(config: Path, default: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--socket counts first, then --config, QLB_SOCKET, QLB_CONFIG, and the default."""
    assert find_socket(None, None) == default
    other = config.with_name("other.yaml")
    other.write_text("admin: {socket: other.sock}\n")
    monkeypatch.setenv("QLB_CONFIG", str(other))
    assert find_socket(None, None) == config.with_name("other.sock")
    monkeypatch.setenv("QLB_SOCKET", "environment.sock")
    assert find_socket(None, None) == Path("environment.sock")
    assert find_socket(config, None) == config.with_name("qlb.sock")
    assert find_socket(config, Path("option.sock")) == Path("option.sock")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('admin: {socket: ""}\n', "1:17: admin.socket: must be the name of a file"),
        ("admin: {socket: [a]}\n", "1:17: admin.socket: must be the name of a file"),
        ("admin: {socket: none}\n", "1:17: admin.socket: none, so its daemon has no control socket; name a path"),
        ("admin: {\n", "qlb.yaml:2:1: "),
    ],
)
def test_a_configuration_without_a_control_socket(config: Path, text: str, problem: str) -> None:
    """A configuration that turns its control socket off, or is wrong there, is an error with its position."""
    config.write_text(text)
    with pytest.raises(ConfigError) as raised:
        find_socket(config, None)
    assert str(raised.value).startswith(str(config))
    assert problem in str(raised.value)


@contextmanager
def daemon_of(config: Path, socket: Path) -> Iterator[None]:
    """Answer on a control socket as the daemon of a configuration does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_meant = unquote(self.headers["Qlb-Configuration"] or str(config)) == str(config)
            body = b"ok\n" if is_meant else f"the daemon here runs {config}\n".encode()
            self.send_response(200 if is_meant else 421)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the name of the original)
            pass

    with socketserver.ThreadingUnixStreamServer(str(socket), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("text", ["listen: []\n", "admin: {socket: ~}\n", "admin: []\n"])
def test_the_default_socket_of_a_configuration(config: Path, default: Path, text: str) -> None:
    """A configuration without admin.socket means the default, but only if the daemon there runs this configuration."""
    config.write_text(text)
    assert find_socket(config, None) == default
    assert socket_of(config, None) is None
    with daemon_of(config, default):
        assert find_socket(config, None) == default
        assert socket_of(config, None) == default
    default.unlink()
    with daemon_of(config.with_name("other.yaml"), default):
        with pytest.raises(QlbError, match=r"^the daemon here runs .*other\.yaml at .*qlb\.sock, not .*qlb\.yaml: the"):
            find_socket(config, None)
        assert socket_of(config, None) is None


def test_the_socket_of_a_loaded_configuration(config: Path) -> None:
    """A configured path is used as it is, and none is none."""
    assert socket_of(config, Path("a.sock")) == Path("a.sock")
    assert socket_of(config, "none") is None


@click.command(cls=ConfigCommand)
@click.argument("config")
@click.argument("word")
@click.option("--flag", is_flag=True)
@config_option
def example(config: str, word: str, flag: bool) -> None:
    """Print the arguments."""
    click.echo(f"{config} {word} {flag}")


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["a.yaml", "w"], "a.yaml w False"),
        (["w", "--flag"], "env.yaml w True"),
        (["--flag", "w"], "env.yaml w True"),
        (["--config", "b.yaml", "w"], "b.yaml w False"),
        (["w", "-c", "b.yaml", "--flag"], "b.yaml w True"),
        (["w", "--config=b.yaml"], "b.yaml w False"),
        ([], "Missing argument 'WORD'"),
        (["--flog", "w"], "No such option"),
        (["a", "b", "c"], "Got unexpected extra argument (c)"),
    ],
)
def test_a_configuration_from_the_environment(
    arguments: list[str], printed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """QLB_CONFIG replaces the argument CONFIG if it is missing. An option or an argument counts more."""
    monkeypatch.setenv("QLB_CONFIG", "env.yaml")
    assert printed in CliRunner().invoke(example, arguments).output
    monkeypatch.delenv("QLB_CONFIG")
    without = CliRunner().invoke(example, arguments).output
    assert (printed in without) == ("env.yaml" not in printed and arguments != [])


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


def test_the_header_of_requests() -> None:
    """The name of the header is equal on both sides."""
    assert client._CONFIGURATION_HEADER == CONFIGURATION_HEADER
