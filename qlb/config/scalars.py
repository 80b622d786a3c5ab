"""Kinds of scalars: numbers, durations, sizes, words and booleans. Names and addresses are in qlb.config.names.

A kind converts the text in the file to a typed value, and describes that text in JSON Schema. It reads strictly: it
never rounds, clamps or guesses. The model puts a kind on a field with Annotated.

qlb treats every scalar as text, but an editor that checks the file with the schema sees YAML's own types: 4, true, or
1e3 as a number. So the schema of a kind allows each type that its texts can be mistaken for. Its $comment names the
kind for people, for example in the reference of the configuration.
"""

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from typing import Final, Generic, TypeVar

from qlb.config.problems import shown

T = TypeVar("T")
W = TypeVar("W")

MAX_WHOLE_DIGITS: Final = 18
_MAX_WORD_CHARACTERS: Final = 40
"""A longer text is not treated as a misspelt word."""

_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h)")
_SIZE: Final = re.compile(r"([0-9]{1,12})(KiB|MiB|GiB)?")
_PER_SECOND: Final = {"ms": (1, 1000), "s": (1, 1), "m": (60, 1), "h": (3600, 1)}
"""Unit → seconds as a fraction, so that 300ms is exactly the float 0.3."""
_OCTETS_PER: Final = {"GiB": 1 << 30, "MiB": 1 << 20, "KiB": 1 << 10}


class Size(int):
    """A number of octets. Its text uses the largest unit that divides it."""

    def __str__(self) -> str:
        """Return the form that the configuration uses: ``4MiB``, ``1000``."""
        unit = next((unit for unit, octets in _OCTETS_PER.items() if self and self % octets == 0), "")
        return f"{self // _OCTETS_PER.get(unit, 1)}{unit}"


class ScalarError(ValueError):
    """A text that a kind cannot read. The message continues after the key: "must be …, not …"."""


@dataclass(frozen=True)
class Scalar(Generic[T]):
    """One kind of scalar. parse: returns the value of a text or raises ScalarError. schema: JSON Schema of the text."""

    parse: Callable[[str], T]
    schema: Mapping[str, object]

    def read(self, text: str) -> T | None:
        """Return the value of a text, or None if the text is invalid."""
        try:
            return self.parse(text)
        except ScalarError:
            return None


def whole_number(low: int, high: int, unit: str = "") -> Scalar[int]:
    """Return the kind of decimal numbers from low to high, both included; ``01`` is 1. unit: for messages only."""
    wanted = f"must be a whole number from {low} to {high}{f' ({unit})' if unit else ''}"

    def parse(text: str) -> int:
        digits = text.isascii() and text.isdecimal() and len(text) <= MAX_WHOLE_DIGITS
        if not digits or not low <= int(text) <= high:
            raise ScalarError(f"{wanted}, not {shown(text)}")
        return int(text)

    return Scalar(parse, {"type": ["integer", "string"], "minimum": low, "maximum": high, "pattern": "^[0-9]{1,18}$"})


def duration(low: str, high: str) -> Scalar[float]:
    """Return the kind of durations from low to high, both included: ``500ms``, ``30s``, ``1.5m``, ``1h``.

    The value is a float in seconds.
    """

    def parse(text: str) -> float:
        seconds = _seconds(text)
        if not _seconds(low) <= seconds <= _seconds(high):
            raise ScalarError(f"must be a duration from {low} to {high}, not {shown(text)}")
        return seconds

    pattern = rf"^{_DURATION.pattern}$"
    return Scalar(parse, {"type": "string", "pattern": pattern, "$comment": f"duration, {low} to {high}"})


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text)
    if match is None:
        hint = f", for example {text}s" if text.isascii() and text.isdecimal() and len(text) < 10 else ""
        raise ScalarError(
            f"must be a number and a unit (500ms, 30s, 5m, 1h), not {shown(text)}" + (hint and f": add the unit{hint}")
        )
    times, parts = _PER_SECOND[match[2]]
    return float(match[1]) * times / parts


def duration_text(seconds: float) -> str:
    """Return a duration in the form of the configuration: whole seconds as ``30s``, others in milliseconds."""
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{seconds * 1000:.10g}ms"


def size(low: str, high: str) -> Scalar[Size]:
    """Return the kind of sizes from low to high, both included: ``4MiB``, ``512KiB``, or ``65536`` in octets."""

    def parse(text: str) -> Size:
        octets = _octets(text)
        if not _octets(low) <= octets <= _octets(high):
            raise ScalarError(f"must be a size from {low} to {high}, not {shown(text)}")
        return octets

    limits = {"minimum": _octets(low), "pattern": f"^{_SIZE.pattern}$"}
    return Scalar(parse, {"type": ["integer", "string"], **limits, "$comment": f"size, {low} to {high}"})


def _octets(text: str) -> Size:
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ScalarError(f"must be a number of octets, or a number with a unit (512KiB, 4MiB), not {shown(text)}")
    return Size(int(match[1]) * _OCTETS_PER.get(match[2], 1))


def choice(values: type[StrEnum] | tuple[str, ...]) -> Scalar[str]:
    """Return the kind of a few words, spelt exactly. For an enum, the value is its member."""
    words = tuple(str(value) for value in values)

    def parse(text: str) -> str:
        if text not in words:
            close = _closest(text.lower(), words) if len(text) <= _MAX_WORD_CHARACTERS else ""
            hint = f"; did you mean {close}?" if close else ""
            raise ScalarError(f"must be one of {', '.join(words)}, not {shown(text)}{hint}")
        return text if isinstance(values, tuple) else values(text)

    return Scalar(parse, {"type": "string", "enum": list(words)})


@functools.lru_cache(maxsize=64)
def _closest(text: str, words: tuple[str, ...]) -> str:
    """Return the word that a text resembles, or "". Cached, because one mistake is often in every backend."""
    return next(iter(get_close_matches(text, words, 1)), "")


def or_word(word: str, value: W, kind: Scalar[T]) -> Scalar[T | W]:
    """Return a kind that also accepts one word, which stands for the value."""

    def parse(text: str) -> T | W:
        if text == word:
            return value
        try:
            return kind.parse(text)
        except ScalarError as error:
            raise ScalarError(f"{error} (or the word {word})") from None

    return Scalar(parse, {"anyOf": [{"const": word}, dict(kind.schema)]})


def _spellings(*words: str) -> frozenset[str]:
    return frozenset(spelling for word in words for spelling in (word, word.capitalize(), word.upper()))


_TRUE: Final = _spellings("true", "yes")
_FALSE: Final = _spellings("false", "no")


def _boolean(text: str) -> bool:
    """Read true, yes, false or no, in lower case, upper case or capitalised. on, off and 1 are invalid."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise ScalarError(f"must be true or false (or yes or no), not {shown(text)}")


BOOLEAN: Final = Scalar(_boolean, {"type": ["boolean", "string"], "enum": [True, False, *sorted(_TRUE | _FALSE)]})
