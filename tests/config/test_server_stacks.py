"""The forms of `qlb server-config --for`, one for each QUIC stack."""

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from qlb.cid import CidGenerator, CidParams
from qlb.cli import check
from qlb.config import Loaded
from qlb.config.server_config import server_config
from qlb.config.server_stacks import STACKS, stack_config
from qlb.errors import ConfigError

Read = Callable[[str], Loaded]

KEY = "8f95f09245765f80256934e50c66207f"


def text(server_ids: str = '{1: "c0ffee01"}', **fields: object) -> str:
    """Return a configuration with one CID config and one backend. fields: of the CID config."""
    one = {"config_id": 1, "server_id_length": 4, "nonce_length": 12, "key": KEY, **fields}
    entry = ", ".join(f"{name}: {json.dumps(value)}" for name, value in one.items() if value is not None)
    return f"""\
listen: ["127.0.0.1:4433"]
cid_configs:
  - {{{entry}}}
backends:
  - {{name: agent-a, address: 127.0.0.1:5001, server_ids: {server_ids}}}
"""


TWO = """\
listen: ["127.0.0.1:4433"]
cid_configs:
  - {config_id: 1, server_id_length: 4, nonce_length: 12, key: 8f95f09245765f80256934e50c66207f}
  - {config_id: 2, server_id_length: 3, nonce_length: 9, cid_length: 17, key: 00112233445566778899aabbccddeeff}
  - {config_id: 3, server_id_length: 4, nonce_length: 8, state: staged}
backends:
  - name: agent-a
    address: 127.0.0.1:5001
    server_ids: {1: "c0ffee01", 2: [010203, 040506], 3: "aaaaaaaa"}
"""
PLAIN: dict[str, object] = {"config_id": 0, "key": None}


def test_every_stack_is_an_option() -> None:
    """The command line names exactly the stacks that have a form."""
    assert check.STACKS == STACKS


@pytest.mark.parametrize("stack", [stack for stack in STACKS if stack != "json"])
def test_an_unknown_backend_is_an_error(read: Read, stack: str) -> None:
    """Each form has the same error for an unknown backend."""
    with pytest.raises(ConfigError, match="no backend is called 'agent-b'; did you mean 'agent-a'"):
        stack_config(read(text()).config, "agent-b", stack)


def test_json_has_the_fields_of_the_yaml(read: Read) -> None:
    """JSON contains every active CID config and all server IDs, as the YAML does."""
    loaded = read(TWO).config
    assert json.loads(stack_config(loaded, "agent-a", "json")) == server_config(loaded, "agent-a")


@pytest.mark.parametrize(
    ("source", "params", "server_id"),
    [
        (text(), CidParams(1, 4, 12, bytes.fromhex(KEY)), "c0ffee01"),
        (text(**PLAIN, server_ids='{0: "c0ffee01"}'), CidParams(0, 4, 12), "c0ffee01"),
        (
            text(nonce_length=10, cid_length=20, length_self_encoded=True),
            CidParams(1, 4, 10, bytes.fromhex(KEY), length_self_encoded=True, cid_length=20),
            "c0ffee01",
        ),
        (TWO, CidParams(2, 3, 9, bytes.fromhex("00112233445566778899aabbccddeeff"), cid_length=17), "010203"),
    ],
    ids=["single-pass", "plaintext", "padded and self-encoding", "the last active CID config, its first server ID"],
)
def test_aioquic_is_python_that_runs(read: Read, source: str, params: CidParams, server_id: str) -> None:
    """The form for aioquic is a program whose generator issues the IDs of the configuration."""
    found: dict[str, Any] = {}
    exec(stack_config(read(source).config, "agent-a", "aioquic"), found)
    generator = found["generator"]
    assert isinstance(generator, CidGenerator)
    assert (generator.params, generator.server_id.hex()) == (params, server_id)


def test_envoy(read: Read) -> None:
    """The form for Envoy is the secret and the extension of the QUIC listener."""
    loaded = yaml.safe_load(stack_config(read(text()).config, "agent-a", "envoy"))
    (secret,) = loaded["static_resources"]["secrets"]
    generator = loaded["udp_listener_config"]["quic_options"]["connection_id_generator_config"]
    octets = {name: base64.b64decode(one["inline_bytes"]) for name, one in secret["generic_secret"]["secrets"].items()}
    assert octets == {"encryption_key": bytes.fromhex(KEY), "configuration_version": b"\x01"}
    assert generator["name"] == "envoy.quic.connection_id_generator.quic_lb"
    typed = generator["typed_config"]
    assert base64.b64decode(typed.pop("server_id")["inline_bytes"]) == bytes.fromhex("c0ffee01")
    assert typed == {
        "@type": "type.googleapis.com/envoy.extensions.quic.connection_id_generator.quic_lb.v3.Config",
        "expected_server_id_length": 4,
        "nonce_length_bytes": 12,
        "encryption_parameters": {"name": secret["name"]},
    }


def test_envoy_without_a_key(read: Read) -> None:
    """Without a key, Envoy gets its unencrypted mode, and the key of zeros that it still demands."""
    source = text(**PLAIN, server_ids='{0: "c0ffee01"}')
    loaded = yaml.safe_load(stack_config(read(source).config, "agent-a", "envoy"))
    secrets = loaded["static_resources"]["secrets"][0]["generic_secret"]["secrets"]
    generator = loaded["udp_listener_config"]["quic_options"]["connection_id_generator_config"]
    assert generator["typed_config"]["unencrypted_mode"] is True
    assert base64.b64decode(secrets["encryption_key"]["inline_bytes"]) == bytes(16)


def test_moq_relay(read: Read) -> None:
    """The form for moq-relay is its two options, under the names of the releases."""
    source = text(**PLAIN, nonce_length=8, length_self_encoded=True, server_ids='{0: "c0ffee01"}')
    lines = stack_config(read(source).config, "agent-a", "moq-relay").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "--server-quic-lb-id=c0ffee01 --server-quic-lb-nonce=8",
        "--listen-quic-lb-id=c0ffee01 --listen-quic-lb-nonce=8",
    ]


def test_nlb(read: Read) -> None:
    """The form for AWS's balancer is the server ID of the target, and the server's variable in Base64."""
    source = text(**PLAIN, server_id_length=8, nonce_length=7, server_ids='{0: "1122334455667788"}')
    lines = stack_config(read(source).config, "agent-a", "nlb").splitlines()
    assert [line for line in lines if not line.startswith("#")] == [
        "QuicServerId=0x1122334455667788",
        "AWS_LBC_QUIC_SERVER_ID=ESIzRFVmd4g=",
    ]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            text(config_id=2, length_self_encoded=True, server_ids='{2: "c0ffee01"}'),
            f"-i 1Y17B-c0ffee01-{KEY}\n",
        ),
        (
            text(**PLAIN, nonce_length=5, length_self_encoded=True, server_ids='{0: "c0ffee01"}'),
            "-i 0Y10C-c0ffee01\n",
        ),
    ],
    ids=["block cipher", "clear"],
)
def test_picoquic(read: Read, source: str, expected: str) -> None:
    """The form for picoquic is its option for connection IDs."""
    assert stack_config(read(source).config, "agent-a", "picoquic") == expected


@pytest.mark.parametrize(
    ("stack", "fields", "server_ids", "reasons"),
    [
        ("envoy", {"nonce_length": 15}, '{1: "c0ffee01"}', ["is 19 octets, and Envoy allows 18"]),
        ("envoy", {"server_id_length": 1, "nonce_length": 17}, '{1: "01"}', ["nonce_length is 17 octets"]),
        ("envoy", {"cid_length": 19}, '{1: "c0ffee01"}', ["cid_length is 19, and Envoy's IDs have 18 octets"]),
        ("envoy", {"length_self_encoded": True}, '{1: "c0ffee01"}', ["length_self_encoded is true"]),
        (
            "moq-relay",
            {"cid_length": 20},
            '{1: "c0ffee01"}',
            ["has a key", "config_id is 1", "cid_length is 20, and moq-relay's IDs have 17"],
        ),
        (
            "nlb",
            {},
            '{1: "c0ffee01"}',
            ["has a key", "config_id is 1", "server_id_length is 4", "nonce_length is 17 and cid_length is 17"],
        ),
        (
            "nlb",
            {**PLAIN, "server_id_length": 8, "nonce_length": 7, "cid_length": 20},
            '{0: "1122334455667788"}',
            ["nonce_length is 16 and cid_length is 20"],
        ),
        (
            "picoquic",
            {"server_id_length": 9, "nonce_length": 8},
            '{1: "112233445566778899"}',
            ["picoquic needs 16", "config_id is 1", "server_id_length is 9", "length_self_encoded is false"],
        ),
    ],
)
def test_what_a_stack_cannot_issue(
    read: Read, stack: str, fields: dict[str, object], server_ids: str, reasons: list[str]
) -> None:
    """The error gives every reason, one on each line, and no key."""
    with pytest.raises(ConfigError) as caught:
        stack_config(read(text(server_ids, **fields)).config, "agent-a", stack)
    assert len(caught.value.problems) == len(reasons)
    for problem, reason in zip(caught.value.problems, reasons, strict=True):
        assert re.search("cannot (issue|route) these IDs: ", problem)
        assert reason in problem
        assert KEY not in problem
