"""Version Negotiation packets: the probe that causes one, and the parsing of the answer."""

import pytest
from aioquic.buffer import Buffer  # type: ignore[attr-defined]
from aioquic.quic.packet import QuicPacketType, encode_quic_version_negotiation, pull_quic_header
from hypothesis import given
from hypothesis import strategies as st

from qlb.wire import invariants
from qlb.wire.versions import PROBE_BYTES, PROBE_VERSION, V1, V2, build_probe, is_reserved, parse_version_negotiation

DCID = bytes.fromhex("0102030405060708")
SCID = bytes.fromhex("a1a2a3a4a5")
ANSWER = bytes.fromhex("80 00000000 05 a1a2a3a4a5 08 0102030405060708 00000001 6b3343cf")
CIDS = st.binary(max_size=255)
VERSIONS = st.integers(0, 2**32 - 1)


def test_probe_as_the_invariants_see_it() -> None:
    """The probe is a long header of a reserved version, of the size that servers require."""
    probe = build_probe(DCID, SCID)
    assert len(probe) == PROBE_BYTES == 1200
    assert probe[0] & 0xC0 == 0xC0
    assert invariants.parse(probe) == (invariants.LONG, PROBE_VERSION, DCID, SCID)
    assert is_reserved(PROBE_VERSION)


def test_probe_as_an_independent_stack_sees_it() -> None:
    """A server that parses version 1 before it checks the version finds a complete packet."""
    header = pull_quic_header(Buffer(data=build_probe(DCID, SCID)), host_cid_length=8)
    assert header.packet_type is QuicPacketType.INITIAL
    assert (header.version, header.destination_cid, header.source_cid) == (PROBE_VERSION, DCID, SCID)


def test_probe_size_and_version_can_be_chosen() -> None:
    """The probe has the requested size, but a small size never cuts an ID."""
    assert build_probe(b"", b"", version=0xFACEB00C, size=9) == bytes.fromhex("c0faceb00c00000000")
    assert build_probe(DCID, SCID, size=0) == bytes.fromhex("c01a2a3a4a 08 0102030405060708 05 a1a2a3a4a5")


def test_answer_of_the_specification() -> None:
    """Parsing returns the destination ID, the source ID and every version in order."""
    assert parse_version_negotiation(ANSWER) == (SCID, DCID, (V1, V2))


def test_answer_of_an_independent_stack() -> None:
    """A packet that aioquic encodes is parsed correctly."""
    answer = encode_quic_version_negotiation(source_cid=DCID, destination_cid=SCID, supported_versions=[V2, V1])
    assert parse_version_negotiation(answer) == (SCID, DCID, (V2, V1))


@pytest.mark.parametrize("first_octet", range(256))
def test_only_the_first_bit_counts(first_octet: int) -> None:
    """The other seven bits of the first octet are ignored, because RFC 8999 does not use them."""
    expected = (SCID, DCID, (V1, V2)) if first_octet & 0x80 else None
    assert parse_version_negotiation(bytes((first_octet,)) + ANSWER[1:]) == expected


def test_every_prefix_has_a_result() -> None:
    """Only a packet with one or more complete versions is a Version Negotiation packet."""
    whole = {len(ANSWER) - 4: (V1,), len(ANSWER): (V1, V2)}
    for size in range(len(ANSWER) + 1):
        expected = (SCID, DCID, whole[size]) if size in whole else None
        assert parse_version_negotiation(ANSWER[:size]) == expected


def test_other_versions_are_no_negotiation() -> None:
    """A probe is not mistaken for an answer."""
    assert parse_version_negotiation(build_probe(DCID, SCID)) is None


@given(st.binary(max_size=64), st.sampled_from([b"", b"\x80\0\0\0\0", ANSWER[:20]]))
def test_any_bytes_give_a_result(tail: bytes, head: bytes) -> None:
    """Random octets never raise, and every result consists of octets of the datagram."""
    found = parse_version_negotiation(head + tail)
    if found is not None:
        dcid, scid, versions = found
        assert dcid in head + tail
        assert scid in head + tail
        assert versions


@given(CIDS, CIDS, st.lists(VERSIONS, min_size=1, max_size=5))
def test_written_and_read_back(dcid: bytes, scid: bytes, versions: list[int]) -> None:
    """Encoding and parsing are inverse for all lengths of IDs that the invariants allow, and all versions."""
    header = build_probe(dcid, scid, version=0, size=0)
    listed = b"".join(version.to_bytes(4, "big") for version in versions)
    assert parse_version_negotiation(header + listed) == (dcid, scid, tuple(versions))
