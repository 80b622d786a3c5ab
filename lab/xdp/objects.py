"""``make bpf``: compile the BPF objects of the package, and record the sources of each.

The objects are committed, so that a machine that runs them does not need clang. objects.json has, for each, a hash of
its sources and of the flags. test_objects.py fails if an object was not compiled from the current sources.
"""

import hashlib
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDER: Final = ROOT / "qlb" / "dataplane" / "xdp"
HASHES: Final = FOLDER / "objects.json"
PROGRAMS: Final = ("decap", "program")
"""Each NAME.c in the folder becomes NAME.o."""
FLAGS: Final = (
    *("-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wshadow", "-std=gnu11"),
    "-fdebug-compilation-dir=.",
)
"""-mcpu=v3: 32-bit arithmetic and jumps, which exist since kernel 5.1. -fdebug-compilation-dir=.: BTF names sources by
their path in the repository, so that the same clang makes the same object."""


def sources(name: str) -> list[Path]:
    """Return NAME.c and each of the project's headers that it includes, directly or indirectly, in a fixed order."""
    found, todo = set(), [FOLDER / f"{name}.c"]
    while todo:
        path = todo.pop()
        found.add(path)
        included = re.findall(r'^#include "([^"]+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
        todo += {(path.parent / header).resolve() for header in included} - found
    return sorted(found)


def fingerprint(name: str) -> str:
    """Return the SHA-256, in hexadecimal, of the flags and of each source with its path."""
    whole = hashlib.sha256("\0".join(FLAGS).encode())
    for path in sources(name):
        octets = path.read_bytes()
        whole.update(f"\0{path.relative_to(ROOT).as_posix()}\0{len(octets)}\0".encode() + octets)
    return whole.hexdigest()


def recorded() -> dict[str, str]:
    """Return the recorded hashes."""
    known: dict[str, str] = json.loads(HASHES.read_text(encoding="utf-8")) if HASHES.exists() else {}
    return known


def build(name: str, target: Path) -> None:
    """Compile one object, with BTF as the only debug information. Raises CalledProcessError with clang's stderr."""
    machine = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    source = (FOLDER / f"{name}.c").relative_to(ROOT)
    compiled = ("clang", *FLAGS, machine, "-c", str(source), "-o", str(target))
    for command in (compiled, ("llvm-strip", "-g", str(target))):
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)


def main() -> None:
    """Build all objects and record their hashes."""
    for name in PROGRAMS:
        build(name, FOLDER / f"{name}.o")
    hashes = {f"{name}.o": fingerprint(name) for name in PROGRAMS}
    HASHES.write_text(json.dumps(hashes, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
