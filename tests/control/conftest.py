"""What every test of a supervisor in this process needs."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Give the logger back the way it was: the supervisor configures it for a whole process."""
    logger = logging.getLogger("qlb")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before
