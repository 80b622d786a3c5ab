"""Build the C core and the batch plane as an optional extension, which pyproject.toml cannot describe.

If there is no compiler or the build fails, the package installs without the extension and forwards on the asyncio
plane. The extension uses the limited API, so one build works with every CPython from 3.11 on. Free-threaded builds
of CPython do not support this limited API and get no extension.
"""

import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup

LIMITED_API = "0x030b0000"
FOLDER = Path("qlb/dataplane")
EVERYWHERE = ("decider.c", "layout.c", "module.c", "router.c")
LINUX = (
    *("forward.c", "gate.c", "inbox.c", "loop.c", "outbox.c", "plane.c"),
    *("ports.c", "reply.c", "session_sockets.c", "sessions.c", "shown.c", "sources.c"),
)
SOURCES = EVERYWHERE + (LINUX if sys.platform == "linux" else ())

core = Extension(
    "qlb.dataplane._core",
    sources=[str(FOLDER / "batch" / name) for name in SOURCES],
    depends=sorted(map(str, FOLDER.glob("*/*.h"))),
    define_macros=[("Py_LIMITED_API", LIMITED_API), ("_GNU_SOURCE", "1")],
    extra_compile_args=["-std=c11", "-O2", "-fvisibility=hidden"],
    py_limited_api=True,
    optional=True,
)

if sysconfig.get_config_var("Py_GIL_DISABLED"):
    setup()
else:
    setup(ext_modules=[core], options={"bdist_wheel": {"py_limited_api": "cp311"}})
