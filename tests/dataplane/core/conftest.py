"""The extension, and skips that name what is missing."""

import importlib
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def core() -> ModuleType:
    """qlb.dataplane._core, which is there if a C compiler was when the package was installed."""
    try:
        return importlib.import_module("qlb.dataplane._core")
    except ImportError:
        pytest.skip("the extension qlb.dataplane._core was not built: no C compiler at installation")
