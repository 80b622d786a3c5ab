"""Run every benchmark: ``python -m benchmarks``.

Runs decode, decide, core, xdp and forward. Each is also a program: ``python -m benchmarks.NAME --help``.
Not included, because they need more time or answer another question: flood, upgrade and voice.
"""

import platform
import sys

from benchmarks import core, decide, decode, forward, xdp
from benchmarks.options import command_line

command_line("benchmarks", __doc__).parse_args()
print(f"Python {sys.version.split()[0]}, {platform.machine()}, {platform.system()} {platform.release()}")
for benchmark in (decode, decide, core, xdp, forward):
    benchmark.main()
