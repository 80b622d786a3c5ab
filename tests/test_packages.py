"""The packages of a release: their content, their metadata, equal builds, and installations without a compiler."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from lab.dist import Packages, build, check, normalized, write_bill
from qlb import __version__

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())
REPOSITORY: Final = "https://example.org/qlb"
BIN: Final = Path(sys.executable).parent
LIMIT_S: Final = 900
LEAN_BYTES: Final = 200_000
"""Octets of an extension without debug information (106,000); with it there are 500,000."""


def _setup() -> ModuleType:
    """Import setup.py. It builds something only if it is the main module."""
    spec = importlib.util.spec_from_file_location("qlb_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("written", "packaged"),
    [
        ("[a](docs/a.md)", "[a](https://example.org/qlb/blob/v1/docs/a.md)"),
        ("[a](docs/a.md#part)", "[a](https://example.org/qlb/blob/v1/docs/a.md#part)"),
        ("[a](docs/runbooks/)", "[a](https://example.org/qlb/tree/v1/docs/runbooks/)"),
        ("![a](docs/a.png)", "![a](https://example.org/qlb/raw/v1/docs/a.png)"),
        ("[a](https://example.net/)", "[a](https://example.net/)"),
        ("[a](#part)", "[a](#part)"),
        ("[a](mailto:a@example.net)", "[a](mailto:a@example.net)"),
        ("```\n[a](b)\n```\n[a](b)", "```\n[a](b)\n```\n[a](https://example.org/qlb/blob/v1/b)"),
    ],
)
def test_relative_links_become_absolute(written: str, packaged: str) -> None:
    """Links to files of the repository lead to the tag; other links and code blocks stay."""
    assert _setup().with_absolute_links(written, REPOSITORY, "v1") == packaged


def test_the_packaged_readme_has_no_relative_link() -> None:
    """Every link of the README leads somewhere from outside of the repository."""
    text = _setup().readme()
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(targets) > 10
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    assert f"{PROJECT['project']['urls']['Source']}/blob/v{__version__}/docs/operating.md" in targets


@pytest.mark.skipif(sys.platform != "linux", reason="only the linker of Linux gets the option")
def test_the_extension_is_lean_unless_asked_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extension has no debug information, unless CFLAGS has -g, as for `make asan`."""
    monkeypatch.setenv("CFLAGS", "-O3")
    lean = _setup().extension()
    assert ("-g0" in lean.extra_compile_args, lean.extra_link_args) == (True, ["-Wl,-s"])
    monkeypatch.setenv("CFLAGS", "-fsanitize=address -g")
    full = _setup().extension()
    assert ("-g0" in full.extra_compile_args, full.extra_link_args) == (False, [])


def test_a_source_distribution_has_no_trace_of_its_machine(tmp_path: Path) -> None:
    """Owner, umask, order and time of a member do not change the archive; its content and its x bit do."""

    def archive(name: str, members: dict[str, tuple[bytes, int]]) -> bytes:
        with tarfile.open(tmp_path / name, "w:gz") as tar:
            for member, (content, mode) in members.items():
                path = tmp_path / "content"
                path.write_bytes(content)
                path.chmod(mode)
                tar.add(path, member)
        return normalized((tmp_path / name).read_bytes(), 10**9)

    first = archive("a", {"x/b": (b"b", 0o755), "x/a": (b"a", 0o644)})
    assert archive("b", {"x/a": (b"a", 0o600), "x/b": (b"b", 0o700)}) == first
    assert archive("c", {"x/a": (b"a", 0o600), "x/b": (b"b", 0o600)}) != first
    assert archive("d", {"x/a": (b"A", 0o644), "x/b": (b"b", 0o755)}) != first


def test_the_release_workflow_trusts_no_tag_and_has_no_secret() -> None:
    """Each action is pinned to a commit, no step uses a password, and only the publishing job has an identity."""
    text = (ROOT / ".github/workflows/release.yml").read_text()
    workflow = yaml.safe_load(text)
    actions = re.findall(r"uses: (\S+)(.*)", text)
    assert len(actions) > 8
    for action, comment in actions:
        assert re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), action
    assert "secrets." not in text
    assert "password" not in text.replace("there is no password to keep", "")
    assert workflow["permissions"] == {}
    assert [name for name, job in workflow["jobs"].items() if "id-token" in job["permissions"]] == ["publish"]
    assert workflow["jobs"]["publish"]["environment"] == "release"
    assert set(workflow["jobs"]["publish"]["needs"]) == workflow["jobs"].keys() - {"publish"}


@pytest.mark.slow
def test_the_wheels_that_cibuildwheel_would_build() -> None:
    """The section of cibuildwheel is valid and selects one abi3 wheel for each libc and architecture.

    The builds need containers, which this test does not start.
    """
    program = _tool("cibuildwheel")
    done = subprocess.run(
        [program, "--print-build-identifiers", "--platform", "linux", ROOT],
        cwd=ROOT,
        env={**os.environ, "CIBW_ARCHS": "x86_64 aarch64"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == [
        "cp311-manylinux_aarch64",
        "cp311-manylinux_x86_64",
        "cp311-musllinux_aarch64",
        "cp311-musllinux_x86_64",
    ]


def _tool(name: str) -> Path:
    """Return a program of the dist extra; skip if it is not installed."""
    if not (BIN / name).exists():
        pytest.skip(f"no {name}: pip install 'qlb[dist]'")
    return BIN / name


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Return the packages, built as `make dist` does."""
    for name in ("pyproject-build", "auditwheel", "patchelf"):
        _tool(name)
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
    folder = tmp_path_factory.mktemp("index")
    wanted = PROJECT["build-system"]["requires"]
    if subprocess.run([*download, folder, *wanted], capture_output=True, timeout=LIMIT_S, check=False).returncode:
        pytest.skip("no package index can be reached, and a build needs setuptools from one")
    return build(tmp_path_factory.mktemp("dist"))


@pytest.mark.slow
def test_the_packages_contain_what_they_should(packages: Packages) -> None:
    """The source distribution is the repository; the wheel has no sources of the extension, and that one is lean."""
    with tarfile.open(packages.source) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode == 0:
        made = {"PKG-INFO", "setup.cfg"}
        assert {name for name in names if not name.startswith("qlb.egg-info/")} - made == set(tracked.stdout.split())
    with zipfile.ZipFile(packages.wheel) as wheel:
        sizes = {one.filename: one.file_size for one in wheel.infolist()}
        metadata = wheel.read(f"qlb-{__version__}.dist-info/METADATA").decode()
    kinds = {Path(name).suffix for name in sizes if name.startswith("qlb/") and not name.endswith("/")}
    assert kinds == {".py", ".pyi", ".typed", ".so", ".o", ".css", ".html", ".js"}
    assert 0 < sizes["qlb/dataplane/_core.abi3.so"] < LEAN_BYTES
    assert re.fullmatch(rf"qlb-{__version__}-cp311-abi3-(manylinux|musllinux|macosx)_\w+\.whl", packages.wheel.name)
    assert "](docs/" not in metadata
    assert "Description-Content-Type: text/markdown" in metadata


@pytest.mark.slow
def test_the_packages_are_accepted(packages: Packages) -> None:
    """The metadata, the content and the symbols of the extension pass the checks of `make dist`."""
    for name in ("twine", "check-wheel-contents", "abi3audit", "pyroma"):
        _tool(name)
    check(packages)


@pytest.mark.slow
def test_a_second_build_is_equal(packages: Packages, tmp_path: Path) -> None:
    """Two builds of one commit give the same octets, although the second one has another umask."""
    before = os.umask(0o077)
    try:
        again = build(tmp_path)
    finally:
        os.umask(before)
    for one, other in zip(packages, again, strict=True):
        assert one.name == other.name
        assert _hash(one) == _hash(other), one.name


@pytest.mark.slow
def test_the_bill_of_materials_lists_every_library(packages: Packages, tmp_path: Path) -> None:
    """The bill names qlb with its version, and each of its dependencies."""
    _tool("cyclonedx-py")
    target = tmp_path / "bill.json"
    write_bill(packages.wheel, target)
    bill = yaml.safe_load(target.read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["version"]) == ("CycloneDX", __version__)
    found = {canonicalize_name(component["name"]) for component in bill["components"]}
    assert {canonicalize_name(Requirement(text).name) for text in PROJECT["project"]["dependencies"]} <= found


@pytest.fixture(scope="module")
def libraries(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Download the wheels that qlb depends on, as pip is configured here. uv does not read that configuration."""
    folder = tmp_path_factory.mktemp("libraries")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", "--dest", folder, packages.wheel]
    done = subprocess.run(list(map(str, pip)), capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["uv", "pipx"])
def test_the_wheel_installs_without_a_compiler(packages: Packages, libraries: Path, tmp_path: Path, tool: str) -> None:
    """`uv tool install` and `pipx install` give a working qlb, although no program is in PATH."""
    program, bin_folder = _tool(tool), tmp_path / "bin"
    environ = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    environ |= {
        "PATH": str(tmp_path / "nothing"),
        "UV_TOOL_DIR": str(tmp_path / "tools"),
        "UV_TOOL_BIN_DIR": str(bin_folder),
        "PIPX_DEFAULT_BACKEND": "pip",
        "PIPX_HOME": str(tmp_path / "pipx"),
        "PIPX_BIN_DIR": str(bin_folder),
        "PIPX_MAN_DIR": str(tmp_path / "man"),
    }

    def run(*words: str | Path) -> str:
        done = subprocess.run(
            list(map(str, words)), cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=LIMIT_S
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert shutil.which("cc", path=environ["PATH"]) is None
    if tool == "uv":
        offline = ("--offline", "--no-build", "--no-index", "--find-links", libraries)
        run(program, "tool", "install", *offline, "--python", sys.executable, packages.wheel)
    else:
        no_build = "--pip-args=--only-binary=:all:"
        run(program, "install", "--python", sys.executable, no_build, packages.wheel)
    qlb = bin_folder / "qlb"
    assert run(qlb, "--version") == f"qlb, version {__version__}\n"
    run(qlb, "keygen", "keys/1.hex")
    shutil.copy(ROOT / "configs/quickstart.yaml", tmp_path / "edge.yaml")
    plane = "batch" if sys.platform == "linux" else "asyncio"
    assert f"good; 3 backends, plane {plane}" in run(qlb, "check", "edge.yaml")
    assert '"$schema"' in run(qlb, "schema")
