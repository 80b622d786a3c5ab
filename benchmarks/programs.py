"""Compilation of the C programs in native/. Each benchmark compiles what it needs when it runs."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from qlb.errors import PlaneUnavailable

SOURCES: Final = Path(__file__).with_name("native")
FLAGS: Final = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wshadow")


def compile_program(name: str, folder: Path) -> Path:
    """Compile native/NAME.c into a folder; return the program's path. Raises PlaneUnavailable without cc."""
    compiler = shutil.which("cc")
    if compiler is None:
        raise PlaneUnavailable("no C compiler (cc) is installed")
    program = folder / name
    subprocess.run([compiler, *FLAGS, str(SOURCES / f"{name}.c"), "-o", str(program)], check=True)
    return program
