"""CidParams: every instance is valid, and the key is never shown."""

import pickle
import re
import traceback
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from lab import cid_oracle as oracle
from qlb.cid import CidCodec, CidError, CidGenerator, CidParams
from qlb.errors import QlbError

KEY = bytes.fromhex("8f95f09245765f80256934e50c66207f")
LEGAL: dict[str, Any] = {"config_id": 1, "server_id_length": 4, "nonce_length": 4, "key": KEY}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("config_id", -1),
        ("config_id", 7),
        ("config_id", True),
        ("config_id", "1"),
        ("config_id", 1.0),
        ("server_id_length", 0),
        ("server_id_length", 16),
        ("server_id_length", None),
        ("nonce_length", 3),
        ("nonce_length", 19),
        ("nonce_length", False),
        ("cid_length", 8),
        ("cid_length", 21),
        ("cid_length", -1),
        ("cid_length", None),
        ("key", b""),
        ("key", KEY[:15]),
        ("key", KEY + b"x"),
        ("key", bytearray(KEY)),
    ],
)
def test_each_parameter_has_its_range(field: str, value: object) -> None:
    """A value out of range raises a CidError, also a ValueError, that names the parameter."""
    with pytest.raises(CidError, match=field) as caught:
        CidParams(**{**LEGAL, field: value})
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, QlbError)


@pytest.mark.parametrize(("server_id_length", "nonce_length"), [(15, 5), (2, 18), (10, 10), (15, 18)])
def test_lengths_sum_to_19_at_most(server_id_length: int, nonce_length: int) -> None:
    """The error shows the sum and both names: an ID of QUIC version 1 has at most 20 octets."""
    with pytest.raises(CidError, match=r"server_id_length \+ nonce_length is \d+ octets"):
        CidParams(0, server_id_length, nonce_length)


@pytest.mark.parametrize(("server_id_length", "nonce_length"), oracle.LEGAL_PAIRS)
def test_every_legal_pair_exists(server_id_length: int, nonce_length: int) -> None:
    """The pair determines the lengths; the sum and the key determine the algorithm."""
    sealed = CidParams(0, server_id_length, nonce_length, KEY)
    total = server_id_length + nonce_length
    assert (sealed.plaintext_len, sealed.block_end, sealed.cid_length) == (total, total + 1, total + 1)
    assert sealed.algorithm == ("single-pass" if total == 16 else "four-pass")
    assert CidParams(0, server_id_length, nonce_length).algorithm == "plaintext"


@pytest.mark.parametrize("config_id", range(7))
def test_config_ids_0_to_6(config_id: int) -> None:
    """All config IDs except the reserved 0b111 are accepted."""
    assert CidParams(config_id, 1, 4).config_id == config_id


@pytest.mark.parametrize("cid_length", range(9, 21))
def test_cid_length_from_the_block_to_20(cid_length: int) -> None:
    """Every length from the block to the maximum of QUIC versions 1 and 2 is accepted."""
    assert CidParams(1, 4, 4, cid_length=cid_length).cid_length == cid_length


def test_params_are_frozen_values() -> None:
    """Parameters are immutable and hashable, and equal if their fields are equal."""
    params = CidParams(**LEGAL)
    assert params == CidParams(**LEGAL)
    assert hash(params) == hash(CidParams(**LEGAL))
    assert params != CidParams(**{**LEGAL, "key": bytes(16)})
    with pytest.raises(FrozenInstanceError):
        params.config_id = 2  # type: ignore[misc]


def test_params_survive_pickling() -> None:
    """Parameters can be pickled, because snapshots contain them."""
    params = CidParams(**LEGAL, length_self_encoded=True, cid_length=17)
    assert pickle.loads(pickle.dumps(params)) == params


def _shown(thing: object) -> str:
    return f"{thing!r} {thing} {thing:}".lower()


def _secrets(key: bytes) -> tuple[str, ...]:
    return key.hex(), repr(key).lower(), repr(key)[2:-1].lower(), str(list(key)), str(int.from_bytes(key, "big"))


def test_key_is_never_shown() -> None:
    """Neither parameters nor codec nor generator show the key in any notation."""
    params = CidParams(**LEGAL)
    for thing in (params, CidCodec(params), CidGenerator(params, b"abcd"), {"params": params}):
        assert not any(secret in _shown(thing) for secret in _secrets(KEY))


@pytest.mark.parametrize("bad", [{"config_id": 9}, {"cid_length": 99}, {"key": KEY + b"!"}, {"nonce_length": 0}])
def test_key_is_never_in_an_error(bad: dict[str, Any]) -> None:
    """No error message or traceback contains the key, whichever parameter is rejected."""
    with pytest.raises(CidError) as caught:
        CidParams(**{**LEGAL, **bad})
    text = "".join(traceback.format_exception(caught.value)).lower()
    assert not any(secret in text for secret in (*_secrets(KEY), *_secrets(KEY + b"!")))


def test_a_fingerprint_is_of_what_decoding_depends_on() -> None:
    """Only parameters that decoding depends on change the fingerprint, not the config ID or the padding."""
    params = CidParams(**LEGAL)
    assert re.fullmatch("[0-9a-f]{8}", params.fingerprint)
    assert params.fingerprint == CidParams(**LEGAL | {"config_id": 2, "cid_length": 20}).fingerprint
    others: list[dict[str, Any]] = [
        {"key": None},
        {"key": KEY[::-1]},
        {"server_id_length": 5},
        {"nonce_length": 5},
        {"length_self_encoded": True},
    ]
    assert len({params.fingerprint, *(CidParams(**LEGAL | other).fingerprint for other in others)}) == 1 + len(others)
