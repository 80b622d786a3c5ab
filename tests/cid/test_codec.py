"""CidCodec against the draft's text for every pair of lengths, and the freedoms that the draft gives to servers."""

import pickle
import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import cid_oracle as oracle
from qlb.cid import CidCodec, CidError, CidParams, config_id_of

KEY = bytes.fromhex("8f95f09245765f80256934e50c66207f")
CASES = 4
"""Random cases per pair of lengths, each with a new key."""


@pytest.fixture(params=["encrypted", "plaintext"])
def encrypted(request: pytest.FixtureRequest) -> bool:
    """Run the test with and without a key."""
    return bool(request.param == "encrypted")


def _cases(server_id_length: int, nonce_length: int, *, encrypted: bool) -> Iterator[tuple[CidParams, bytes, bytes]]:
    """Yield parameters, server IDs and nonces: first extreme ones, then random ones."""
    dice = random.Random(f"{server_id_length} {nonce_length} {encrypted}")
    fixed = ((b"\0" * server_id_length, b"\0" * nonce_length), (b"\xff" * server_id_length, b"\xff" * nonce_length))
    drawn = tuple((dice.randbytes(server_id_length), dice.randbytes(nonce_length)) for _ in range(CASES))
    for server_id, nonce in (*fixed, *drawn):
        key = dice.randbytes(16) if encrypted else None
        yield CidParams(dice.randrange(7), server_id_length, nonce_length, key), server_id, nonce


@pytest.mark.parametrize(("server_id_length", "nonce_length"), oracle.LEGAL_PAIRS)
class TestEveryPairOfLengths:
    """Laws that hold for all 120 pairs, odd and even, with single-pass, four-pass and plaintext."""

    def test_encode_is_the_drafts(self, server_id_length: int, nonce_length: int, encrypted: bool) -> None:
        """The octets after the first are exactly those that the draft specifies."""
        for params, server_id, nonce in _cases(server_id_length, nonce_length, encrypted=encrypted):
            cid = CidCodec(params).encode(server_id, nonce)
            assert cid[0] >> 5 == params.config_id
            assert cid[1:] == oracle.encode_block(params.key, server_id, nonce)

    def test_decode_is_the_drafts(self, server_id_length: int, nonce_length: int, encrypted: bool) -> None:
        """Any octets decode as the draft says, with and without octets after the block."""
        dice = random.Random(f"{server_id_length} {nonce_length}")
        for params, _, _ in _cases(server_id_length, nonce_length, encrypted=encrypted):
            codec, end = CidCodec(params), params.block_end
            cids = [dice.randbytes(end + extra) for extra in (0, 0, 1, 7, 255 - end)]
            expected = [oracle.decode(params.key, server_id_length, nonce_length, cid) for cid in cids]
            assert [codec.decode(cid) for cid in cids] == [found and found[0] for found in expected]

    def test_decode_undoes_encode(self, server_id_length: int, nonce_length: int, encrypted: bool) -> None:
        """decode() returns the server ID, and a second codec encodes the same nonce to the same block."""
        for params, server_id, nonce in _cases(server_id_length, nonce_length, encrypted=encrypted):
            codec = CidCodec(params)
            cid = codec.encode(server_id, nonce)
            assert codec.decode(cid) == server_id
            assert CidCodec(params).encode(server_id, nonce)[1:] == cid[1:]

    def test_too_short_is_none(self, server_id_length: int, nonce_length: int, encrypted: bool) -> None:
        """Every length below first octet + server ID + nonce decodes to None; that length decodes."""
        codec = CidCodec(CidParams(3, server_id_length, nonce_length, KEY if encrypted else None))
        end = 1 + server_id_length + nonce_length
        assert [codec.decode(bytes(size)) for size in range(end)] == [None] * end

        assert codec.decode(bytes(end)) is not None


@pytest.mark.parametrize("config_id", range(8))
def test_config_id_of_every_first_octet(config_id: int) -> None:
    """The config ID is the first three bits, whatever the other five are."""
    assert {config_id_of(bytes((config_id << 5 | low, 0xFF))) for low in range(32)} == {config_id}


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_decode_encode_is_the_identity(data: st.DataObject) -> None:
    """decode() inverts encode() for any parameters, server ID, nonce, padding and appended octets."""
    server_id_length, nonce_length = data.draw(st.sampled_from(oracle.LEGAL_PAIRS))
    params = CidParams(
        data.draw(st.integers(0, 6)),
        server_id_length,
        nonce_length,
        data.draw(st.none() | st.binary(min_size=16, max_size=16)),
        length_self_encoded=data.draw(st.booleans()),
        cid_length=data.draw(st.integers(1 + server_id_length + nonce_length, 20)),
    )
    server_id = data.draw(st.binary(min_size=server_id_length, max_size=server_id_length))
    nonce = data.draw(st.binary(min_size=nonce_length, max_size=nonce_length))
    codec = CidCodec(params)
    cid = codec.encode(server_id, nonce)
    assert len(cid) == params.cid_length
    assert cid[0] >> 5 == params.config_id
    assert codec.decode(cid + data.draw(st.binary(max_size=30))) == server_id
    assert oracle.decode(params.key, server_id_length, nonce_length, cid) == (server_id, nonce)


@given(st.binary(max_size=255), st.sampled_from(oracle.LEGAL_PAIRS), st.booleans())
@settings(max_examples=150, deadline=None)
def test_any_octets_decode_or_are_too_short(cid: bytes, lengths: tuple[int, int], with_key: bool) -> None:
    """decode() never raises, and its result has the length of a server ID."""
    codec = CidCodec(CidParams(0, *lengths, KEY if with_key else None))
    server_id = codec.decode(cid)
    assert server_id is None if len(cid) < codec.params.block_end else len(server_id or b"") == lengths[0]


def test_config_bits_are_the_callers_business() -> None:
    """The codec decodes the block whatever the first octet contains."""
    codec = CidCodec(CidParams(2, 3, 4, KEY))
    cid = codec.encode(b"abc", b"wxyz")
    assert {codec.decode(bytes([first]) + cid[1:]) for first in range(256)} == {b"abc"}


@pytest.mark.parametrize("cid_length", range(9, 21))
def test_padding_up_to_cid_length_is_random(cid_length: int) -> None:
    """Octets beyond the block come from the random source and are never decoded."""
    asked: list[int] = []

    def random_bytes(size: int) -> bytes:
        asked.append(size)
        return b"\xee" * size

    params = CidParams(1, 4, 4, KEY, cid_length=cid_length)
    cid = CidCodec(params, random_bytes=random_bytes).encode(b"abcd", b"1234")
    assert len(cid) == cid_length
    assert cid[9:] == b"\xee" * (cid_length - 9)
    assert cid[0] == 1 << 5 | 0xEE & 0x1F
    assert sum(asked) == cid_length - 9 + 1


@pytest.mark.parametrize("cid_length", [0, 9, 15, 20])
def test_length_self_encoded_counts_the_padding(cid_length: int) -> None:
    """The low five bits are the number of octets after the first, padding included."""
    params = CidParams(6, 4, 4, KEY, length_self_encoded=True, cid_length=cid_length)
    cid = CidCodec(params).encode(b"abcd", b"1234")
    assert cid[0] == 6 << 5 | len(cid) - 1


def test_free_bits_of_the_first_octet_are_chance() -> None:
    """Without self-encoding all 32 values occur, so the octet does not link two IDs."""
    codec = CidCodec(CidParams(4, 1, 4))
    firsts = {codec.encode(b"a", b"1234")[0] for _ in range(1000)}
    assert firsts == set(range(0b100_00000, 0b101_00000))


@pytest.mark.parametrize(
    ("server_id", "nonce", "text"),
    [
        (b"abc", b"1234", "server ID has 3 octets, not 4"),
        (b"abcde", b"1234", "server ID has 5 octets, not 4"),
        (b"", b"1234", "server ID has 0 octets, not 4"),
        (b"abcd", b"123", "nonce has 3 octets, not 4"),
        (b"abcd", b"12345", "nonce has 5 octets, not 4"),
    ],
)
def test_encode_refuses_wrong_lengths(server_id: bytes, nonce: bytes, text: str, encrypted: bool) -> None:
    """One octet more or less raises an error that names the argument and both lengths."""
    with pytest.raises(CidError, match=text):
        CidCodec(CidParams(0, 4, 4, KEY if encrypted else None)).encode(server_id, nonce)


@pytest.mark.parametrize("params", [CidParams(0, 4, 4), CidParams(1, 4, 12, KEY), CidParams(2, 8, 5, KEY)], ids=repr)
def test_codec_survives_pickling(params: CidParams) -> None:
    """An unpickled codec has the same parameters and creates its own AES contexts."""
    codec = CidCodec(params)
    twin = pickle.loads(pickle.dumps(codec))
    server_id, nonce = bytes(range(params.server_id_length)), bytes(range(params.nonce_length))
    assert twin.params == params
    assert twin.encode(server_id, nonce)[1:] == codec.encode(server_id, nonce)[1:]
    assert twin.decode(codec.encode(server_id, nonce)) == server_id
