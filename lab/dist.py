"""``make dist``: build the packages of a release, check them, and list what an installation contains.

Two builds of one commit are equal, octet for octet: the time of every file is that of the commit (SOURCE_DATE_EPOCH),
and owners and modes are fixed. The wheel is built from the source distribution, so that this
one is known to be complete. The compiler is the machine's own: another one makes another extension.
"""

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path
from typing import Final, NamedTuple

from qlb import __version__

ROOT: Final = Path(__file__).resolve().parents[1]
_BIN: Final = Path(sys.executable).parent
_EXECUTABLE: Final = 0o755
_PLAIN: Final = 0o644
_UMASK: Final = 0o022
"""Of every program that runs: a wheel records the modes of its files."""


class Packages(NamedTuple):
    """The packages of one release. wheel: for this machine and libc, of every CPython from 3.11 on."""

    source: Path
    wheel: Path


def build(target: Path) -> Packages:
    """Build the source distribution, and from it the wheel, in an empty folder. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run("python", "-m", "build", "--sdist", "--outdir", folder, ROOT)
        (unordered,) = folder.glob("*.tar.gz")
        source = target / unordered.name
        source.write_bytes(normalized(unordered.read_bytes(), epoch()))
        with tarfile.open(source) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # none before Python 3.11.4
            archive.extractall(folder)
        (tree,) = (path for path in folder.iterdir() if path.is_dir())
        _run("python", "-m", "build", "--wheel", "--outdir", folder / "wheel", tree)
        (wheel,) = (folder / "wheel").glob("*.whl")
        return Packages(source, _repaired(wheel, target))


def _repaired(wheel: Path, target: Path) -> Path:
    """Give a wheel the tag of the oldest glibc or musl that it runs with, on Linux."""
    if sys.platform != "linux":
        return Path(shutil.copy(wheel, target))
    _run("auditwheel", "repair", "--wheel-dir", target, wheel)
    (repaired,) = target.glob("*.whl")
    return repaired


def epoch() -> int:
    """Return SOURCE_DATE_EPOCH: of the environment, or the time of the commit, or 1980 (the oldest time of a zip)."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    asked = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False)
    return int(asked.stdout) if asked.returncode == 0 and asked.stdout.strip() else 315_532_800


def normalized(archive: bytes, time_s: int) -> bytes:
    """Return a .tar.gz with its members in order, of one time, and without owners and the umask of the machine."""
    octets = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(archive)) as before,
        gzip.GzipFile(fileobj=octets, mode="wb", filename="", mtime=time_s) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as after,
    ):
        for member in sorted(before.getmembers(), key=lambda one: one.name):
            runs = member.isdir() or bool(member.mode & 0o100)
            plain = tarfile.TarInfo(member.name)
            plain.type, plain.linkname, plain.size = member.type, member.linkname, member.size
            plain.mode, plain.mtime = _EXECUTABLE if runs else _PLAIN, time_s
            after.addfile(plain, before.extractfile(member) if member.isreg() else None)
    return octets.getvalue()


def check(packages: Packages) -> None:
    """Check metadata, content, and the symbols of the extension. Raises CalledProcessError with the reason."""
    _run("twine", "check", "--strict", *packages)
    _run("check-wheel-contents", packages.wheel)
    _run("abi3audit", "--strict", packages.wheel)
    _run("pyroma", "--min", "10", packages.source)
    if sys.platform == "linux":
        _run("auditwheel", "show", packages.wheel)


def write_bill(wheel: Path, target: Path) -> None:
    """Write the bill of materials (CycloneDX) of an installation of a wheel. Needs a package index."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder, with_pip=False)
        _run("python", "-m", "pip", "--python", folder, "install", "--quiet", wheel)
        project = ROOT / "pyproject.toml"
        output = ("--output-reproducible", "--output-file", target)
        _run("cyclonedx-py", "environment", "--pyproject", project, *output, folder / "bin" / "python")
    bill = json.loads(target.read_text("utf-8"))
    bill["metadata"]["component"]["version"] = __version__  # which pyproject.toml does not state
    target.write_text(json.dumps(bill, indent=2, sort_keys=True) + "\n", "utf-8")


def _run(program: str, *arguments: str | Path) -> None:
    """Run a program that is installed beside this Python. Its output appears only if it fails."""
    path = f"{_BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    done = subprocess.run(
        [_BIN / program, *arguments],
        env={**os.environ, "PATH": path, "SOURCE_DATE_EPOCH": str(epoch())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        umask=_UMASK,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout)
        done.check_returncode()


def main() -> None:
    """Build and check everything in dist/."""
    target = ROOT / "dist"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    packages = build(target)
    check(packages)
    write_bill(packages.wheel, target / f"{packages.source.name.removesuffix('.tar.gz')}.cdx.json")
    for path in sorted(target.iterdir()):
        sys.stdout.write(f"{path.relative_to(ROOT)}  {path.stat().st_size:,} octets\n")


if __name__ == "__main__":
    main()
