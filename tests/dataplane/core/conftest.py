"""The C extension as a fixture. Tests skip if it is missing."""

import importlib
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def core() -> ModuleType:
    """Return qlb.dataplane._core, or skip the test if the extension was not built at installation."""
    try:
        return importlib.import_module("qlb.dataplane._core")
    except ImportError:
        pytest.skip("the extension qlb.dataplane._core was not built: no C compiler at installation")
