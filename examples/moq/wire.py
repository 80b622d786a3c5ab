"""Messages of moq-lite-04, as far as a voice agent needs them.

A stream begins with its type, followed by messages. Each message follows its length. A group consists of a header and
frames, on its own unidirectional stream. All numbers are QUIC's variable-length integers, except fields of one octet.

Spec: draft-lcurley-moq-lite-04; RFC 9000, section 16.
"""

from asyncio import IncompleteReadError, StreamReader
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Final, NamedTuple

from aioquic.buffer import Buffer, encode_uint_var  # type: ignore[attr-defined]

ALPN: Final = "moq-lite-04"
MAX_MESSAGE_BYTES: Final = 4096
"""Longer messages are refused before they are buffered. A frame of audio has 658 octets."""
MAX_LATENCY_MS: Final = 60_000
"""Age from which a group may be dropped: long, because all audio must arrive."""

_OK: Final = b"\x00"
_PRIORITY: Final = 128


ANNOUNCE: Final = 1
SUBSCRIBE: Final = 2
"""Types of bidirectional streams."""
GROUP: Final = 0
"""Type of unidirectional streams."""


class Interest(NamedTuple):
    """Request for announcements of all present and future broadcasts with a prefix."""

    prefix: str

    def encode(self) -> bytes:
        """Return the message's octets. No hop is excluded."""
        return _message(_text(self.prefix), _number(0))

    @classmethod
    def decode(cls, message: bytes) -> "Interest":
        """Parse the message. Raises ValueError."""
        return cls(_pull_text(Buffer(data=message)))


class Announcement(NamedTuple):
    """Notice that a broadcast began or ended.

    suffix: its name after the requested prefix. hop: ID of the sender.
    """

    suffix: str
    active: bool
    hop: int = 0

    def encode(self) -> bytes:
        """Return the message's octets, with one hop."""
        return _message(bytes([self.active]), _text(self.suffix), _number(1), _number(self.hop))

    @classmethod
    def decode(cls, message: bytes) -> "Announcement":
        """Parse the message. Raises ValueError."""
        buffer = Buffer(data=message)
        active = buffer.pull_uint8() == 1
        return cls(_pull_text(buffer), active)


class Subscription(NamedTuple):
    """Request for a track from its latest group on. number: the subscriber's number for it."""

    number: int
    broadcast: str
    track: str

    def encode(self) -> bytes:
        """Return the message's octets: groups in order, from the latest on, without an end."""
        preferences = bytes([_PRIORITY, True]) + _number(MAX_LATENCY_MS)
        return _message(_number(self.number), _text(self.broadcast), _text(self.track), preferences, _any_groups())

    @classmethod
    def decode(cls, message: bytes) -> "Subscription":
        """Parse the message. Raises ValueError."""
        buffer = Buffer(data=message)
        return cls(buffer.pull_uint_var(), _pull_text(buffer), _pull_text(buffer))


class GroupHeader(NamedTuple):
    """Header of a group. subscription: number of its subscription."""

    subscription: int
    sequence: int

    def encode(self) -> bytes:
        """Return the message's octets."""
        return _message(_number(self.subscription), _number(self.sequence))

    @classmethod
    def decode(cls, message: bytes) -> "GroupHeader":
        """Parse the message. Raises ValueError."""
        buffer = Buffer(data=message)
        return cls(buffer.pull_uint_var(), buffer.pull_uint_var())


def stream_type(kind: int) -> bytes:
    """Return the first octets of a stream of this type."""
    return _number(kind)


def accepted() -> bytes:
    """Return the answer to an accepted subscription."""
    return _OK + _message(bytes([_PRIORITY, True]) + _number(MAX_LATENCY_MS), _any_groups())


def frame(payload: bytes) -> bytes:
    """Return one frame of a group."""
    return _message(payload)


async def read_number(reader: StreamReader) -> int:
    """Read a variable-length integer. Raises IncompleteReadError if the stream ends first."""
    first = (await reader.readexactly(1))[0]
    rest = await reader.readexactly((1 << (first >> 6)) - 1)
    return int.from_bytes(bytes([first & 0x3F]) + rest)


async def read_message(reader: StreamReader) -> bytes:
    """Read a message. Raises IncompleteReadError if the stream ends first; ValueError if it is too long."""
    length = await read_number(reader)
    if length > MAX_MESSAGE_BYTES:
        raise ValueError(f"a message has at most {MAX_MESSAGE_BYTES} octets, not {length}")
    return await reader.readexactly(length)


async def messages(reader: StreamReader) -> AsyncIterator[bytes]:
    """Yield each message until the stream ends. An incomplete last message is ignored."""
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
