"""Run every benchmark: ``python -m benchmarks``."""

import platform
import sys

from benchmarks import core, decide, decode, forward, xdp

print(f"Python {sys.version.split()[0]}, {platform.machine()}, {platform.system()} {platform.release()}")
for benchmark in (decode, decide, core, xdp, forward):
    benchmark.main()
