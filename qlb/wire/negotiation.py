"""Version Negotiation from the client's side: a packet of an unknown version, and a server's answer to it.

A server answers such a packet from the invariants alone: it makes no connection, keeps no state and uses no
keys. That makes it the cheapest proof that a QUIC server is alive. Reading never raises, whatever the bytes.

Spec: RFC 8999, section 6; RFC 9000, sections 6 and 17.2.1.
"""

from typing import Final

from qlb.wire import invariants
from qlb.wire.versions import VERSION_NEGOTIATION

PROBE_VERSION: Final = 0x1A2A3A4A
"""A reserved version, which no server supports. Spec: RFC 9000, section 15."""

PROBE_BYTES: Final = 1200
"""Servers ignore shorter packets of unknown versions, so as not to amplify. Spec: RFC 9000, section 5.2.2."""

_FIRST_OCTET: Final = 0xC0
"""Long header and fixed bit; where the type of a version 1 packet would be, it says Initial. With the zeros
that follow the IDs (no token, no payload) the packet is whole also to a server that parses it as version 1
before it looks at the version, as aioquic does."""
_VERSION_BYTES: Final = 4

Negotiation = tuple[bytes, bytes, tuple[int, ...]]
"""dcid, scid and the versions that the server supports, in its order."""


def build_probe(dcid: bytes, scid: bytes, *, version: int = PROBE_VERSION, size: int = PROBE_BYTES) -> bytes:
    """Return a packet that any QUIC server answers with Version Negotiation.

    dcid, scid: 0 to 20 octets each, first octet included; the dcid 8 or more, as a first packet's must be.
    version: 32 bits, one that the server does not support. size: octets of the packet; longer if the IDs need it.
    """
    header = bytes((_FIRST_OCTET,)) + version.to_bytes(_VERSION_BYTES, "big")
    return (header + _prefixed(dcid) + _prefixed(scid)).ljust(size, b"\0")


def parse_version_negotiation(datagram: bytes) -> Negotiation | None:
    """Return what a Version Negotiation packet says; None where the datagram is no whole one.

    datagram: any octets. An answer to a probe has the probe's scid as its dcid and the other way round. One
    without versions, or with a part of one, is to be ignored (RFC 8999, section 6), hence None.
    """
    form, version, dcid, scid = invariants.parse(datagram)
    if form != invariants.LONG or version != VERSION_NEGOTIATION:
        return None
    # First octet, version, the two IDs and the octet before each that holds its length.
    listed = datagram[1 + _VERSION_BYTES + 1 + len(dcid) + 1 + len(scid) :]
    if not listed or len(listed) % _VERSION_BYTES:
        return None
    versions = (listed[at : at + _VERSION_BYTES] for at in range(0, len(listed), _VERSION_BYTES))
    return dcid, scid, tuple(int.from_bytes(version, "big") for version in versions)


def _prefixed(cid: bytes) -> bytes:
    return bytes((len(cid),)) + cid
