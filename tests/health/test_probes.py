"""The table of probes."""

import pytest

from qlb.errors import ConfigError
from qlb.health.negotiation import probe_version_negotiation
from qlb.health.probes import PROBES, assume_healthy, find_probe
from qlb.routing.backends import Endpoint


def test_every_row_can_be_imported() -> None:
    """A name in the table is a probe that is there."""
    assert {name: find_probe(name) for name in PROBES} == {
        "quic": probe_version_negotiation,
        "none": assume_healthy,
    }


@pytest.mark.parametrize("name", ["handshake", "ping"])
def test_a_probe_of_another_release_is_refused(name: str) -> None:
    """The text names the key, the value and what there is instead."""
    with pytest.raises(ConfigError) as caught:
        find_probe(name)
    assert caught.value.problems == (f"health.probe: this release has no probe {name}; there is: quic, none",)


async def test_none_is_healthy_for_good() -> None:
    """No traffic, no second question."""
    result = await assume_healthy(Endpoint("192.0.2.1", 1), 1.0)
    assert result.ok
    assert result.final
