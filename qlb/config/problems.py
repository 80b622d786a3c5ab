"""Problems of a configuration, each with its place, kept until all are found and then told in one go.

A problem that only follows from another one is worse than none: a value whose key was guessed, or that
YAML itself made unreadable, is silenced, so that the operator reads of each mistake once.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Final, NamedTuple

from qlb.errors import ConfigError

SHOWN_CHARACTERS: Final = 60
"""A longer value is cut in a message."""
MAX_SHOWN: Final = 100
"""Problems that are reported one by one; a last line gives the number of the others."""
MAX_COUNTED: Final = 10_000
"""A file with more problems than this is not checked to its end: it would take minutes, and no operator reads them."""
MAX_SUGGESTIONS: Final = 20
"""Different words for which a similar known word is searched: one search takes up to 0.2 ms."""
_MAX_SUGGESTED_CHARACTERS: Final = 40
"""A longer word is no misspelt key."""
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
    kind: str = "problems"
    """Noun in the last line of a long list."""
    _found: dict[tuple[Mark, str], None] = field(default_factory=dict)
    _silenced: set[Mark] = field(default_factory=set)
    _dropped: int = 0
    _suggestions: dict[str, str] = field(default_factory=dict)

    def add(self, mark: Mark, text: str) -> None:
        """Keep one problem. text: one line; names the key, shows the value (never a secret's), says what to do."""
        if mark in self._silenced:
            return
        if len(self._found) < MAX_COUNTED:
            self._found[mark, text] = None
        else:
            self._dropped += 1

    def silence(self, mark: Mark) -> None:
        """Drop what is said of this place from now on: it would only follow from what was said before."""
        self._silenced.add(mark)

    def merge(self, other: "Problems") -> None:
        """Add everything that was found on another reading of the same text."""
        for mark, text in other._found:
            self.add(mark, text)
        self._silenced |= other._silenced
        self._dropped += other._dropped

    def suggestion(self, word: str, known: Iterable[str], cutoff: float) -> str:
        """Return the known word that an unknown one resembles; "" for none, and after MAX_SUGGESTIONS words."""
        if len(word) > _MAX_SUGGESTED_CHARACTERS:
            return ""
        key = f"{word} {sorted(known)}"
        if key not in self._suggestions:
            if len(self._suggestions) >= MAX_SUGGESTIONS:
                return ""
            self._suggestions[key] = next(iter(get_close_matches(word, list(known), 1, cutoff)), "")
        return self._suggestions[key]

    def lines(self) -> tuple[str, ...]:
        """Return the first MAX_SHOWN problems as ``FILE:LINE:COLUMN: message``, in the order of the file.

        A last line, at the position of the first problem that is left out, gives the number of the others.
        """
        found = sorted(self._found, key=lambda problem: problem[0])
        shown = [self._line(mark, text) for mark, text in found[:MAX_SHOWN]]
        if len(found) > MAX_SHOWN:
            left = len(found) - MAX_SHOWN + self._dropped
            at_least = "at least " if self._dropped else ""
            shown.append(self._line(found[MAX_SHOWN][0], f"and {at_least}{left} more {self.kind}"))
        return tuple(shown)

    def _line(self, mark: Mark, text: str) -> str:
        return f"{self.path}:{mark.line}:{mark.column}: {text}"

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

    def raise_if_too_many(self) -> None:
        """Raise ConfigError when more than MAX_COUNTED were found: reading on would only cost time.

        Not while another exception is handled, as with failure().
        """
        if self._dropped:
            raise ConfigError(*self.lines())


def masked(text: str) -> str:
    """Blot out what looks like a key in a message that is not ours."""
    return _KEY_LIKE.sub("<not shown>", text)


def shown(text: str) -> str:
    """Write a value the way a message shows it: quoted, on one line, cut, and never what looks like a key."""
    if _KEY_LIKE.search(text):
        return f"<{len(text)} characters that look like a key, not shown>"
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…")
