"""QUIC version numbers, 32 bits each. qlb routes every version; these are the ones that it can name."""

VERSION_NEGOTIATION = 0x00000000
"""The version field of a Version Negotiation packet. Spec: RFC 8999, section 6."""

V1 = 0x00000001
"""QUIC version 1. Spec: RFC 9000."""

V2 = 0x6B3343CF
"""QUIC version 2. Spec: RFC 9369."""

_RESERVED_PATTERN = 0x0A0A0A0A
_RESERVED_MASK = 0x0F0F0F0F


def is_reserved(version: int) -> bool:
    """Say whether a version follows 0x?a?a?a?a, which exists to exercise negotiation.

    Spec: RFC 9000, section 15.
    """
    return version & _RESERVED_MASK == _RESERVED_PATTERN


def version_name(version: int) -> str:
    """Name a version for people: ``v1``, ``v2``, ``negotiation``, ``reserved`` or plain hexadecimal."""
    known = {VERSION_NEGOTIATION: "negotiation", V1: "v1", V2: "v2"}
    if version in known:
        return known[version]
    return f"reserved 0x{version:08x}" if is_reserved(version) else f"0x{version:08x}"
