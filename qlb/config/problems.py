"""Problems of a configuration, each with its place, kept until all are found and then told in one go.

A problem that only follows from another one is worse than none: a value whose key was guessed, or that
YAML itself made unreadable, is silenced, so that the operator reads of each mistake once.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from qlb.errors import ConfigError

SHOWN_CHARACTERS: Final = 60
"""A longer value is cut in a message."""
_KEY_LIKE: Final = re.compile(r"[0-9A-Fa-f]{24,}|(?:[0-9A-Fa-f]{2}[:\- ]){11,}[0-9A-Fa-f]{1,2}")
"""Hex of twelve octets or more in one run, or in pairs. A key's, even where it stands in the wrong place."""


class Mark(NamedTuple):
    """A place in the file: line and column, both from 1."""

    line: int
    column: int


START: Final = Mark(1, 1)
"""The place of a problem of the whole file."""


@dataclass(slots=True)
class Problems:
    """What is wrong with one file, in the order in which it was found."""

    path: Path
    _found: dict[tuple[Mark, str], None] = field(default_factory=dict)
    _silenced: set[Mark] = field(default_factory=set)

    def add(self, mark: Mark, text: str) -> None:
        """Keep one problem. text: one line; names the key, shows the value (never a secret's), says what to do."""
        if mark not in self._silenced:
            self._found[mark, text] = None

    def silence(self, mark: Mark) -> None:
        """Drop what is said of this place from now on: it would only follow from what was said before."""
        self._silenced.add(mark)

    def lines(self) -> tuple[str, ...]:
        """Return every problem as ``FILE:LINE:COLUMN: message``, in the order of the file."""
        return tuple(
            f"{self.path}:{mark.line}:{mark.column}: {text}"
            for mark, text in sorted(self._found, key=lambda problem: problem[0])
        )

    def failure(self, mark: Mark, text: str) -> ConfigError:
        """Add a problem after which nothing can be read, and return the error with all, to be raised.

        Not while another exception is handled: that one would go along, and may hold the text, keys included.
        """
        self._found[mark, text] = None
        return ConfigError(*self.lines())

    def raise_if_any(self) -> None:
        """Raise ConfigError with every problem, if there is one."""
        if self._found:
            raise ConfigError(*self.lines())


def masked(text: str) -> str:
    """Blot out what looks like a key in a message that is not ours."""
    return _KEY_LIKE.sub("<not shown>", text)


def shown(text: str) -> str:
    """Write a value the way a message shows it: quoted, on one line, cut, and never what looks like a key."""
    if _KEY_LIKE.search(text):
        return f"<{len(text)} characters that look like a key, not shown>"
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…")
