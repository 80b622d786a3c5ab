"""Fixtures that several rooms share."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.dataplane.network import Network


@pytest.fixture
def network() -> Iterator[Network]:
    """A small network on loopback."""
    with ExitStack() as stack:
        yield Network(stack)
