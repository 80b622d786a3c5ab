"""A network with routes and neighbours, for programs that are only asked."""

from collections.abc import Iterator

import pytest

from lab.namespace import network_of_its_own
from lab.xdp.scene import Scene, build
from qlb.dataplane.xdp import libbpf


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
