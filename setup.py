"""Build what pyproject.toml cannot describe: the extension, and the README for a package index.

The extension is the C core and the batch plane. It is optional: if there is no compiler or the build fails, the package
installs without it and forwards on the asyncio plane. The extension uses the limited API, so one build works with every
CPython from 3.11 on. Free-threaded builds of CPython do not support this limited API and get no extension.

The README of a package is shown outside of the repository, where its relative links lead nowhere. So the package
contains it with absolute links to the release's tag.
"""

import os
import re
import sys
import sysconfig
import tomllib
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).resolve().parent
LIMITED_API = "0x030b0000"
FOLDER = Path("qlb/dataplane")
EVERYWHERE = ("decider.c", "layout.c", "module.c", "router.c")
LINUX = (
    *("forward.c", "gate.c", "inbox.c", "latency.c", "loop.c", "outbox.c", "plane.c"),
    *("ports.c", "reply.c", "session_sockets.c", "sessions.c", "shown.c", "sources.c"),
)
SOURCES = EVERYWHERE + (LINUX if sys.platform == "linux" else ())
_LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s]+)(\))")
_FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def with_absolute_links(text: str, repository: str, tag: str) -> str:
    """Return Markdown whose relative links lead to the files of a tag. Code blocks remain as they are.

    repository: URL of the repository, as GitHub serves it.
    """

    def absolute(link: re.Match[str]) -> str:
        before, target, after = link.groups()
        if re.match(r"[a-z]+:|#|/", target):
            return link[0]
        kind = "raw" if before.startswith("!") else "tree" if target.endswith("/") else "blob"
        return f"{before}{repository}/{kind}/{tag}/{target}{after}"

    parts = _FENCED.split(text)
    return "".join(part if at % 2 else _LINK.sub(absolute, part) for at, part in enumerate(parts))


def readme() -> str:
    """Return the README with absolute links."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    version = re.search(r'^__version__ = "(.+)"$', (ROOT / "qlb/__init__.py").read_text("utf-8"), re.MULTILINE)
    assert version is not None, "qlb/__init__.py states the version"
    return with_absolute_links((ROOT / "README.md").read_text("utf-8"), project["urls"]["Source"], f"v{version[1]}")


def extension() -> Extension:
    """Return the extension. It has no debug information (0.1 MB in place of 0.5) unless CFLAGS asks for some."""
    is_lean = sys.platform == "linux" and "-g" not in os.environ.get("CFLAGS", "").split()
    return Extension(
        "qlb.dataplane._core",
        sources=[str(FOLDER / "batch" / name) for name in SOURCES],
        depends=sorted(map(str, FOLDER.glob("*/*.h"))),
        define_macros=[("Py_LIMITED_API", LIMITED_API), ("_GNU_SOURCE", "1")],
        extra_compile_args=["-std=c11", "-O2", "-fvisibility=hidden", *(["-g0"] if is_lean else [])],
        extra_link_args=["-Wl,-s"] if is_lean else [],
        py_limited_api=True,
        optional=True,
    )


if __name__ == "__main__":
    text = {"long_description": readme(), "long_description_content_type": "text/markdown"}
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        setup(**text)
    else:
        setup(**text, ext_modules=[extension()], options={"bdist_wheel": {"py_limited_api": "cp311"}})
