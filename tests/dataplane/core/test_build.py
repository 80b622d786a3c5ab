"""The core compiles for every target without a warning, and stays free of libc."""

import re
from pathlib import Path

import pytest

from lab.dataplane.cc import (
    COMPILERS,
    EVERYTHING,
    HEADERS,
    PLANES,
    ROOT,
    SOURCES,
    STRICT,
    require,
    require_python_headers,
    run,
)

pytestmark = pytest.mark.toolchain

ALONE = ("types.h", "aes_tables.h", "aes.h", "constants.h", "outcomes.h", "parse.h", "table.h")
"""Headers that compile without the hooks."""


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("level", ["-O0", "-O3"])
def test_user_space(compiler: str, level: str) -> None:
    """The core compiles as C11 with warnings as errors."""
    require(compiler)
    run(compiler, *STRICT, level, "-x", "c", "-c", "-", "-o", "/dev/null", source=EVERYTHING)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", ALONE)
def test_headers_stand_alone(compiler: str, name: str) -> None:
    """Each header includes all that it needs."""
    require(compiler)
    run(compiler, *STRICT, "-x", "c", "-c", "-", "-o", "/dev/null", source=f'#include "core/{name}"\n')


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_extension(compiler: str) -> None:
    """The sources of qlb.dataplane._core compile with the limited API."""
    require(compiler)
    include = require_python_headers()
    for source in SOURCES:
        run(compiler, *STRICT, "-O2", "-fPIC", f"-isystem{include}", "-c", source, "-o", "/dev/null")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_benchmark(compiler: str) -> None:
    """The loop that benchmarks/core.py compiles has no warnings."""
    require(compiler)
    run(compiler, *STRICT, "-O2", "-c", ROOT / "benchmarks" / "core_loop.c", "-o", "/dev/null")


@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_libc(compiler: str, tmp_path: Path) -> None:
    """The core calls only the functions that a compiler may insert for a copy."""
    require(compiler, "nm")
    run(compiler, *STRICT, "-O2", "-x", "c", "-c", "-", "-o", tmp_path / "core.o", source=EVERYTHING)
    called = set(re.findall(r"U (\w+)", run("nm", "--undefined-only", tmp_path / "core.o")))
    assert called <= {"memcpy", "memset"}


def test_nothing_is_too_long() -> None:
    """No C file has more than 400 lines, so that each is quick to read."""
    for path in (*HEADERS, *SOURCES, *(PLANES / "batch").glob("*.h"), *(PLANES / "xdp").glob("*.[ch]")):
        assert len(path.read_text().splitlines()) <= 400, path


def test_headers_include_only_each_other() -> None:
    """The core includes no libc header except stdint.h, and that only in types.h."""
    for path in HEADERS:
        included = re.findall(r"#include (\S+)", path.read_text())
        foreign = [name for name in included if name.strip('"<>') not in {header.name for header in HEADERS}]
        assert foreign == (["<stdint.h>"] if path.name == "types.h" else [])
