"""Answers for tests that change addresses: numbered lines, until the test opens a gate.

Such a story is its own proof. A client that has every line in order, all with the same backend's name, and the last
line, has lost nothing and was never on another backend.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

STORY_PATH: Final = "/story/"
TICK_S: Final = 0.2
_LINE_BYTES: Final = 1_500
"""More than a datagram: each line needs two packets."""


class Line(NamedTuple):
    """One line of a story. number: from 0."""

    backend: str
    number: int
    is_last: bool

    def encode(self) -> bytes:
        """Return the line as padded octets."""
        word = "end" if self.is_last else "line"
        return f"{self.backend} {word} {self.number} ".encode().ljust(_LINE_BYTES - 1, b".") + b"\n"


class BrokenStory(AssertionError):
    """A story with a gap, with two backends, or without an end."""


def read_story(body: bytes) -> str:
    """Return the name of the backend that sent the whole story. Raises BrokenStory."""
    lines = body.decode(errors="replace").splitlines()
    backend = lines[0].split(" ")[0] if lines else ""
    expected = [Line(backend, number, number == len(lines) - 1) for number in range(len(lines))]
    if not lines or body != b"".join(line.encode() for line in expected):
        raise BrokenStory(f"{len(body)} octets, {len(lines)} lines, the last one {lines[-1][:60] if lines else ''!r}")
    return backend


class Receipt:
    """A backend's answer to an upload: its name, the size and the digest. complete: set at the upload's end."""

    def __init__(self, backend: str) -> None:
        """Start without data."""
        self.complete = asyncio.Event()
        self._backend = backend
        self._size = 0
        self._digest = hashlib.sha256()

    def add(self, data: bytes) -> None:
        """Add the next piece."""
        self._size += len(data)
        self._digest.update(data)

    def encode(self) -> bytes:
        """Return the receipt as one line."""
        return f"{self._backend} received {self._size} {self._digest.hexdigest()}\n".encode()


def read_receipt(body: bytes, uploaded: bytes) -> str:
    """Return the name of the backend that has received exactly these octets. Raises BrokenStory."""
    backend = body.decode(errors="replace").split(" ")[0]
    expected = Receipt(backend)
    expected.add(uploaded)
    if body != expected.encode():
        raise BrokenStory(f"the receipt says {body!r}, not {expected.encode()!r}")
    return backend


def split(answer: bytes) -> tuple[bytes, bytes]:
    """Split a story from the receipt in its last line."""
    story, _, receipt = answer.removesuffix(b"\n").rpartition(b"\n")
    return story + b"\n", receipt + b"\n"


class Gates:
    """One gate for each story, by name. A gate is closed until the test opens it."""

    def __init__(self, tick_s: float = TICK_S) -> None:
        """tick_s: seconds between two lines."""
        self._tick_s = tick_s
        self._events: dict[str, asyncio.Event] = {}

    def open(self, name: str) -> None:
        """Open the gate, so that the story ends."""
        self._event(name).set()

    async def story(self, backend: str, name: str) -> AsyncIterator[Line]:
        """Yield a line each tick until the gate is open, then the last line."""
        gate, number = self._event(name), 0
        while not gate.is_set():
            yield Line(backend, number, is_last=False)
            number += 1
            try:
                await asyncio.wait_for(gate.wait(), self._tick_s)
            except TimeoutError:
                continue
        yield Line(backend, number, is_last=True)

    def _event(self, name: str) -> asyncio.Event:
        return self._events.setdefault(name, asyncio.Event())
