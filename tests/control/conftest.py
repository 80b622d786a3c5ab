"""A fixture for all tests that run a supervisor in this process."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Restore the logger after each test, because a supervisor configures it for the whole process."""
    logger = logging.getLogger("qlb")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before
