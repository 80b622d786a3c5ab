"""Speech synthesis without a model: a buzz or a hiss, filtered by two resonances, one letter at a time.

It is enough to distinguish the agents: each speaks the last letter of its name (A, B or C) at its own pitch.
"""

import math
import random
from collections.abc import Iterator, Sequence
from itertools import chain
from struct import pack
from typing import Final, NamedTuple

from examples.voice_agent.frames import SAMPLE_RATE, SAMPLES_BYTES

_LOUDNESS: Final = 9_000
_FADE_S: Final = 0.02


class _Sound(NamedTuple):
    """One sound.

    first, second: resonances in Hz, at the beginning and the end. voiced: a buzz, otherwise a hiss.
    """

    length_s: float
    first: tuple[float, float]
    second: tuple[float, float]
    voiced: bool = True


_PAUSE_S: Final = 0.12
_EE: Final = _Sound(0.34, (300, 280), (2200, 2300))
_LETTERS: Final = {
    "a": (_Sound(0.4, (520, 320), (1800, 2250)),),
    "b": (_Sound(0.05, (200, 300), (900, 2000)), _EE),
    "c": (_Sound(0.14, (4500, 4500), (6000, 6000), voiced=False), _EE),
}
_ANY: Final = (_Sound(0.2, (600, 700), (1000, 1200)), _Sound(0.25, (450, 400), (900, 800)))


def say_name(name: str) -> list[bytes]:
    """Return the last letter of a name, twice, as the samples of whole frames."""
    letter = name[-1:].lower()
    pitch_hz = 105 + 35 * (ord(letter or "a") % 5)
    sounds = _LETTERS.get(letter, _ANY)
    silence = [0.0] * int(_PAUSE_S * SAMPLE_RATE)
    spoken = list(chain.from_iterable(_samples(sound, pitch_hz) for sound in sounds))
    return list(_frames([*spoken, *silence, *spoken, *silence]))


def _samples(sound: _Sound, pitch_hz: float) -> Iterator[float]:
    count = int(sound.length_s * SAMPLE_RATE)
    noise = random.Random(1)  # noqa: S311, a hiss needs no secure random numbers
    first, second = _Resonance(90), _Resonance(130)
    for number in range(count):
        part = number / count
        pulse = 1.0 if number * pitch_hz % SAMPLE_RATE < pitch_hz else 0.0
        source = pulse if sound.voiced else noise.uniform(-0.06, 0.06)
        low = first.pass_on(source, _between(sound.first, part))
        high = second.pass_on(source, _between(sound.second, part))
        fade = min(1.0, number / SAMPLE_RATE / _FADE_S, (count - number) / SAMPLE_RATE / _FADE_S)
        yield (low + high) * fade


class _Resonance:
    """A filter with two poles."""

    def __init__(self, width_hz: float) -> None:
        self._radius = math.exp(-math.pi * width_hz / SAMPLE_RATE)
        self._last, self._before = 0.0, 0.0

    def pass_on(self, value: float, centre_hz: float) -> float:
        turn = 2 * self._radius * math.cos(2 * math.pi * centre_hz / SAMPLE_RATE)
        self._before, self._last = self._last, value + turn * self._last - self._radius**2 * self._before
        return self._last


def _between(ends: tuple[float, float], part: float) -> float:
    return ends[0] + part * (ends[1] - ends[0])


def _frames(samples: Sequence[float]) -> Iterator[bytes]:
    peak = max(map(abs, samples))
    octets = b"".join(pack("<h", round(sample / peak * _LOUDNESS)) for sample in samples)
    for begin in range(0, len(octets), SAMPLES_BYTES):
        yield octets[begin : begin + SAMPLES_BYTES].ljust(SAMPLES_BYTES, b"\0")
