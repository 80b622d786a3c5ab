"""The pages of the site: those of docs/, some others of the repository, and the generated reference.

Links between pages are relative to the files in the repository, so that they also work there. A link to a file that is
no page leads to a copy of it. A link to something that does not exist raises BrokenLink.
"""

import posixpath
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from lab.site import reference

ROOT: Final = Path(__file__).resolve().parents[2]
_OTHER_PAGES: Final = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "deploy/README.md": "deploy.md",
    "examples/moq/README.md": "examples/moq.md",
    "examples/voice_agent/README.md": "examples/voice-agent.md",
}
"""File in the repository → page, for pages outside docs/."""
_RUNBOOKS: Final = "runbooks/index.md"
_FOLDERS: Final = {
    "deploy": "deploy.md",
    "docs/runbooks": _RUNBOOKS,
    "examples/moq": "examples/moq.md",
    "examples/voice_agent": "examples/voice-agent.md",
}
"""Folder in the repository → the page that describes it."""
_FILES: Final = "files"
"""The folder of the copies."""
_FENCE: Final = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(?<=\]\()([^)\s#]+)")
_FOREIGN: Final = re.compile(r"[a-z][a-z0-9+.-]*:")


class BrokenLink(Exception):
    """A link that leads nowhere."""


def stage(target: Path) -> None:
    """Write every page and every file that a page needs into an empty folder."""
    shutil.rmtree(target, ignore_errors=True)
    placed = _placed()
    for source, page in placed.items():
        if not (ROOT / source).exists():
            continue  # a generated page
        path = target / page
        path.parent.mkdir(parents=True, exist_ok=True)
        if source.endswith(".md"):
            path.write_text(_relinked((ROOT / source).read_text(), source, page, placed, target))
        else:
            shutil.copyfile(ROOT / source, path)
    (target / _RUNBOOKS).write_text("".join(_runbooks()))
    (target / "reference").mkdir()
    for name, text in reference.pages().items():
        (target / "reference" / name).write_text(text)


def _placed() -> dict[str, str]:
    """Return file in the repository → its place on the site: pages, the pictures beside them, and generated pages."""
    docs = ROOT / "docs"
    found = {f"docs/{name}": name for path in sorted(docs.rglob("*.*")) if (name := str(path.relative_to(docs)))}
    generated = {f"docs/{name}": name for name in (_RUNBOOKS, *(f"reference/{name}" for name in reference.PAGES))}
    return found | _OTHER_PAGES | generated


def _runbooks() -> Iterator[str]:
    yield "# Runbooks\n\nAfter reading this page you can choose the runbook for the problem that you have.\n\n"
    for path in sorted((ROOT / "docs" / "runbooks").glob("*.md")):
        title, _, rest = path.read_text().partition("\n")
        first = " ".join(rest.strip().split("\n\n")[0].split())
        yield f"- [{title.removeprefix('# ')}]({path.name}): {first}\n"


def _relinked(text: str, source: str, page: str, placed: Mapping[str, str], target: Path) -> str:
    """Return a page whose links lead to the places of the site."""

    def relink(match: re.Match[str]) -> str:
        link = match[1]
        if _FOREIGN.match(link):
            return link
        found = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
        place = placed.get(found) or _FOLDERS.get(found) or _copied(found, target)
        if place is None:
            raise BrokenLink(f"{source}: {link}")
        return posixpath.relpath(place, posixpath.dirname(page) or ".")

    parts = _FENCE.split(text)
    return "".join(part if number % 2 else _LINK.sub(relink, part) for number, part in enumerate(parts))


def _copied(source: str, target: Path) -> str | None:
    """Copy a file that is no page, and return its place; None if there is no such file."""
    if not (ROOT / source).is_file():
        return None
    place = f"{_FILES}/{source}"
    (target / place).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / source, target / place)
    return place
