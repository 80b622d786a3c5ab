"""Which plane is chosen, and what is said where it cannot be the one that was asked for."""

import sys
from types import ModuleType

import pytest

from qlb.dataplane import probe
from qlb.errors import PlaneUnavailable


@pytest.fixture
def no_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the C extension, as where qlb was installed without a compiler."""
    monkeypatch.setitem(sys.modules, "qlb.dataplane._core", None)


@pytest.fixture
def not_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an extension in place that has the core and no forwarder, as macOS has."""
    monkeypatch.setitem(sys.modules, "qlb.dataplane._core", ModuleType("qlb.dataplane._core"))


@pytest.fixture
def with_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an extension in place that has all."""
    core = ModuleType("qlb.dataplane._core")
    core.Forwarder = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "qlb.dataplane._core", core)


@pytest.mark.usefixtures("with_extension")
def test_auto_takes_the_fastest() -> None:
    """With the extension it is batch, and there is nothing to say."""
    assert probe.choose("auto", "proxy") == "batch"
    assert probe.passed_over("batch", "proxy") == ""


@pytest.mark.usefixtures("no_extension")
def test_without_a_compiler() -> None:
    """Auto goes on with asyncio and can say why; who insists on batch is told what is missing."""
    assert probe.choose("auto", "proxy") == "asyncio"
    assert "C extension was not built" in probe.passed_over("asyncio", "proxy")
    with pytest.raises(PlaneUnavailable, match="C extension was not built"):
        probe.choose("batch", "proxy")


@pytest.mark.usefixtures("not_linux")
def test_off_linux() -> None:
    """The core may be there and the plane not."""
    assert probe.choose("auto", "proxy") == "asyncio"
    with pytest.raises(PlaneUnavailable, match="not Linux"):
        probe.choose("batch", "proxy")


def test_what_there_is_instead() -> None:
    """A mode or a plane of a later release is refused with the names of this one's."""
    with pytest.raises(PlaneUnavailable, match="there is: proxy"):
        probe.choose("auto", "gue")
    with pytest.raises(PlaneUnavailable, match="batch, asyncio, or auto"):
        probe.choose("xdp", "proxy")


def test_asyncio_is_always_there() -> None:
    """It needs nothing, and who asks for it gets it."""
    assert probe.what_lacks("asyncio") == ""
    assert probe.choose("asyncio", "proxy") == "asyncio"
    assert probe.factory("asyncio").__name__ == "AsyncioPlane"  # type: ignore[attr-defined]
