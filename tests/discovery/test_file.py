"""A file as a source of backends: it is read after every kind of change."""

from pathlib import Path

import pytest

from qlb.addresses import Endpoint
from qlb.discovery.file import FileSource
from qlb.discovery.source import DiscoveryError
from qlb.errors import ConfigError
from qlb.routing.backends import Backend


def read(path: Path) -> tuple[Backend, ...]:
    """Return a backend for each line. A line that ends in ! is an error."""
    lines = path.read_text().splitlines()
    if any(line.endswith("!") for line in lines):
        raise ConfigError(f"{path}:1:1: wrong")
    return tuple(Backend(line, Endpoint("10.0.0.1", 1)) for line in lines)


async def names(source: FileSource) -> list[str]:
    """Ask the source and return the names of the backends."""
    return [backend.name for backend in (await source.ask()).backends]


async def test_it_is_read_when_it_has_changed(tmp_path: Path) -> None:
    """The source notices a rewritten file, a replaced one, and a changed symbolic link as Kubernetes uses it."""
    path = tmp_path / "pool"
    path.write_text("a\n")
    calls: list[Path] = []

    def counted(path: Path) -> tuple[Backend, ...]:
        calls.append(path)
        return read(path)

    source = FileSource("pool", path, counted)
    assert await names(source) == await names(source) == ["a"]
    assert len(calls) == 1
    path.write_text("a\nb\n")
    assert await names(source) == ["a", "b"]
    (tmp_path / "next").write_text("c\n")
    (tmp_path / "next").replace(path)
    assert await names(source) == ["c"]

    for version, text in (("v1", "d\n"), ("v2", "e\n")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "pool").write_text(text)
    (tmp_path / "data").symlink_to("v1")
    linked = FileSource("pool", tmp_path / "data/pool", read)
    assert await names(linked) == ["d"]
    (tmp_path / "turned").symlink_to("v2")
    (tmp_path / "turned").replace(tmp_path / "data")
    assert await names(linked) == ["e"]


async def test_an_invalid_file_is_an_error_until_it_is_corrected(tmp_path: Path) -> None:
    """Each question about an invalid or missing file raises the error with its position, until the file is valid."""
    path = tmp_path / "pool"
    source = FileSource("pool", path, read)
    with pytest.raises(DiscoveryError, match="No such file"):
        await source.ask()
    path.write_text("a\n")
    assert await names(source) == ["a"]
    path.write_text("a\nb!\n")
    for _ in range(2):
        with pytest.raises(DiscoveryError, match="pool:1:1: wrong"):
            await source.ask()
    path.unlink()
    with pytest.raises(DiscoveryError, match="No such file"):
        await source.ask()
    path.write_text("a\nb\n")
    assert await names(source) == ["a", "b"]


async def test_an_empty_file_is_an_answer(tmp_path: Path) -> None:
    """An empty file is an answer without backends at once."""
    path = tmp_path / "pool"
    path.write_text("a\n")
    source = FileSource("pool", path, read)
    await source.ask()
    path.write_text("")
    assert await names(source) == []
