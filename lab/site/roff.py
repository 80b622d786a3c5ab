"""Manual pages in roff, the language of man. Spec: man(7)."""

import re
from collections.abc import Iterable, Iterator
from typing import Final

_SPECIAL: Final = str.maketrans(
    {
        "\\": r"\e",
        "-": r"\-",
        "'": r"\(aq",
        "`": r"\(ga",
        "→": r"\(->",
        "…": "...",
        "×": r"\(mu",
        "“": r"\(lq",
        "”": r"\(rq",
    }
)
_CODE: Final = re.compile(r"`([^`]+)`")


def title(name: str, section: int, source: str) -> str:
    """Return the first lines of a page, whose text has a ragged right margin and no divided words.

    source: the program and its version.
    """
    return f'.TH "{_plain(name.upper())}" "{section}" "" "{_plain(source)}" "qlb manual"\n.nh\n.ad l'


def heading(text: str) -> str:
    """Return the heading of a section."""
    return f'.SH "{_plain(text)}"'


def paragraph(text: str) -> str:
    """Return a paragraph. Text in backticks is bold."""
    return f".PP\n{line(text)}"


def item(term: str, paragraphs: Iterable[str]) -> Iterator[str]:
    """Yield a term with indented paragraphs."""
    yield f".TP\n\\fB{_plain(term)}\\fR"
    for number, text in enumerate(paragraphs):
        yield f".IP\n{line(text)}" if number else line(text)


def line(text: str) -> str:
    """Return running text. Text in backticks is bold."""
    parts = _CODE.split(text)
    written = "".join(f"\\fB{_plain(part)}\\fR" if number % 2 else _plain(part) for number, part in enumerate(parts))
    # A full stop at the start of a line would be a command of roff.
    return f"\\&{written}" if written.startswith(".") else written


def _plain(text: str) -> str:
    return text.translate(_SPECIAL)
