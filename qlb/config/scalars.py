"""Kinds of scalars: numbers, durations, sizes, words and booleans. Names and addresses are in qlb.config.names.

A kind converts the text in the file to a typed value, and describes that text in JSON Schema. It reads strictly: it
never rounds, clamps or guesses. The model puts a kind on a field with Annotated.

qlb treats every scalar as text, but an editor that checks the file with the schema sees YAML's own types: 4, true, or
1e3 as a number. So the schema of a kind allows each type that its texts can be mistaken for. Its $comment names the
kind for people, for example in the reference of the configuration.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from types import MappingProxyType
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
_PART: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?) ?([A-Za-z]{1,12})")
"""A number and a word, which is perhaps the unit of another program."""
_OTHER_UNITS: Final = {
    "s": ("sec", "second"),
    "ms": ("msec", "millisecond", "milli"),
    "m": ("min", "minute"),
    "h": ("hr", "hour"),
    "KiB": ("k", "kb", "kib"),
    "MiB": ("m", "mb", "mib"),
    "GiB": ("g", "gb", "gib"),
}
"""Units of qlb, and how other programs write them, in lower case and without a final s."""


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
            plain = re.sub(r"[,_' ]", "", text)
            is_grouped = plain != text and plain.isascii() and plain.isdecimal() and len(plain) <= MAX_WHOLE_DIGITS
            raise ScalarError(f"{wanted}, not {shown(text)}" + (f": write {plain}" if is_grouped else ""))
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
        raise ScalarError(f"must be a number and a unit (500ms, 30s, 5m, 1h), not {shown(text)}{_duration_hint(text)}")
    times, parts = _PER_SECOND[match[2]]
    return float(match[1]) * times / parts


def _duration_hint(text: str) -> str:
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return f": add the unit, for example {text}s"
    if _DURATION.fullmatch(text.replace(",", ".")):
        return f": write {text.replace(',', '.')}"
    if days := re.fullmatch(r"([0-9]{1,4}) ?d(?:ays?)?", text):
        return f": write {24 * int(days[1])}h"
    parts = _PART.findall(text) if len(text) <= _MAX_WORD_CHARACTERS else []
    units = [unit if unit in _PER_SECOND else _own_unit(unit, _PER_SECOND) for _, unit in parts]
    if not parts or not all(units) or _PART.sub("", text).strip():
        return ""
    if len(parts) == 1:
        return f": write {parts[0][0]}{units[0]}"
    seconds = sum(_seconds(f"{number}{unit}") for (number, _), unit in zip(parts, units, strict=True))
    return f": write {duration_text(seconds)}"


def _own_unit(word: str, units: Iterable[str]) -> str:
    """Return the unit among some that a word of another program means, or ""."""
    lower = word.lower()
    single = lower if len(lower) < 3 else lower.removesuffix("s")
    return next((unit for unit in units if lower == unit.lower() or single in _OTHER_UNITS.get(unit, ())), "")


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
        part = _PART.fullmatch(text)
        unit = _own_unit(part[2], _OCTETS_PER) if part is not None and part[1].isdecimal() else ""
        hint = f": write {part[1]}{unit}" if part is not None and unit else ""
        raise ScalarError(
            f"must be a number of octets, or a number with a unit (512KiB, 4MiB), not {shown(text)}{hint}"
        )
    return Size(int(match[1]) * _OCTETS_PER.get(match[2], 1))


def choice(
    values: type[StrEnum] | tuple[str, ...],
    others: Mapping[str, str] = MappingProxyType({}),
    absent: Mapping[str, str] = MappingProxyType({}),
) -> Scalar[str]:
    """Return the kind of a few words, spelt exactly. For an enum, the value is its member.

    others: words of other programs → the word of qlb, for a suggestion. absent: words that this release does not
    support → the reason.
    """
    words = tuple(str(value) for value in values)

    def parse(text: str) -> str:
        if text not in words:
            close = _closest(text.lower(), words) if len(text) <= _MAX_WORD_CHARACTERS else ""
            close = others.get(text.lower(), close)
            hint = f": {absent[text]}" if text in absent else f"; did you mean {close}?" if close else ""
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
_LIKE_TRUE: Final = frozenset({"on", "1", "y", "t", "enable", "enabled"})
_LIKE_FALSE: Final = frozenset({"off", "0", "n", "f", "disable", "disabled", "none"})


def _boolean(text: str) -> bool:
    """Read true, yes, false or no, in lower case, upper case or capitalised. on, off and 1 are invalid."""
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    word = text.lower()
    hint = ": write true" if word in _LIKE_TRUE else ": write false" if word in _LIKE_FALSE else ""
    raise ScalarError(f"must be true or false (or yes or no), not {shown(text)}{hint}")


BOOLEAN: Final = Scalar(_boolean, {"type": ["boolean", "string"], "enum": [True, False, *sorted(_TRUE | _FALSE)]})
