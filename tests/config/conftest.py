"""A valid configuration for tests to break, and fixtures that load text."""

from collections.abc import Callable
from pathlib import Path

import pytest

from qlb.config import Loaded, load_text
from qlb.errors import ConfigError

SOUND = """\
listen: ["127.0.0.1:4433"]
cid_configs:
  - config_id: 1
    server_id_length: 4
    nonce_length: 8
    key: "00112233445566778899aabbccddeeff"
backends:
  - name: agent-a
    address: 127.0.0.1:5001
    server_ids: {1: "c0ffee01"}
  - name: agent-b
    address: 127.0.0.1:5002
    server_ids: {1: "c0ffee02"}
"""

Read = Callable[[str], Loaded]
Lines = Callable[[str], tuple[str, ...]]


@pytest.fixture
def sound() -> str:
    """Return a configuration without problems and warnings."""
    return SOUND


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Return a function that loads a text as qlb.yaml in an empty folder."""
    return lambda text: load_text(text, tmp_path / "qlb.yaml")


@pytest.fixture
def problems(read: Read, tmp_path: Path) -> Lines:
    """Return a function that loads a broken text and returns its problems as LINE:COLUMN: message."""

    def find(text: str) -> tuple[str, ...]:
        with pytest.raises(ConfigError) as caught:
            read(text)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None, "another error could contain the input, keys included"
        return _bare(caught.value.problems, tmp_path)

    return find


@pytest.fixture
def warnings(read: Read, tmp_path: Path) -> Lines:
    """Return a function that loads a text and returns its warnings as LINE:COLUMN: message."""
    return lambda text: _bare(read(text).warnings, tmp_path)


def _bare(lines: tuple[str, ...], folder: Path) -> tuple[str, ...]:
    prefix = f"{folder / 'qlb.yaml'}:"
    assert all(line.startswith(prefix) and "\n" not in line for line in lines)
    return tuple(line.removeprefix(prefix) for line in lines)
