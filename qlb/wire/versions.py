"""QUIC versions and Version Negotiation from the client's side. qlb routes packets of every version.

A server answers a packet of an unknown version without creating a connection or state, and without keys. So this
exchange is the cheapest proof that a QUIC server is alive. Parsing an answer never raises.

Spec: RFC 8999, section 6; RFC 9000, sections 6 and 17.2.1.
"""

from typing import Final

from qlb.wire import invariants

VERSION_NEGOTIATION = 0x00000000
"""The version field of a Version Negotiation packet. Spec: RFC 8999, section 6."""

V1 = 0x00000001
"""QUIC version 1. Spec: RFC 9000."""

V2 = 0x6B3343CF
"""QUIC version 2. Spec: RFC 9369."""

_RESERVED_PATTERN = 0x0A0A0A0A
_RESERVED_MASK = 0x0F0F0F0F


def is_reserved(version: int) -> bool:
    """Return whether a version matches the pattern 0x?a?a?a?a, which is reserved for exercising negotiation.

    Spec: RFC 9000, section 15.
    """
    return version & _RESERVED_MASK == _RESERVED_PATTERN


def version_name(version: int) -> str:
    """Return a readable name: ``v1``, ``v2``, ``negotiation``, ``reserved 0x...`` or plain hexadecimal."""
    known = {VERSION_NEGOTIATION: "negotiation", V1: "v1", V2: "v2"}
    if version in known:
        return known[version]
    return f"reserved 0x{version:08x}" if is_reserved(version) else f"0x{version:08x}"


def is_retry(first_octet: int, version: int) -> bool:
    """Return whether a long header begins a Retry packet. An unknown version counts as one like version 1.

    Spec: RFC 9000, section 17.2.5; RFC 9369, section 3.2.
    """
    return first_octet >> 4 & 3 == (0 if version == V2 else 3)


PROBE_VERSION: Final = 0x1A2A3A4A
"""A reserved version, which no server supports. Spec: RFC 9000, section 15."""

PROBE_BYTES: Final = 1200
"""Octets of a probe. Servers ignore shorter packets of unknown versions, to avoid amplification.

Spec: RFC 9000, section 5.2.2."""

_FIRST_OCTET: Final = 0xC0
"""Long header, fixed bit, and the type bits of a version 1 Initial. Some servers (aioquic) parse a packet as version 1
before they check its version. With the zeros after the IDs (no token, no payload) it is complete for them too."""
_VERSION_BYTES: Final = 4

Negotiation = tuple[bytes, bytes, tuple[int, ...]]
"""dcid, scid, and the versions that the server supports, in the order of the packet."""


def build_probe(dcid: bytes, scid: bytes, *, version: int = PROBE_VERSION, size: int = PROBE_BYTES) -> bytes:
    """Return a packet that a QUIC server answers with Version Negotiation.

    dcid: 8 to 20 octets, as RFC 9000 requires of a client's first packet. scid: 0 to 20 octets.
    version: 32 bits; the server must not support it. size: octets of the packet, more if the IDs do not fit.
    Spec: RFC 9000, sections 5.2.2 and 6.1.
    """
    header = bytes((_FIRST_OCTET,)) + version.to_bytes(_VERSION_BYTES, "big")
    return (header + _prefixed(dcid) + _prefixed(scid)).ljust(size, b"\0")


def parse_version_negotiation(datagram: bytes) -> Negotiation | None:
    """Return the IDs and versions of a Version Negotiation packet; None if the datagram is not a complete one.

    datagram: any octets. An answer to a probe has the probe's scid as its dcid, and the probe's dcid as its scid.
    A packet without a version, or with a part of one, must be ignored (RFC 8999, section 6), so the result is None.
    Never raises.
    """
    form, version, dcid, scid = invariants.parse(datagram)
    if form != invariants.LONG or version != VERSION_NEGOTIATION:
        return None
    # First octet, version, and the two IDs with their length octets.
    listed = datagram[1 + _VERSION_BYTES + 1 + len(dcid) + 1 + len(scid) :]
    if not listed or len(listed) % _VERSION_BYTES:
        return None
    versions = (listed[at : at + _VERSION_BYTES] for at in range(0, len(listed), _VERSION_BYTES))
    return dcid, scid, tuple(int.from_bytes(version, "big") for version in versions)


def _prefixed(cid: bytes) -> bytes:
    return bytes((len(cid),)) + cid
