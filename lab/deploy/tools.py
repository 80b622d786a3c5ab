"""The path of deploy/, and the tools that check its files."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

REPOSITORY: Final = Path(__file__).parents[2]
DEPLOY: Final = REPOSITORY / "deploy"
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/sbin:/sbin"


def tool(name: str, package: str) -> str:
    """Return the path of a program, or skip the test and name the Debian package that contains it."""
    found = shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: {package})")
    return found


def run(*arguments: str | Path) -> str:
    """Run a program in the repository's root, check that it exits with 0, and return its output."""
    found = subprocess.run(
        [str(one) for one in arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert found.returncode == 0, found.stdout
    return found.stdout
