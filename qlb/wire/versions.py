"""QUIC version numbers, 32 bits each. qlb routes packets of every version; it has names for these."""

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
