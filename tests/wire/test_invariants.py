"""The parser: any octets have a form, a long header yields its IDs exactly, and version-specific bits do not matter."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlb.wire.invariants import EMPTY, LONG, MAX_ANY_CID_BYTES, SHORT, TRUNCATED, parse
from qlb.wire.versions import V1, V2, is_reserved, version_name


def long_header(first: int, version: int, dcid: bytes, scid: bytes) -> bytes:
    """Return a long header up to the end of its source ID."""
    return bytes([first]) + version.to_bytes(4, "big") + bytes([len(dcid)]) + dcid + bytes([len(scid)]) + scid


@given(
    st.integers(0x80, 0xFF), st.integers(0, 2**32 - 1), st.binary(max_size=255), st.binary(max_size=255), st.binary()
)
def test_long_headers(first: int, version: int, dcid: bytes, scid: bytes, rest: bytes) -> None:
    """A long header parses with IDs of 0 to 255 octets, any version, any low bits and any octets after it."""
    header = long_header(first, version, dcid, scid)
    assert parse(header + rest) == (LONG, version, dcid, scid)


@given(st.binary(max_size=30), st.binary(max_size=30))
def test_every_truncation_of_a_long_header(dcid: bytes, scid: bytes) -> None:
    """A long header that ends early is TRUNCATED, wherever it ends, and yields no IDs."""
    header = long_header(0xC0, V1, dcid, scid)
    for length in range(1, len(header)):
        assert parse(header[:length]) == (TRUNCATED, 0, b"", b"")
    assert parse(header)[0] == LONG


@pytest.mark.parametrize("first", range(0x80))
def test_short_headers(first: int) -> None:
    """Only the first bit makes a header short; the fixed bit may be 0 (RFC 9287). All later octets are returned."""
    assert parse(bytes([first]) + b"octets") == (SHORT, 0, b"octets", b"")
    assert parse(bytes([first])) == (SHORT, 0, b"", b"")


def test_short_header_is_cut_to_the_longest_id() -> None:
    """The parser copies no more octets than the longest ID can have."""
    assert parse(b"\x40" + bytes(65_000)) == (SHORT, 0, bytes(MAX_ANY_CID_BYTES), b"")


def test_coalesced_packets_are_not_split() -> None:
    """Only the first packet of a datagram is parsed, because all share its destination ID."""
    first = long_header(0xC0, V1, b"same", b"client") + b"payload"
    assert parse(first + long_header(0xE0, V2, b"same", b"client") + b"\x40same") == (LONG, V1, b"same", b"client")


def test_empty() -> None:
    """An empty datagram has the form EMPTY."""
    assert parse(b"") == (EMPTY, 0, b"", b"")


@given(st.binary(max_size=600))
def test_any_octets_have_a_form(datagram: bytes) -> None:
    """Parsing never raises, and every ID is a slice of the datagram."""
    form, version, dcid, scid = parse(datagram)
    assert form in (SHORT, LONG, EMPTY, TRUNCATED)
    assert 0 <= version < 2**32
    assert dcid in datagram
    assert scid in datagram


@pytest.mark.parametrize(
    ("version", "name"),
    [(0, "negotiation"), (V1, "v1"), (V2, "v2"), (0x1A2A3A4A, "reserved 0x1a2a3a4a"), (0xFF00001D, "0xff00001d")],
)
def test_version_names(version: int, name: str) -> None:
    """A known version has a name, any other is shown in hexadecimal."""
    assert version_name(version) == name
    assert is_reserved(version) == name.startswith("reserved")
