"""``make docs``: write the pages, and build the site from them. A warning, such as a broken link, is an error."""

import re
import subprocess
import sys
from typing import Final

from lab.site.pages import ROOT, stage

_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_TRACEBACK: Final = re.compile(r"^Traceback .*", re.MULTILINE | re.DOTALL)


def build() -> int:
    """Build the site, and return the exit code of its generator. Its report is printed without colours."""
    stage(ROOT / "build" / "docs")
    command = (sys.executable, "-m", "zensical", "build", "--strict", "--clean")
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(_TRACEBACK.sub("", _COLOUR.sub("", done.stdout)), end="")  # noqa: T201
    if done.returncode == 0:
        print(f"the site is in {ROOT / 'build' / 'site'}: open index.html")  # noqa: T201
    return done.returncode


if __name__ == "__main__":
    sys.exit(build())
