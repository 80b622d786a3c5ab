"""Fixtures that several test folders share."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from hypothesis import settings

from tests.dataplane.network import Network

# Machines differ in speed, so examples have no deadline. Derandomized examples make failures reproducible.
settings.register_profile("qlb", deadline=None, derandomize=True)
settings.load_profile("qlb")


@pytest.fixture
def network() -> Iterator[Network]:
    """A small network on loopback addresses."""
    with ExitStack() as stack:
        yield Network(stack)
