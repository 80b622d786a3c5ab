"""Datagrams as a client could send them, written octet by octet. Connection IDs include their first octet."""

from typing import Final

UNKNOWN_VERSION: Final = 0xFACEB00F
V1: Final = 1


def short(dcid: bytes, payload: bytes = b"", *, first_octet: int = 0x40) -> bytes:
    """Return a short header and what follows it. first_octet: fixed bit and all else; the form bit must be 0."""
    return bytes([first_octet]) + dcid + payload


def long(dcid: bytes, scid: bytes = b"", payload: bytes = b"", *, version: int = V1, first_octet: int = 0xC0) -> bytes:
    """Return a long header and what follows it, as RFC 8999 has it. dcid, scid: 0 to 255 octets."""
    ids = b"".join(bytes([len(cid)]) + cid for cid in (dcid, scid))
    return bytes([first_octet]) + version.to_bytes(4, "big") + ids + payload
