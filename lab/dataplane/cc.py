"""Run the C compilers of this machine, with warnings as errors."""

import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
PLANES: Final = ROOT / "qlb" / "dataplane"
HEADERS: Final = tuple(sorted((PLANES / "core").glob("*.h")))
SOURCES: Final = tuple(sorted((PLANES / "batch").glob("*.c")))

STRICT: Final = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow", "-D_GNU_SOURCE", f"-I{PLANES}")
COMPILERS: Final = ("gcc", "clang")

EVERYTHING: Final = """
#include "core/route.h"
#include "batch/flat.h"
#include "batch/flows.h"

int decide(const struct qlb_view *view, struct qlb_flows *flows, const uint8_t *data, const uint8_t *end,
           const struct qlb_four_tuple *four_tuple);
int decide(const struct qlb_view *view, struct qlb_flows *flows, const uint8_t *data, const uint8_t *end,
           const struct qlb_four_tuple *four_tuple)
{
    return qlb_decide(view, flows, data, end, four_tuple, 0).index;
}
"""
"""The whole core and the user-space headers, in one function."""


def require(*programs: str) -> None:
    """Skip the test unless these programs are installed."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def require_python_headers() -> str:
    """Return the folder of Python.h, or skip the test."""
    folder = sysconfig.get_path("include")
    if not Path(folder, "Python.h").exists():
        pytest.skip("Python.h is not installed")
    return folder


def run(*words: str | Path, source: str | None = None, timeout_s: float = 120) -> str:
    """Run a program and return its output. If it fails, fail the test with the output."""
    done = subprocess.run(
        list(map(str, words)), input=source, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout
