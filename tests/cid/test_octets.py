"""Keys and server IDs as bytes and as hexadecimal text: both forms mean the same, and errors are exact."""

import pytest

from qlb.cid import CidCodec, CidError, CidGenerator, CidParams
from qlb.cid.octets import octets

KEY = "8f95f09245765f80256934e50c66207f"
PARAMS = CidParams(1, 4, 12, KEY)
SERVER_ID = bytes.fromhex("c0ffee01")


@pytest.mark.parametrize("text", ["c0ffee01", "C0FFEE01", "c0:ff:ee:01", " c0ffee01\n", SERVER_ID])
def test_both_forms_mean_the_same(text: str | bytes) -> None:
    """Text with or without colons, in either case and with the final newline of a file, is equal to the octets."""
    assert octets("server_id", text) == SERVER_ID
    assert CidGenerator(PARAMS, text).server_id == SERVER_ID
    assert CidCodec(PARAMS).decode(CidCodec(PARAMS).encode(text, bytes(12))) == SERVER_ID


@pytest.mark.parametrize("key", [KEY, KEY.upper(), f"{KEY}\n", bytes.fromhex(KEY).hex(":")])
def test_a_key_as_text(key: str) -> None:
    """A key may be the text of a key file, or of the YANG model."""
    assert CidParams(1, 4, 12, key) == CidParams(1, 4, 12, bytes.fromhex(KEY))
    plain = CidParams(1, 4, 12)
    one, other = (CidGenerator(plain, SERVER_ID, nonce_key=k, random_bytes=bytes) for k in (key, bytes.fromhex(KEY)))
    assert one.generate() == other.generate()


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("0xc0ffee01", "remove the 0x ('0xc0ffee01')"),
        ("0XC0", "remove the 0x"),
        ("", "it is empty ('')"),
        ("c0ffee0", "it has 7 digits ('c0ffee0')"),
        ("c0ffee0g", "it has a character that is not a hexadecimal digit ('c0ffee0g')"),
        ("c0 ff ee 01", "it has a character that is not a hexadecimal digit"),
        ("c:0f:fe", "it has 5 digits"),
        ("c:0f:f", "its colons are not between octets"),
        (12, "server_id must be bytes or hexadecimal text, not int"),
        (None, "server_id must be bytes or hexadecimal text, not NoneType"),
        (bytearray(SERVER_ID), "server_id must be bytes or hexadecimal text, not bytearray"),
        ("c0ff", "the server ID has 2 octets, not 4"),
        (b"c0ff00", "the server ID has 6 octets, not 4"),
    ],
)
def test_the_fault_of_a_server_id(value: object, fault: str) -> None:
    """The error names the parameter, the fault and the value."""
    with pytest.raises(CidError) as caught:
        CidGenerator(PARAMS, value)  # type: ignore[arg-type]
    assert fault in str(caught.value)


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (f"0x{KEY}", "key must be hexadecimal text, two digits for each octet: remove the 0x (value not shown)"),
        (f"{KEY[:-1]}g", "it has a character that is not a hexadecimal digit (value not shown)"),
        (KEY[:-1], "it has 31 digits (value not shown)"),
        (KEY[:-2], "key must be 16 octets (AES-128) or 32 hexadecimal digits; digits: 30"),
        (bytes.fromhex(KEY)[1:], "key must be 16 octets (AES-128) or 32 hexadecimal digits; octets: 15"),
        (bytearray(16), "key must be bytes or hexadecimal text, not bytearray"),
    ],
)
def test_the_fault_of_a_key(value: object, fault: str) -> None:
    """The error names the parameter and the fault, and never shows the key."""
    with pytest.raises(CidError) as caught:
        CidParams(1, 4, 12, value)  # type: ignore[arg-type]
    assert fault in str(caught.value)
    assert KEY[:8] not in str(caught.value)
    with pytest.raises(CidError, match=r"^nonce_key must be "):
        CidGenerator(CidParams(1, 4, 12), SERVER_ID, nonce_key=value)  # type: ignore[arg-type]
