"""A qlb daemon under measurement: start it on the forwarder's core, and read its admin socket."""

import json
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.network import cores, pinned

SOCKET: Final = "qlb.sock"
"""Name of the admin socket in the daemon's folder."""
START_S: Final = 20.0
_POLL_S: Final = 0.02


@contextmanager
def daemon_running(program: str, configuration: dict[str, Any], folder: Path) -> Iterator[None]:
    """Run a qlb program until the end of the block, ready at its beginning. admin.socket must be SOCKET."""
    path = folder / "qlb.yaml"
    path.touch(mode=0o600)
    path.write_text(json.dumps(configuration))  # JSON is YAML too
    with pinned(cores()[0]):
        # In its own folder: in the current one, a worker would import the qlb of this checkout.
        process = subprocess.Popen([program, "run", str(path)], stdin=subprocess.DEVNULL, cwd=folder)
    with process:
        try:
            _wait_until_ready(folder, process)
            yield
        finally:
            process.terminate()


def status(folder: Path) -> dict[str, Any]:
    """Return the daemon's status. Raises OSError if it does not answer."""
    answer: dict[str, Any] = json.loads(_get(folder, "/status"))
    return answer


def metrics(folder: Path) -> dict[str, int]:
    """Return metric name → sum over all its label values."""
    sums: dict[str, int] = {}
    for line in _get(folder, "/metrics").splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            sums[name] = sums.get(name, 0) + int(float(value))
    return sums


def workers(folder: Path) -> list[int]:
    """Return the process IDs of the workers. They forward the packets; the supervisor forwards none."""
    return [worker["pid"] for worker in status(folder)["workers"]]


def _wait_until_ready(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s and process.poll() is None:
        try:
            if status(folder)["ready"]:
                return
        except OSError:
            pass
        time.sleep(_POLL_S)
    raise RuntimeError(f"qlb did not start within {START_S:g} s (exit code {process.poll()})")


def _get(folder: Path, path: str) -> str:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(folder / SOCKET))
        sock.sendall(f"GET {path} HTTP/1.0\r\nHost: qlb\r\n\r\n".encode())
        return b"".join(iter(lambda: sock.recv(65_536), b"")).partition(b"\r\n\r\n")[2].decode()
