"""Shell completion: the candidates, and the scripts in real shells."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from lab.command_line import Run
from qlb.cli import client
from qlb.cli.client import complete_backend

NAMES = ("agent-a", "agents-10.0.0.5:4433", "agents-10.0.0.6:4433")
STATUS = {"backends": [*({"name": name, "state": "active"} for name in NAMES), {"name": "b", "state": "draining"}]}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    """Answer every request on a control socket with STATUS; yield its path."""
    path = tmp_path / "qlb.sock"
    body = json.dumps(STATUS).encode()
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                if connection.recv(4096):
                    connection.sendall(answer)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield path
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def completed(command: str, incomplete: str, **options: Path) -> list[str]:
    """Return the candidates for the argument of a command."""
    argument = click.Argument(["name"])
    context = click.Context(click.Command(command, params=[argument]), info_name=command)
    context.params |= options
    return complete_backend(context, argument, incomplete)


@pytest.mark.parametrize(
    ("command", "incomplete", "found"),
    [
        ("drain", "", list(NAMES)),
        ("drain", "agents-10.0.0.5:", ["agents-10.0.0.5:4433"]),
        ("drain", "b", []),
        ("undrain", "", ["b"]),
        ("undrain", "a", []),
    ],
)
def test_the_names_of_backends(daemon: Path, command: str, incomplete: str, found: list[str]) -> None:
    """`qlb drain` completes the backends that are active, `qlb undrain` those that are draining."""
    assert completed(command, incomplete, socket=daemon) == found


def test_no_daemon_means_no_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no daemon answers, or its configuration is wrong or absent, nothing is completed and nothing is printed."""
    assert completed("drain", "", socket=tmp_path / "none.sock") == []
    assert completed("drain", "", config=tmp_path / "none.yaml") == []
    for answer in (None, [], {}, {"backends": [{}]}, {"backends": None}):
        monkeypatch.setattr(client, "ask", lambda *_, answer=answer, **__: (200, answer))
        assert completed("drain", "") == []


def test_a_slow_daemon_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request has a short timeout, because the user waits at the prompt."""
    timeouts = []

    def ask(*_: object, timeout_s: float) -> tuple[int, object]:
        timeouts.append(timeout_s)
        return 200, STATUS

    monkeypatch.setattr(client, "ask", ask)
    assert completed("undrain", "") == ["b"]
    assert timeouts == [0.5]


def run_shell(*words: str, environ: dict[str, str]) -> list[str]:
    """Run a program whose shell finds this installation's qlb. Return the lines of its output."""
    folder = Path(sys.executable).parent
    if not (folder / "qlb").exists():
        pytest.skip(f"no {folder / 'qlb'}: qlb is not installed")
    environ = os.environ | environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=240, check=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


BASH = """
eval "$(qlb completion bash)"
complete -p qlb
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_qlb_completion qlb
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["qlb", "und"], ["undrain"]),
        (["qlb", "drain", "agents"], [NAMES[1], NAMES[2]]),
        (["qlb", "drain", "agents-10.0.0.5", ":"], ["4433"]),
        (["qlb", "drain", "agents-10.0.0.5", ":", "44"], ["4433"]),
        (["qlb", "drain", "nothing"], [""]),
        (["qlb", "server-config", "CONFIG", ""], ["a", "b"]),
        (["qlb", "cid", "encode", "--config", "CONFIG", "b"], ["b"]),
    ],
    ids=" ".join,
)
def test_bash(daemon: Path, config: Path, words: list[str], found: list[str]) -> None:
    """In bash, qlb completes commands and backends. Bash divides words at colons, and only the rest is inserted."""
    words = [str(config) if word == "CONFIG" else word for word in words]
    lines = run_shell("bash", "--norc", "-c", BASH, "bash", *words, environ={"QLB_SOCKET": str(daemon)})
    assert lines == ["complete -o nosort -F _qlb_completion qlb", *found]


ZSH = """
autoload -Uz compinit && compinit -u -D
eval "$(qlb completion zsh)"
compadd() {
    while [[ $1 != -a ]]; do shift; done
    print -l ${(P)2}
}
words=("$@"); CURRENT=$#
_qlb_completion
"""


@pytest.mark.slow
def test_zsh(daemon: Path) -> None:
    """In zsh, qlb completes the names of backends, colons included."""
    if shutil.which("zsh") is None:
        pytest.skip("zsh is missing")
    lines = run_shell("zsh", "-f", "-c", ZSH, "zsh", "qlb", "drain", "agents", environ={"QLB_SOCKET": str(daemon)})
    assert lines == [NAMES[1], NAMES[2]]


def test_fish(daemon: Path, tmp_path: Path) -> None:
    """In fish, qlb completes commands with their descriptions, and the names of backends."""
    if shutil.which("fish") is None:
        pytest.skip("fish is missing")
    environ = {"QLB_SOCKET": str(daemon), "HOME": str(tmp_path)}
    script = "qlb completion fish | source; complete -C'qlb und'; complete -C'qlb drain agents'"
    found = run_shell("fish", "--no-config", "-c", script, environ=environ)
    assert found == ["undrain\tAllow new connections to a backend.", NAMES[1], NAMES[2]]


def test_an_unknown_shell(qlb: Run) -> None:
    """The error lists the shells."""
    result = qlb("completion", "ksh")
    assert result.code == 2
    assert "'bash', 'zsh', 'fish'" in result.err
