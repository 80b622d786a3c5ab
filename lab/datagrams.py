"""Datagrams as a client can send them, built octet by octet. Connection IDs include their first octet."""

from typing import Final

UNKNOWN_VERSION: Final = 0xFACEB00F
V1: Final = 1


def short(dcid: bytes, payload: bytes = b"", *, first_octet: int = 0x40) -> bytes:
    """Return a datagram with a short header. first_octet: fixed bit and the others; the form bit must be 0."""
    return bytes([first_octet]) + dcid + payload


def long(dcid: bytes, scid: bytes = b"", payload: bytes = b"", *, version: int = V1, first_octet: int = 0xC0) -> bytes:
    """Return a datagram with a long header, as in RFC 8999. dcid, scid: 0 to 255 octets."""
    ids = b"".join(bytes([len(cid)]) + cid for cid in (dcid, scid))
    return bytes([first_octet]) + version.to_bytes(4, "big") + ids + payload
