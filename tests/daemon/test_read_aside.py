"""Reading a configuration aside: a thread and another process give the same result, and nothing raises."""

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qlb.config.load import load
from qlb.config.model import Config
from qlb.daemon import files as module
from qlb.daemon.compiling import JobFailed
from qlb.daemon.files import read, read_aside

LIMIT_S = 240.0
TEXT = """
listen: ["127.0.0.1:4433"]
cid_configs:
  - {config_id: 1, server_id_length: 3, nonce_length: 13, key_file: 1.hex}
backends:
  - {name: a, address: "127.0.0.1:5001", server_ids: {1: ["0a0a0a", "0c0c0c"]}}
  - {name: b, address: "127.0.0.1:5002", weight: 3}
fallback: {hash_key: ffeeddccbbaa99887766554433221100}
"""
aside = pytest.mark.parametrize("limit", [1 << 30, 0], ids=["thread", "process"])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a configuration and its key file. Return the configuration's path."""
    (tmp_path / "1.hex").touch(mode=0o600)
    (tmp_path / "1.hex").write_text("00" * 16)
    file = tmp_path / "qlb.yaml"
    file.write_text(TEXT)
    return file


@pytest.fixture
def running(path: Path) -> Config:
    """Return the running configuration."""
    return load(path).config


@aside
async def test_a_valid_configuration(path: Path, running: Config, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A valid configuration arrives complete, and its mappings are still read-only."""
    monkeypatch.setattr(module, "IN_THREAD_BYTES", limit)
    async with asyncio.timeout(LIMIT_S):
        result = await read_aside(path, running)
    assert result.problems == ()
    assert result.loaded == load(path)
    assert list(result.looks) == [path, path.with_name("1.hex")]
    assert None not in result.looks.values()
    with pytest.raises(TypeError):
        result.loaded.config.backends[0].server_ids[2] = ()  # type: ignore[index, union-attr]


@aside
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text.replace("1.hex", "2.hex"), "2.hex"),
        (lambda text: text.replace("4433", "4434"), "listen cannot change"),
        (lambda _: "listen: [", "not valid YAML"),
    ],
)
async def test_an_invalid_configuration(
    path: Path,
    running: Config,
    limit: int,
    change: Callable[[str], str],
    problem: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An invalid configuration returns its problems and all files that it names, even missing ones, to watch them."""
    monkeypatch.setattr(module, "IN_THREAD_BYTES", limit)
    path.write_text(change(TEXT))
    async with asyncio.timeout(LIMIT_S):
        result = await read_aside(path, running)
    assert result.loaded is None
    assert not result.may_pass
    assert problem in result.problems[0]
    assert path in result.looks
    if "2.hex" in problem:
        assert result.looks[path.with_name("2.hex")] is None


@pytest.mark.parametrize("make", [Path.mkdir, lambda _: None], ids=["folder", "absent"])
async def test_a_missing_configuration(path: Path, running: Config, make: Callable[[Path], None]) -> None:
    """A missing configuration, or a folder in its place, is reported as a problem."""
    path.unlink()
    make(path)
    result = await read_aside(path, running)
    assert "cannot be read" in result.problems[0]


def test_a_problem_of_this_machine_may_pass(path: Path, running: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A problem of this machine may pass without a change of a file, for example when a library is installed."""
    monkeypatch.setitem(sys.modules, "qlb.health.handshake", None)
    path.write_text(TEXT + "health: {probe: handshake}\n")
    result = read(path, running)
    assert (result.loaded, result.may_pass) == (None, True)
    assert "handshake" in result.problems[0]


async def test_a_process_that_fails_may_pass(path: Path, running: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure of the process may pass, for example when memory is free again."""

    async def fail(*_: object) -> None:
        raise JobFailed("it was killed")

    monkeypatch.setattr(module, "IN_THREAD_BYTES", 0)
    monkeypatch.setattr(module, "run_job", fail)
    result = await read_aside(path, running)
    assert (result.loaded, result.may_pass) == (None, True)
    assert result.problems == (f"{path} could not be read: it was killed",)
    assert list(result.looks) == [path]
