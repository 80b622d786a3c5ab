"""Problems of a configuration with their positions, collected so that one run reports them all.

A problem that only follows from another one would mislead. So problems are silenced at the position of a value whose
key was guessed, or that YAML made unreadable. The operator reads of each mistake once.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Final, NamedTuple

from qlb.errors import ConfigError

SHOWN_CHARACTERS: Final = 60
"""Characters of a value that a message shows; a longer value is cut."""
MAX_SHOWN: Final = 100
"""Problems that are reported one by one; a last line gives the number of the others."""
MAX_COUNTED: Final = 10_000
"""Checking stops after this many problems: it would take minutes, and no operator reads them all."""
MAX_SUGGESTIONS: Final = 20
"""Unknown words for which a similar known word is searched; one search takes up to 0.2 ms."""
_MAX_SUGGESTED_CHARACTERS: Final = 40
"""A longer word is not treated as a misspelt key."""
_KEY_LIKE: Final = re.compile(r"[0-9A-Fa-f]{24,}|(?:[0-9A-Fa-f]{2}[:\- ]){11,}[0-9A-Fa-f]{1,2}")
"""Twelve or more octets in hex, without or with separators: possibly a key, even in the wrong place."""


class Mark(NamedTuple):
    """A position in the file: line and column, both from 1."""

    line: int
    column: int


START: Final = Mark(1, 1)
"""The position of a problem of the whole file."""


@dataclass(slots=True)
class Problems:
    """The problems of one file, in the order in which they were found."""

    path: Path
    kind: str = "problems"
    """The noun for the last line of a long list."""
    _found: dict[tuple[Mark, str], None] = field(default_factory=dict)
    _silenced: set[Mark] = field(default_factory=set)
    _dropped: int = 0
    _suggestions: dict[str, str] = field(default_factory=dict)

    def add(self, mark: Mark, text: str) -> None:
        """Add one problem. text: one line that names the key, shows the value (never a secret) and gives a remedy."""
        if mark in self._silenced:
            return
        if len(self._found) < MAX_COUNTED:
            self._found[mark, text] = None
        else:
            self._dropped += 1

    def silence(self, mark: Mark) -> None:
        """Ignore further problems at this position, because they would only follow from an earlier one."""
        self._silenced.add(mark)

    def merge(self, other: "Problems") -> None:
        """Add all problems that another scan of the same text has found."""
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
        """Add a problem that ends the checks; return the error with all problems for the caller to raise.

        Do not call it while another exception is handled: Python would attach that one, and it may contain keys.
        """
        self._found[mark, text] = None
        return ConfigError(*self.lines())

    def raise_if_any(self) -> None:
        """Raise ConfigError with every problem, if there is one."""
        if self._found:
            raise ConfigError(*self.lines())

    def raise_if_too_many(self) -> None:
        """Raise ConfigError if more than MAX_COUNTED problems were found.

        Do not call it while another exception is handled, as with failure().
        """
        if self._dropped:
            raise ConfigError(*self.lines())


def masked(text: str) -> str:
    """Return a message of another library with every text replaced that looks like a key."""
    return _KEY_LIKE.sub("<not shown>", text)


def shown(text: str) -> str:
    """Return a value for a message: quoted, on one line, cut if it is long, and not at all if it looks like a key."""
    if _KEY_LIKE.search(text):
        return f"<{len(text)} characters that look like a key, not shown>"
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…")
