"""Where deploy/ is, and the tools that check what is in it."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

import pytest

REPOSITORY: Final = Path(__file__).parents[2]
DEPLOY: Final = REPOSITORY / "deploy"
_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/sbin:/sbin"


def tool(name: str, package: str) -> str:
    """Return the path of a program, or skip the test, naming the Debian package that has it."""
    found = shutil.which(name) or shutil.which(name, path=_SYSTEM_PATH)
    if found is None:
        pytest.skip(f"{name} is not installed (Debian: {package})")
    return found


def run(*arguments: str | Path) -> str:
    """Run a program in the repository's root; return all that it prints. It must end with 0."""
    found = subprocess.run(
        [str(one) for one in arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert found.returncode == 0, found.stdout
    return found.stdout
