"""Commands and the daemon with standard streams that are closed at the start."""

import os
import socket
import subprocess
import sys
from itertools import chain, combinations
from pathlib import Path

import pytest

pytestmark = pytest.mark.network

CLOSED = [" ".join(some) for some in chain(*(combinations(("<&-", ">&-", "2>&-"), n) for n in (1, 2, 3)))]
LIMIT_S = 240.0
TEXT = """
listen: ["127.0.0.1:0"]
cid_configs:
  - {config_id: 1, server_id_length: 3, nonce_length: 13, key: 000102030405060708090a0b0c0d0e0f}
backends:
  - {name: a, address: "127.0.0.1:5001", server_ids: {1: "0a0a0a"}}
admin: {listen: none, socket: qlb.sock}
health: {probe: none}
"""


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of the shell in which `qlb` is the program of this checkout."""
    line = f'qlb() {{ "{sys.executable}" -m qlb "$@"; }}; {command}'
    return subprocess.run(["sh", "-c", line], cwd=folder, capture_output=True, text=True, timeout=LIMIT_S)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a configuration, qlb.yaml."""
    path = tmp_path / "qlb.yaml"
    path.write_text(TEXT)
    path.chmod(0o600)
    return tmp_path


@pytest.mark.parametrize("closed", CLOSED)
def test_commands(folder: Path, closed: str) -> None:
    """With closed streams, a command has its usual exit code and writes no traceback."""
    for command, code in (("check qlb.yaml", 0), ("check absent.yaml", 2), ("status --socket absent", 1)):
        done = shell(f"qlb {command} {closed}", folder)
        assert done.returncode == code, (command, done)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("command", "code"), [("schema", 1), ("check qlb.yaml", 1)])
def test_a_full_standard_output(folder: Path, command: str, code: int) -> None:
    """If standard output is full, one line reports it."""
    done = shell(f"qlb {command} >/dev/full", folder)
    assert done.returncode == code
    assert done.stderr.splitlines()[-1] == "qlb: [Errno 28] No space left on device"
    assert "Traceback" not in done.stderr


def test_a_full_standard_error(folder: Path) -> None:
    """If standard error is full, the exit code is still right."""
    assert shell("qlb check absent.yaml 2>/dev/full", folder).returncode == 2


@pytest.mark.parametrize("closed", CLOSED)
def test_descriptors(tmp_path: Path, closed: str) -> None:
    """The next opened file gets none of the three numbers, and child processes inherit all three."""
    show = (
        "import os, subprocess, sys\n"
        "from qlb.observe.streams import open_missing_streams\n"
        "open_missing_streams()\n"
        "child = 'import os; [os.fstat(n) for n in range(3)]'\n"
        "code = subprocess.run([sys.executable, '-c', child]).returncode\n"
        "print('to out', flush=True); print('to err', file=sys.stderr, flush=True)\n"
        "open('next', 'w').write(f'{os.open(os.devnull, os.O_RDONLY)} {code} {sys.stdin.read()!r}')\n"
    )
    (tmp_path / "show.py").write_text(show)
    stdin = "" if "<&-" in closed else "</dev/null"
    done = shell(f'"{sys.executable}" show.py {stdin} {closed}', tmp_path)
    assert done.returncode == 0, done.stderr
    number, code, text = (tmp_path / "next").read_text().split()
    assert int(number) > 2
    assert (code, text) == ("0", "''")
    assert done.stdout == ("" if ">&-" in closed.split() else "to out\n")
    assert done.stderr == ("" if "2>&-" in closed else "to err\n")


@pytest.mark.e2e
@pytest.mark.parametrize("closed", CLOSED)
def test_the_daemon(folder: Path, closed: str) -> None:
    """With closed streams, the daemon becomes ready, answers on its control socket, reloads and exits with 0."""
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with notify:
        notify.bind(str(folder / "notify"))
        notify.settimeout(LIMIT_S)
        command = f'exec "{sys.executable}" -m qlb run qlb.yaml {closed}'
        environ = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify")}
        daemon = subprocess.Popen(["sh", "-c", command], cwd=folder, env=environ, stderr=subprocess.DEVNULL)
        try:
            while b"READY=1" not in notify.recv(4096):
                assert daemon.poll() is None
            for word in ("status", "reload"):
                assert shell(f"qlb {word} --socket qlb.sock", folder).returncode == 0
        finally:
            daemon.terminate()
            code = daemon.wait(LIMIT_S)
    assert code == 0
