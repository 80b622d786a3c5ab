"""Conversion of the configuration for the floors below."""

import pickle
from collections.abc import Callable

import pytest

from qlb.addresses import Endpoint
from qlb.cid import CidParams
from qlb.cid.codec import CidCodec
from qlb.config import Loaded
from qlb.config.build import backends, cid_params, fallback_key, snapshot
from qlb.routing.backends import Backend, BackendState
from qlb.routing.maglev import DEFAULT_KEY

Read = Callable[[str], Loaded]
KEY = bytes.fromhex("00112233445566778899aabbccddeeff")


def test_cid_params(sound: str, read: Read) -> None:
    """Each CID config gives one CidParams, in the order of the file; cid_length defaults to the shortest."""
    second = (
        "  - {config_id: 0, server_id_length: 3, nonce_length: 6, cid_length: 20, length_self_encoded: yes}\nbackends:"
    )
    assert cid_params(read(sound.replace("backends:", second)).config) == (
        CidParams(1, 4, 8, KEY, length_self_encoded=False, cid_length=13),
        CidParams(0, 3, 6, None, length_self_encoded=True, cid_length=20),
    )


def test_every_pair_of_lengths_that_is_accepted_makes_params(sound: str, read: Read) -> None:
    """The configuration accepts exactly the pairs of lengths that CidParams accepts."""
    for server_id_length in range(1, 16):
        for nonce_length in range(4, 19):
            text = sound.replace("server_id_length: 4", f"server_id_length: {server_id_length}")
            text = text.replace("nonce_length: 8", f"nonce_length: {nonce_length}")
            text = text.replace("c0ffee", "00" * (server_id_length - 1))
            if server_id_length + nonce_length <= 19:
                assert cid_params(read(text).config)[0].block_end == 1 + server_id_length + nonce_length
            else:
                with pytest.raises(ValueError, match="it must be at most 19"):
                    read(text)


def test_backends(sound: str, read: Read) -> None:
    """A backend has all fields that the router needs, and can be pickled with a snapshot."""
    made = backends(read(sound + "    weight: 7\n    state: draining\n").config)
    assert made == (
        Backend("agent-a", Endpoint("127.0.0.1", 5001), {1: (b"\xc0\xff\xee\x01",)}),
        Backend("agent-b", Endpoint("127.0.0.1", 5002), {1: (b"\xc0\xff\xee\x02",)}, 7, BackendState.DRAINING),
    )
    assert pickle.loads(pickle.dumps(made)) == made


def test_fallback_key(sound: str, read: Read) -> None:
    """The fallback key is the published one unless the configuration has another."""
    assert fallback_key(read(sound).config) == DEFAULT_KEY
    assert fallback_key(read(f"{sound}fallback: {{hash_key: {KEY.hex()}}}\n").config) == KEY


def test_snapshot(sound: str, read: Read) -> None:
    """A compiled snapshot routes the IDs that a server issues."""
    config = read(sound).config
    made = snapshot(config, generation=5)
    assert made.generation == 5
    routable = made.configs[1]
    assert routable is not None
    cid = CidCodec(cid_params(config)[0]).encode(b"\xc0\xff\xee\x02", bytes(8))
    backend = made.backends[routable.find(cid)]
    assert backend is not None
    assert backend.name == "agent-b"
    assert snapshot(config).generation == 1
