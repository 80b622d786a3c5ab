"""Tests of the messages of moq-lite-04: encoding, decoding and rejection."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.moq.wire import (
    MAX_MESSAGE_BYTES,
    Announcement,
    GroupHeader,
    Interest,
    Subscription,
    accepted,
    frame,
    messages,
    read_message,
    read_number,
    stream_type,
)

NUMBERS = st.integers(0, 2**62 - 1)


def stream(*octets: bytes) -> asyncio.StreamReader:
    """Return a stream that ends after these octets."""
    reader = asyncio.StreamReader()
    for piece in octets:
        reader.feed_data(piece)
    reader.feed_eof()
    return reader


@pytest.mark.parametrize(
    ("sent", "octets"),
    [
        (Interest("").encode(), "02 00 00"),
        (Announcement("agent-a", True, 5).encode(), "0b 01 07 6167656e742d61 01 05"),
        (Subscription(3, "b", "voice").encode(), "11 03 01 62 05 766f696365 80 01 8000ea60 00 00"),
        (GroupHeader(3, 300).encode(), "03 03 412c"),
        (accepted(), "00 08 80 01 8000ea60 00 00"),
        (frame(b"abc"), "03 616263"),
        (stream_type(2), "02"),
    ],
)
def test_the_octets_are_the_drafts(sent: bytes, octets: str) -> None:
    """Encoded messages equal octets written by hand from the draft's layouts."""
    assert sent == bytes.fromhex(octets)


@given(st.text(max_size=40), st.booleans(), NUMBERS, NUMBERS)
async def test_what_is_sent_can_be_read(text: str, active: bool, number: int, sequence: int) -> None:
    """Each message that both sides send decodes to the encoded value."""
    kinds = [
        Interest(text),
        Announcement(text, active),
        Subscription(number, text, text),
        GroupHeader(number, sequence),
    ]
    reader = stream(*(message.encode() for message in kinds))
    assert [type(kind).decode(await read_message(reader)) for kind in kinds] == kinds


@given(st.binary(max_size=64), st.sampled_from([Interest, Announcement, Subscription, GroupHeader]))
def test_any_octets_are_a_message_or_rejected(octets: bytes, kind: type[Interest]) -> None:
    """Any octets decode or raise ValueError, nothing else."""
    try:
        kind.decode(octets)
    except ValueError:
        return


@given(st.binary(max_size=64))
async def test_any_stream_ends(octets: bytes) -> None:
    """Complete messages are returned, an incomplete last one is not, and a number that is too large is rejected."""
    try:
        found = [message async for message in messages(stream(octets))]
    except ValueError:
        return
    assert sum(len(message) + 1 for message in found) <= len(octets)


async def test_a_message_that_is_too_long_is_rejected_early() -> None:
    """A message is rejected by its announced length, before its octets arrive; the error names that length."""
    reader = asyncio.StreamReader()
    reader.feed_data(stream_type(MAX_MESSAGE_BYTES + 1))
    with pytest.raises(ValueError, match="at most 4096 octets, not 4097"):
        await read_message(reader)


@given(NUMBERS)
async def test_numbers_of_all_lengths(number: int) -> None:
    """Numbers of 1, 2, 4 and 8 octets decode to the encoded value."""
    assert await read_number(stream(stream_type(number))) == number
