"""Which plane is chosen, and what is said where it cannot be the one that was asked for."""

import sys
from types import ModuleType

import pytest

from qlb.dataplane import planes as probe
from qlb.dataplane.xdp import libbpf
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
    """A mode or a plane of a later release is refused with the names of this one's; so is a plane in another's mode."""
    with pytest.raises(PlaneUnavailable, match="there is: gue, ipip, l2, proxy"):
        probe.choose("auto", "proxy-protocol")
    with pytest.raises(PlaneUnavailable, match="batch, asyncio, xdp, or auto"):
        probe.choose("dpdk", "proxy")
    with pytest.raises(PlaneUnavailable, match=r"xdp does not forward in mode proxy .*; batch, asyncio does"):
        probe.choose("xdp", "proxy")


@pytest.mark.parametrize("plane", ["auto", "xdp"])
def test_what_xdp_lacks(monkeypatch: pytest.MonkeyPatch, plane: str) -> None:
    """Nothing else forwards in its modes: whoever asks for one is told what is missing."""
    monkeypatch.setattr(libbpf, "what_lacks", lambda: "this process lacks CAP_BPF")
    with pytest.raises(PlaneUnavailable, match="lacks CAP_BPF, and no other plane forwards in mode gue"):
        probe.choose(plane, "gue")
    assert probe.choose("auto", "proxy") in probe.WORKER_PLANES


def test_asyncio_is_always_there() -> None:
    """It needs nothing, and who asks for it gets it."""
    assert probe.what_lacks("asyncio") == ""
    assert probe.choose("asyncio", "proxy") == "asyncio"
    assert probe.factory("asyncio").__name__ == "AsyncioPlane"  # type: ignore[attr-defined]
