"""Coverage-guided fuzzing of parser and router: ``python lab/fuzz/fuzz_router.py [-max_total_time=60]``.

It needs atheris, which ``make fuzz`` installs. Without atheris, tests/fuzz/test_router.py feeds the same target.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))


def main() -> None:
    """Run atheris on the target, with every branch of qlb instrumented."""
    import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]

    with atheris.instrument_imports(include=["qlb"]):
        from lab.fuzz.target import Target
    target = Target()
    atheris.Setup(sys.argv, lambda plan: target.feed(plan) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
