"""The requests of a built page to other hosts: there must be none."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

_LOADED: Final = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "object": "data",
    "embed": "src",
}
"""Element → the attribute with the address that a browser loads by itself."""
_FOREIGN: Final = re.compile(r"(?:https?:)?//[^/\s\"')]+", re.IGNORECASE)
_STYLE: Final = re.compile(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)", re.IGNORECASE)


class _Loads(HTMLParser):
    """A reader of the addresses that one page loads."""

    def __init__(self) -> None:
        """Begin without addresses."""
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element loads."""
        self.found += [value for name, value in attrs if value and name == _LOADED.get(tag)]


def foreign_requests(site: Path) -> Iterator[str]:
    """Yield ``file: address`` for each address of another host that a page or a style sheet loads."""
    for path in sorted(site.rglob("*")):
        if path.suffix not in (".html", ".css"):
            continue
        text = path.read_text()
        found = _STYLE.findall(text)
        if path.suffix == ".html":
            reader = _Loads()
            reader.feed(text)
            found += filter(_FOREIGN.match, reader.found)
        yield from (f"{path.relative_to(site)}: {address}" for address in found)
