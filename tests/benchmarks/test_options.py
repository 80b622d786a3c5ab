"""``--help`` of every benchmark program."""

import subprocess
import sys
from pathlib import Path

import pytest

import benchmarks

pytestmark = pytest.mark.slow  # starts a Python process for each program

FOLDER = Path(benchmarks.__file__).parent
PROGRAMS = [
    path
    for path in sorted(FOLDER.rglob("*.py"))
    if path.name == "__main__.py" or "\nif __name__ ==" in path.read_text()
]


def test_every_program_prints_help() -> None:
    """Each benchmark program answers ``--help`` with its usage, and measures nothing."""
    modules = [".".join(path.relative_to(FOLDER.parent).with_suffix("").parts) for path in PROGRAMS]
    assert "benchmarks.xdp" in modules
    running = {
        module: subprocess.Popen(
            [sys.executable, "-m", module.removesuffix(".__main__"), "--help"],
            stdout=subprocess.PIPE,
            text=True,
            cwd=FOLDER.parent,
        )
        for module in modules
    }
    printed = {module: process.communicate(timeout=60)[0] for module, process in running.items()}
    assert {module: process.returncode for module, process in running.items()} == dict.fromkeys(modules, 0)
    assert [
        module for module, text in printed.items() if not text.lower().startswith("usage: python -m benchmarks")
    ] == []
