"""The commands of the runbooks, in the order of the page."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from lab.deploy.tools import REPOSITORY

RUNBOOKS: Final = REPOSITORY / "docs/runbooks"
CONFIG: Final = "/etc/qlb/qlb.yaml"
"""The configuration in every runbook."""
_BLOCK: Final = re.compile(r"^ *```sh\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def lines(path: Path, heading: str = "") -> Iterator[str]:
    """Yield each line of a page's shell blocks, without comments. heading: of the only section to read."""
    text = path.read_text()
    if heading:
        _, found, text = text.partition(f"\n{heading}\n")
        assert found, f"{path.name} has no section {heading}"
        text = text.partition("\n## ")[0]
    for block in _BLOCK.findall(text):
        for line in block.splitlines():
            if command := line.partition("  # ")[0].partition("    # ")[0].strip():
                yield command


def words(line: str) -> list[str]:
    """Return the words of a command as a script runs it: without a terminal, `qlb rotate next` needs --yes."""
    found = shlex.split(line)
    return [*found, "--yes"] if found[:3] == ["qlb", "rotate", "next"] else found
