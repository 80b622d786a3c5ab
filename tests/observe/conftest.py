"""Fixtures of the tests of qlb.observe."""

import pytest

from qlb.observe.reading import Reading
from tests.observe.readings import sample_reading


@pytest.fixture
def reading() -> Reading:
    """A reading with a value in every field."""
    return sample_reading()
