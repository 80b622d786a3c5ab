"""A short run of the C fuzzer in every test run; ``make fuzz`` runs longer."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lab.dataplane.cc import STRICT
from lab.fuzz import core_seeds

pytestmark = pytest.mark.toolchain

SOURCE = Path(__file__).parents[2] / "lab" / "fuzz" / "fuzz_core.c"
SANITIZERS = ("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")
RUNS = 40_000
SECONDS = 5


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled fuzzer, if clang has its runtimes."""
    if shutil.which("clang") is None:
        pytest.skip("clang is not installed")
    folder = tmp_path_factory.mktemp("fuzzer")
    trial = folder / "trial.c"
    trial.write_text("int LLVMFuzzerTestOneInput(const char *o, unsigned long n) { (void)o, (void)n; return 0; }\n")
    if _clang(trial, folder / "trial").returncode:
        pytest.skip("clang's sanitizer and fuzzer runtimes are not installed (Debian: libclang-rt-dev)")
    built = _clang(SOURCE, folder / "fuzz_core")
    assert built.returncode == 0, built.stderr
    return folder / "fuzz_core"


def _clang(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    # -O0: compiling an optimised fuzzer (8 s) would take longer than a short run.
    words = ["clang", *STRICT, "-g", "-O0", *SANITIZERS, str(source), "-o", str(target)]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def test_a_short_run(fuzzer: Path, tmp_path: Path) -> None:
    """A run finds no access out of bounds, no undefined behaviour and no failed CHECK of fuzz_core.c."""
    core_seeds.write(tmp_path)
    bounds = (f"-runs={RUNS}", f"-max_total_time={SECONDS}", "-seed=1", "-max_len=512")
    done = subprocess.run(
        [str(fuzzer), *bounds, str(tmp_path / "corpus")],
        env={"QLB_FUZZ_TABLE": str(tmp_path / "table")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
