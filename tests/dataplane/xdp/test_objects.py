"""The committed BPF objects match their sources, and they are in the package."""

import fnmatch
import shutil
import tomllib
from pathlib import Path

import pytest

from lab.dataplane.cc import require
from lab.xdp import objects


@pytest.mark.parametrize("name", objects.PROGRAMS)
def test_the_object_is_not_stale(name: str) -> None:
    """Each object was compiled from the current sources and flags; otherwise `make bpf` compiles it again."""
    assert objects.recorded()[f"{name}.o"] == objects.fingerprint(name), f"{name}.o is stale: run `make bpf`"
    assert (objects.FOLDER / f"{name}.o").read_bytes()[:4] == b"\x7fELF"


def test_the_hash_covers_headers_that_headers_include(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change in any included project header changes the hash. System headers are not part of it."""
    monkeypatch.setattr(objects, "ROOT", tmp_path)
    monkeypatch.setattr(objects, "FOLDER", tmp_path / "xdp")
    for name, text in (
        ("xdp/some.c", '#include <linux/bpf.h>\n#include "near.h"\n'),
        ("xdp/near.h", '#include "../core/far.h"\n'),
        ("core/far.h", '#include "../xdp/near.h"\n'),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [path.name for path in objects.sources("some")] == ["far.h", "near.h", "some.c"]
    before = objects.fingerprint("some")
    (tmp_path / "core/far.h").write_text("/* another */\n")
    assert objects.fingerprint("some") != before


def test_the_package_contains_the_objects() -> None:
    """The package data in pyproject.toml match every object, so that a wheel contains them."""
    settings = tomllib.loads((objects.ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    patterns = settings["package-data"]["qlb"]
    for path in sorted(objects.FOLDER.glob("*.o")):
        assert any(fnmatch.fnmatch(str(path.relative_to(objects.ROOT / "qlb")), pattern) for pattern in patterns)


@pytest.mark.toolchain
@pytest.mark.parametrize("name", objects.PROGRAMS)
def test_it_compiles_without_a_warning(name: str, tmp_path: Path) -> None:
    """Each program compiles with the clang of this machine, with warnings as errors."""
    _require_clang()
    objects.build(name, tmp_path / "made.o")
    assert (tmp_path / "made.o").stat().st_size > 0


@pytest.mark.toolchain
@pytest.mark.parametrize("name", objects.PROGRAMS)
def test_two_builds_are_equal(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One clang makes the same octets from a checkout in another folder, with other times of the files."""
    _require_clang()
    objects.build(name, tmp_path / "first.o")
    shutil.copytree(objects.ROOT / "qlb/dataplane", tmp_path / "elsewhere/qlb/dataplane", copy_function=shutil.copyfile)
    monkeypatch.setattr(objects, "ROOT", tmp_path / "elsewhere")
    monkeypatch.setattr(objects, "FOLDER", tmp_path / "elsewhere/qlb/dataplane/xdp")
    objects.build(name, tmp_path / "second.o")
    assert (tmp_path / "first.o").read_bytes() == (tmp_path / "second.o").read_bytes()


def _require_clang() -> None:
    require("clang", "llvm-strip")
    if not Path("/usr/include/bpf/bpf_helpers.h").exists():
        pytest.skip("libbpf's headers are not installed")
