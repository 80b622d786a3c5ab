"""A network with routes and neighbours, for BPF test runs."""

from collections.abc import Iterator

import pytest

from lab.namespace import network_of_its_own
from lab.xdp.scene import Scene, build
from qlb.dataplane.xdp import libbpf


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Set up the network, or skip the test if this process cannot load BPF programs."""
    if lack := libbpf.what_lacks():
        pytest.skip(lack)
    with network_of_its_own():
        build()
        made = Scene()
        try:
            yield made
        finally:
            made.close()
