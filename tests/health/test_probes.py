"""Tests of the table of probes."""

import sys

import pytest

from qlb.addresses import Endpoint
from qlb.errors import ConfigError
from qlb.health.handshake import probe_handshake
from qlb.health.probe import Target
from qlb.health.probes import PROBES, assume_healthy, find_probe, require_probe
from qlb.health.version_negotiation import probe_version_negotiation


def test_every_row_can_be_imported() -> None:
    """Each row of the table names a probe that exists."""
    assert {name: find_probe(name) for name in PROBES} == {
        "quic": probe_version_negotiation,
        "handshake": probe_handshake,
        "none": assume_healthy,
    }


def test_an_unknown_probe_is_rejected() -> None:
    """The error names the key, the value and the known probes."""
    with pytest.raises(ConfigError) as caught:
        find_probe("ping")
    assert caught.value.problems == (
        "health.probe: this release has no probe ping; known probes: auto, quic, handshake, none",
    )


def test_a_probe_whose_extra_is_missing_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the extra to install."""
    monkeypatch.setitem(sys.modules, "qlb.health.handshake", None)
    with pytest.raises(ConfigError, match=r"handshake needs the aioquic extra: pip install 'qlb\[aioquic\]'"):
        find_probe("handshake")


@pytest.mark.parametrize("module", ["aioquic", "qlb.health.handshake"])
def test_a_probe_is_required_without_being_imported(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """require_probe() returns for every probe that can be imported, and raises as find_probe() does."""
    for name in PROBES:
        require_probe(name)
    with pytest.raises(ConfigError, match="has no probe ping; known probes: auto, quic, handshake, none"):
        require_probe("ping")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"handshake needs the aioquic extra: .*No module named '{module}'"):
        require_probe("handshake")


async def test_none_is_always_healthy() -> None:
    """The probe ``none`` returns a good, final result."""
    result = await assume_healthy(Target("a", Endpoint("192.0.2.1", 1)), 1.0)
    assert result.ok
    assert result.final
