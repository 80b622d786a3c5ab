"""A network with routes and neighbours, for programs that are only asked."""

from collections.abc import Iterator

import pytest

from qlb.dataplane.xdp import libbpf
from tests.dataplane.xdp.scene import Scene, build
from tests.namespace import network_of_its_own


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Set it up; skip where the kernel loads no program for this process."""
    if lack := libbpf.what_lacks():
        pytest.skip(lack)
    with network_of_its_own():
        build()
        made = Scene()
        try:
            yield made
        finally:
            made.close()
