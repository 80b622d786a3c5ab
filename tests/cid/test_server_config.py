"""The document that a server loads: read strictly, in qlb's own form and in the draft's YANG model."""

import json
from typing import Any

import pytest

from qlb.cid import CidError, CidParams
from qlb.cid.server_config import YANG_TOP, read_server_config

KEY = "8f95f09245765f80256934e50c66207f"
SEALED: dict[str, Any] = {
    "config_id": 3,
    "algorithm": "single-pass",
    "server_ids": ["010203", "0a0b0c"],
    "server_id_length": 3,
    "nonce_length": 13,
    "cid_length": 18,
    "length_self_encoded": True,
    "key": KEY,
}
PLAIN: dict[str, Any] = {"config_id": 0, "server_ids": ["01e3"], "server_id_length": 2, "nonce_length": 6}
DOCUMENT = {"backend": "1e3", "cid_configs": [SEALED, PLAIN]}
PARAMS = CidParams(3, 3, 13, KEY, True, 18)


def without(name: str) -> dict[str, Any]:
    """Return the encrypted CID config without one key."""
    return {key: value for key, value in SEALED.items() if key != name}


def texts(node: object) -> object:
    """Return a document as a reader of YAML sees it that takes every scalar as text."""
    if isinstance(node, dict):
        return {name: texts(value) for name, value in node.items()}
    if isinstance(node, list):
        return [texts(value) for value in node]
    return str(node).lower() if isinstance(node, bool) else str(node)


@pytest.mark.parametrize("document", [DOCUMENT, texts(DOCUMENT), json.loads(json.dumps(DOCUMENT))])
def test_the_own_form(document: object) -> None:
    """Numbers and booleans may be typed, or text."""
    sealed, plain = read_server_config(document).issued
    assert sealed == (PARAMS, (bytes((1, 2, 3)), bytes((10, 11, 12))))
    assert plain == (CidParams(0, 2, 6), (bytes((1, 0xE3)),))


def test_the_choice() -> None:
    """A server issues from the last CID config and its first server ID, unless it asks for others."""
    config = read_server_config(DOCUMENT)
    assert config.choose(None, 0) == (CidParams(0, 2, 6), bytes((1, 0xE3)))
    assert config.choose(3, 1) == (PARAMS, bytes((10, 11, 12)))
    with pytest.raises(CidError, match="there is no config 1; the config IDs are: 3, 0"):
        config.choose(1, 0)
    for index in (-1, 2):
        with pytest.raises(CidError, match=f"has 2 server IDs, so server_id_index must be from 0 to 1, not {index}"):
            config.choose(3, index)


def yang(server_id: str) -> dict[str, Any]:
    """Return the YANG model of a server."""
    leaves = {"config-id": 3, "first-octet-encodes-cid-length": False, "server-id-length": 3, "nonce-length": 13}
    return {YANG_TOP: {**leaves, "cid-key": bytes.fromhex(KEY).hex(":"), "server-id": server_id}}


def test_the_yang_model() -> None:
    """One model is one CID config. A list has one model for each server ID, and they are joined."""
    params = CidParams(3, 3, 13, KEY)
    assert read_server_config(yang("01:02:03")).issued == ((params, (bytes((1, 2, 3)),)),)
    joined = read_server_config([yang("01:02:03"), yang("0a:0b:0c")])
    assert joined.issued == ((params, (bytes((1, 2, 3)), bytes((10, 11, 12)))),)


@pytest.mark.parametrize(
    ("entry", "fault"),
    [
        (without("key"), "algorithm is single-pass, but key is missing: the file is not complete"),
        (SEALED | {"nonce_length": 12}, "algorithm is single-pass, but with this key and these lengths it is four"),
        (without("config_id"), "config_id is missing"),
        (without("server_ids"), "server_ids must be a list of server IDs"),
        (SEALED | {"server_ids": []}, "server_ids must be a list of server IDs"),
        (SEALED | {"server_ids": ["0102"]}, "server_ids[0] 0102 has 2 octets, and server_id_length is 3"),
        (SEALED | {"server_ids": ["010203", 10203]}, "server_ids[1] must be bytes or hexadecimal text, not int"),
        (SEALED | {"nonce_length": "x"}, "nonce_length must be a whole number, not 'x'"),
        (SEALED | {"nonce_length": True}, "nonce_length must be a whole number, not True"),
        (SEALED | {"nonce_length": "9" * 5000}, "nonce_length must be a whole number"),
        (SEALED | {"nonce_length": 99}, "nonce_length must be a whole number from 4 to 18, not 99"),
        (SEALED | {"length_self_encoded": 1}, "length_self_encoded must be true or false, not 1"),
        (SEALED | {"length_self_encoded": "on"}, "length_self_encoded must be true or false, not 'on'"),
        (SEALED | {"key": None}, "key must be text in quotes"),
        (SEALED | {"key": KEY[1:]}, "it has 31 digits (value not shown)"),
        (SEALED | {"kye": KEY}, "cid_configs[0].kye is not a key of this file; the keys are: config_id, "),
        ("text", "cid_configs[0] must be a mapping"),
    ],
)
def test_a_wrong_cid_config(entry: object, fault: str) -> None:
    """The error names the entry, the key and the fault, and shows no key."""
    with pytest.raises(CidError) as caught:
        read_server_config({"cid_configs": [entry]})
    assert fault in str(caught.value)
    assert str(caught.value).startswith("cid_configs[0]")
    assert KEY[1:] not in str(caught.value)


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        ("text", "the file must be a mapping"),
        (None, "the file must be a mapping"),
        ({1: 2}, "the file must be a mapping"),
        ({"backend": "a"}, "cid_configs must be a list with at least one CID config"),
        ({"cid_configs": []}, "cid_configs must be a list with at least one CID config"),
        ({"cid_configs": [SEALED], "x": 1}, "x is not a key of this file; the keys are: backend, cid_configs"),
        ([], "the list is empty"),
        (["text"], "[0] must be a mapping"),
        ([{YANG_TOP: {"config-id": 1}}], f"[0].{YANG_TOP}: server_id_length is missing"),
        ({YANG_TOP: {"confid-id": 1}}, f"{YANG_TOP}.confid-id is not a key of this file"),
        ({YANG_TOP: yang("00"), "x": 1}, "x is not a key of this file"),
    ],
)
def test_a_wrong_document(document: object, fault: str) -> None:
    """A document of another shape is an error that names the place."""
    with pytest.raises(CidError) as caught:
        read_server_config(document)
    assert fault in str(caught.value)
