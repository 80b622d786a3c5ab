"""Octets that a caller passes as bytes or as hexadecimal text: keys and server IDs.

Operators copy these values from YAML, JSON and key files, where they are text. So all of `qlb.cid` accepts both forms,
and an error names the parameter, the fault and the remedy. An error never shows a key.
"""

import re
from typing import Final

from qlb.errors import CidError

_HEX: Final = re.compile(r"[0-9A-Fa-f]{2}(?::?[0-9A-Fa-f]{2})*")
"""Two digits for each octet, with or without colons between the octets (RFC 6991, hex-string)."""


def octets(name: str, value: object, *, secret: bool = False) -> bytes:
    """Return the octets of a value: bytes, or text of two hexadecimal digits for each octet.

    Spaces around the text, and colons between octets, are ignored. name: of the parameter. secret: do not show the
    value in errors. Raises CidError.
    """
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise CidError(f"{name} must be bytes or hexadecimal text, not {type(value).__name__}")
    text = value.strip()
    if _HEX.fullmatch(text):
        return bytes.fromhex(text.replace(":", ""))
    shown = "value not shown" if secret else repr(value[:64])
    raise CidError(f"{name} must be hexadecimal text, two digits for each octet: {_fault(text)} ({shown})")


def _fault(text: str) -> str:
    """Return the fault of a text that is not hexadecimal, without a part of the text."""
    digits = text.replace(":", "")
    if text[:2] in ("0x", "0X"):
        return "remove the 0x"
    if not text:
        return "it is empty"
    if re.fullmatch(r"[0-9A-Fa-f]+", digits) is None:
        return "it has a character that is not a hexadecimal digit"
    return f"it has {len(digits)} digits" if len(digits) % 2 else "its colons are not between octets"
