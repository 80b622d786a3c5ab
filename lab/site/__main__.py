"""``make docs``: write the pages, and build the site from them. A warning, such as a broken link, is an error."""

import re
import subprocess
import sys
from typing import Final

from lab.site.pages import ROOT, BrokenLink, stage
from lab.site.requests import foreign_requests

_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_TRACEBACK: Final = re.compile(r"^Traceback .*", re.MULTILINE | re.DOTALL)


def build() -> int:
    """Build the site. Return the exit code: not 0 if there is a warning, or if a page would load from another host."""
    try:
        stage(ROOT / "build" / "docs")
    except BrokenLink as error:
        print(f"broken link: {error}")  # noqa: T201
        return 1
    command = (sys.executable, "-m", "zensical", "build", "--strict", "--clean")
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    print(_TRACEBACK.sub("", _COLOUR.sub("", done.stdout)), end="")  # noqa: T201
    if done.returncode:
        return done.returncode
    site = ROOT / "build" / "site"
    found = list(foreign_requests(site))
    for one in found:
        print(f"loaded from another host: {one}")  # noqa: T201
    if not found:
        print(f"the site is in {site}; to read it: python3 -m http.server -d {site.relative_to(ROOT)}")  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(build())
