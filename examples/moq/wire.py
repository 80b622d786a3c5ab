"""The messages of moq-lite-04 that a voice agent needs, and nothing else of it.

A stream begins with its type. What follows are messages, each after its length; a group is a header and frames. Groups
go one way, each on a stream of its own. All numbers are QUIC's variable-length integers, unless a field is one octet.

Spec: draft-lcurley-moq-lite-04; RFC 9000, section 16.
"""

from asyncio import IncompleteReadError, StreamReader
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, NamedTuple

from aioquic.buffer import Buffer, encode_uint_var  # type: ignore[attr-defined]

ALPN: Final = "moq-lite-04"
MAX_MESSAGE_BYTES: Final = 4096
"""Longer messages are refused before they are kept; a frame of audio has 658 octets."""
MAX_LATENCY_MS: Final = 60_000
"""So old a group may become before it need not be sent any more: audio that was said is to be heard."""

_OK: Final = b"\x00"
_PRIORITY: Final = 128


ANNOUNCE: Final = 1
SUBSCRIBE: Final = 2
"""Types of streams that are answered."""
GROUP: Final = 0
"""The type of streams that go one way."""


class Interest(NamedTuple):
    """Asks which broadcasts there are below a prefix, now and later."""

    prefix: str

    def encode(self) -> bytes:
        """Return it as it is sent; no hop is excluded."""
        return _message(_text(self.prefix), _number(0))

    @classmethod
    def decode(cls, message: bytes) -> "Interest":
        """Read it. Raises ValueError."""
        return cls(_pull_text(Buffer(data=message)))


class Announcement(NamedTuple):
    """A broadcast has begun or ended. suffix: what follows the prefix that was asked for. hop: who says so."""

    suffix: str
    active: bool
    hop: int = 0

    def encode(self) -> bytes:
        """Return it as it is sent, with one hop."""
        return _message(bytes([self.active]), _text(self.suffix), _number(1), _number(self.hop))

    @classmethod
    def decode(cls, message: bytes) -> "Announcement":
        """Read it. Raises ValueError."""
        buffer = Buffer(data=message)
        active = buffer.pull_uint8() == 1
        return cls(_pull_text(buffer), active)


class Subscription(NamedTuple):
    """Asks for a track from its latest group on. number: the subscriber's name for it."""

    number: int
    broadcast: str
    track: str

    def encode(self) -> bytes:
        """Return it as it is sent: groups in order, from the latest on, without an end."""
        preferences = bytes([_PRIORITY, True]) + _number(MAX_LATENCY_MS)
        return _message(_number(self.number), _text(self.broadcast), _text(self.track), preferences, _any_groups())

    @classmethod
    def decode(cls, message: bytes) -> "Subscription":
        """Read it. Raises ValueError."""
        buffer = Buffer(data=message)
        return cls(buffer.pull_uint_var(), _pull_text(buffer), _pull_text(buffer))


class GroupHeader(NamedTuple):
    """Begins a group. subscription: that it belongs to, by its number."""

    subscription: int
    sequence: int

    def encode(self) -> bytes:
        """Return it as it is sent."""
        return _message(_number(self.subscription), _number(self.sequence))

    @classmethod
    def decode(cls, message: bytes) -> "GroupHeader":
        """Read it. Raises ValueError."""
        buffer = Buffer(data=message)
        return cls(buffer.pull_uint_var(), buffer.pull_uint_var())


def stream_type(kind: int) -> bytes:
    """Return how a stream of this type begins."""
    return _number(kind)


def accepted() -> bytes:
    """Return the answer to a subscription that is served."""
    return _OK + _message(bytes([_PRIORITY, True]) + _number(MAX_LATENCY_MS), _any_groups())


def frame(payload: bytes) -> bytes:
    """Return one frame of a group."""
    return _message(payload)


async def read_number(reader: StreamReader) -> int:
    """Read a variable-length integer. Raises IncompleteReadError where the stream ends before."""
    first = (await reader.readexactly(1))[0]
    rest = await reader.readexactly((1 << (first >> 6)) - 1)
    return int.from_bytes(bytes([first & 0x3F]) + rest)


async def read_message(reader: StreamReader) -> bytes:
    """Read a message. Raises IncompleteReadError where the stream ends before; ValueError where it is too long."""
    length = await read_number(reader)
    if length > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message has {MAX_MESSAGE_BYTES} octets at most, not {length}")
    return await reader.readexactly(length)


async def messages(reader: StreamReader) -> AsyncIterator[bytes]:
    """Yield each message until the stream ends; what is left of one that was broken off counts for nothing."""
    with suppress(IncompleteReadError):
        while True:
            yield await read_message(reader)


def _message(*fields: bytes) -> bytes:
    body = b"".join(fields)
    return _number(len(body)) + body


def _any_groups() -> bytes:
    return _number(0) + _number(0)


def _number(value: int) -> bytes:
    return encode_uint_var(value)


def _text(value: str) -> bytes:
    octets = value.encode()
    return _number(len(octets)) + octets


def _pull_text(buffer: Buffer) -> str:
    return buffer.pull_bytes(buffer.pull_uint_var()).decode()
