"""The choice of the plane, and the message if the requested plane is unavailable."""

import sys
from types import ModuleType
from typing import get_args

import pytest

from lab.dataplane.running import WORKER_PLANES
from qlb.config import rules
from qlb.config.sections import Mode
from qlb.dataplane import planes
from qlb.dataplane.xdp import libbpf
from qlb.errors import PlaneUnavailable


@pytest.fixture
def no_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the C extension, as after an installation without a compiler."""
    monkeypatch.setitem(sys.modules, "qlb.dataplane._core", None)


@pytest.fixture
def not_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the extension by one without the forwarder, as on macOS."""
    monkeypatch.setitem(sys.modules, "qlb.dataplane._core", ModuleType("qlb.dataplane._core"))


@pytest.fixture
def with_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the extension by one with the forwarder."""
    core = ModuleType("qlb.dataplane._core")
    core.Forwarder = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "qlb.dataplane._core", core)


@pytest.mark.usefixtures("with_extension")
def test_auto_takes_the_fastest() -> None:
    """With the extension, auto chooses batch and reports no other plane."""
    assert planes.choose("auto", "proxy") == "batch"
    assert planes.passed_over("batch", "proxy") == ""


@pytest.mark.usefixtures("no_extension")
def test_without_a_compiler() -> None:
    """Without the extension, auto chooses asyncio and gives the reason; a request for batch is an error."""
    assert planes.choose("auto", "proxy") == "asyncio"
    assert "C extension was not built" in planes.passed_over("asyncio", "proxy")
    with pytest.raises(PlaneUnavailable, match="C extension was not built"):
        planes.choose("batch", "proxy")


@pytest.mark.usefixtures("not_linux")
def test_off_linux() -> None:
    """With the core but without the forwarder, auto chooses asyncio and a request for batch is an error."""
    assert planes.choose("auto", "proxy") == "asyncio"
    with pytest.raises(PlaneUnavailable, match="not Linux"):
        planes.choose("batch", "proxy")


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    """An unknown mode or plane, or a plane that lacks the mode, is rejected with the names that exist."""
    with pytest.raises(PlaneUnavailable, match="available: gue, ipip, l2, proxy"):
        planes.choose("auto", "proxy-protocol")
    with pytest.raises(PlaneUnavailable, match="batch, asyncio, xdp, auto"):
        planes.choose("dpdk", "proxy")
    with pytest.raises(PlaneUnavailable, match=r"xdp does not support mode proxy.*: batch, asyncio"):
        planes.choose("xdp", "proxy")


def test_the_configuration_knows_the_modes_of_the_planes() -> None:
    """The rules of the configuration, which cannot import the planes, have the same planes and modes."""
    assert {name: frozenset(modes) for name, modes in rules._MODES.items()} == {
        name: row.modes for name, row in planes.PLANES.items()
    }
    assert set(get_args(Mode)) == frozenset[str]().union(*(row.modes for row in planes.PLANES.values()))


@pytest.mark.parametrize("plane", ["auto", "xdp"])
def test_what_xdp_lacks(monkeypatch: pytest.MonkeyPatch, plane: str) -> None:
    """In the modes of xdp there is no other plane: the error names what is missing."""
    monkeypatch.setattr(libbpf, "what_lacks", lambda: "this process lacks CAP_BPF")
    with pytest.raises(PlaneUnavailable, match="lacks CAP_BPF, and no other plane supports mode gue"):
        planes.choose(plane, "gue")
    assert planes.choose("auto", "proxy") in WORKER_PLANES


def test_asyncio_is_always_there() -> None:
    """The asyncio plane needs nothing and is always available."""
    assert planes.what_lacks("asyncio") == ""
    assert planes.choose("asyncio", "proxy") == "asyncio"
    assert planes.factory("asyncio").__name__ == "AsyncioPlane"  # type: ignore[attr-defined]
