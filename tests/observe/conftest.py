"""What the tests of this room share."""

import pytest

from qlb.observe.reading import Reading
from tests.observe.readings import sample_reading


@pytest.fixture
def reading() -> Reading:
    """A reading with something in every field."""
    return sample_reading()
