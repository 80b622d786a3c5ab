"""The fixture that the tests of this room share."""

import pytest

from lab.readings import sample_reading
from qlb.observe.figures import Reading


@pytest.fixture
def reading() -> Reading:
    """A reading with a value in every field."""
    return sample_reading()
