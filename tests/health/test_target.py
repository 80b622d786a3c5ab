"""The backend to which a connection ID leads, and the findings about a wrong ID."""

import pytest

from qlb.addresses import Endpoint
from qlb.cid import CidCodec, CidParams
from qlb.health.probe import Pool, Target

KEY = bytes(range(16))
ONE = CidCodec(CidParams(1, 4, 12, KEY), random_bytes=bytes)
TWO = CidCodec(CidParams(2, 4, 8, KEY[::-1], length_self_encoded=True))
OWN, OTHER, UNOWNED = (b"\xc0\xff\xee" + bytes((n,)) for n in (1, 2, 3))
POOL = Pool({1: ONE, 2: TWO}, {(1, OWN): "a", (1, OTHER): "b", (2, OWN): "a"})
TARGET = Target("a", Endpoint("192.0.2.1", 443), {1: (OWN,), 2: (OWN,)}, POOL)
NONCE = bytes(12)


@pytest.mark.parametrize(
    "cid",
    [ONE.encode(OWN, NONCE), ONE.encode(OWN, NONCE) + b"tail", TWO.encode(OWN, NONCE[:8])],
    ids=["one", "longer", "another config"],
)
def test_its_own(cid: bytes) -> None:
    """A backend's own ID is no mismatch under any of its CID configs, also with octets appended to it."""
    assert TARGET.mismatch(cid) == ""


@pytest.mark.parametrize(
    ("cid", "text"),
    [
        (ONE.encode(OTHER, NONCE), "decodes under config 1 to server ID c0ffee02, b's; expected c0ffee01 (config 1)"),
        (ONE.encode(UNOWNED, NONCE), "to server ID c0ffee03, no backend's (has the server another key?); expected"),
        (b"\x20" + ONE.encode(OWN, NONCE)[1:-1], "is too short for config 1: 16 octets"),
        (b"\x60" + bytes(16), "carries config ID 3, which is not configured here"),
        (
            b"\x60" + bytes(7),
            "not configured here, and has 8 octets instead of 13 or 17: does the server issue QUIC-LB",
        ),
        (
            ONE.encode(UNOWNED, NONCE) + b"\0",
            "no backend's (it has 18 octets instead of 17: has the server other lengths?)",
        ),
        (
            b"\x20" + OWN + NONCE,
            "contains the server ID c0ffee01, a's, in plaintext: the server has no key, but config 1",
        ),
        (b"\x20" + OTHER + NONCE, "contains the server ID c0ffee02, b's, in plaintext"),
        (b"\xe0" + bytes(16), "is of the reserved config 7: the server has no CID config"),
        (TWO.encode(OWN, NONCE[:8]) + b"!", "has 14 octets and encodes 13"),
        (b"", "it uses no connection ID; expected one with server ID c0ffee01 (config 1) or c0ffee01 (config 2)"),
    ],
    ids=[
        *("another's", "no backend's", "too short", "another config", "another config and length", "too long"),
        *("plaintext", "another's plaintext", "reserved", "wrong length", "none"),
    ],
)
def test_a_mismatch_is_named(cid: bytes, text: str) -> None:
    """A finding names the actual and the expected ID, and never a key."""
    finding = TARGET.mismatch(cid)
    assert text in finding
    assert not cid or cid.hex() in finding
    assert KEY.hex() not in finding


def test_a_key_that_this_balancer_does_not_have() -> None:
    """Under a plaintext CID config, the guess about an ID that decodes to no backend is a key on the server."""
    plain = CidCodec(CidParams(1, 4, 12))
    found = Target("a", TARGET.endpoint, {1: (OWN,)}, Pool({1: plain}, {(1, OWN): "a"})).mismatch(
        ONE.encode(OWN, NONCE)
    )
    assert "no backend's (has the server a key? there is none here)" in found


def test_targets_are_equal_without_their_pool() -> None:
    """A reload that only compiles the codecs again makes an equal target. Another server ID makes another one."""
    again = Pool({1: CidCodec(ONE.params), 2: CidCodec(TWO.params)}, dict(POOL.owners))
    assert Target("a", TARGET.endpoint, dict(TARGET.server_ids), again) == TARGET
    assert Target("a", TARGET.endpoint, {1: (OTHER,)}, POOL) != TARGET
