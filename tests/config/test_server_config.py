"""The configuration that a backend must load."""

import json
from collections.abc import Callable

import pytest
import yaml

from qlb.config import Loaded
from qlb.config.server_config import server_config, server_config_yaml, yang_server_configs
from qlb.errors import ConfigError

Read = Callable[[str], Loaded]

TWO = """\
listen: ["127.0.0.1:4433"]
cid_configs:
  - {config_id: 3, server_id_length: 3, nonce_length: 13, cid_length: 17, key: 8f95f09245765f80256934e50c66207f}
  - {config_id: 0, server_id_length: 2, nonce_length: 6, length_self_encoded: true}
  - {config_id: 5, server_id_length: 3, nonce_length: 5}
backends:
  - {name: 1e3, address: 127.0.0.1:5001, server_ids: {0: "01e3", 3: [010203, 0A0b0C]}}
  - {name: plain, address: 127.0.0.1:5002}
"""


def test_server_config(read: Read) -> None:
    """It contains each CID config in which the backend has a server ID, in the order of the file, with the key."""
    assert server_config(read(TWO).config, "1e3") == {
        "backend": "1e3",
        "cid_configs": [
            {
                "config_id": 3,
                "algorithm": "single-pass",
                "server_ids": ["010203", "0a0b0c"],
                "server_id_length": 3,
                "nonce_length": 13,
                "cid_length": 17,
                "length_self_encoded": False,
                "key": "8f95f09245765f80256934e50c66207f",
            },
            {
                "config_id": 0,
                "algorithm": "plaintext",
                "server_ids": ["01e3"],
                "server_id_length": 2,
                "nonce_length": 6,
                "cid_length": 9,
                "length_self_encoded": True,
            },
        ],
    }


def test_server_config_yaml_means_the_same_to_every_reader(read: Read) -> None:
    """Strings are quoted, because some YAML parsers read 010203 and 1e3 as numbers."""
    text = server_config_yaml(read(TWO).config, "1e3")
    assert yaml.safe_load(text) == server_config(read(TWO).config, "1e3")
    assert text.startswith('backend: "1e3"\ncid_configs:\n- config_id: 3\n  algorithm: "single-pass"\n')
    assert '- "010203"\n' in text
    assert yaml.safe_dump("x") == "x\n...\n", "the library's own dumper is left alone"


def test_yang(read: Read) -> None:
    """The YANG form follows RFC 7951: module name on top, hex with colons, one CID config and server ID each."""
    key = "8f:95:f0:92:45:76:5f:80:25:69:34:e5:0c:66:20:7f"
    single = {
        "config-id": 3,
        "first-octet-encodes-cid-length": False,
        "server-id-length": 3,
        "nonce-length": 13,
        "cid-key": key,
    }
    plain = {"config-id": 0, "first-octet-encodes-cid-length": True, "server-id-length": 2, "nonce-length": 6}
    documents = yang_server_configs(read(TWO).config, "1e3")
    assert documents == (
        {"ietf-quic-lb-server:quic-lb": single | {"server-id": "01:02:03"}},
        {"ietf-quic-lb-server:quic-lb": single | {"server-id": "0a:0b:0c"}},
        {"ietf-quic-lb-server:quic-lb": plain | {"server-id": "01:e3"}},
    )
    assert len(key) == 47
    assert json.loads(json.dumps(documents)) == list(documents)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("plian", "no backend is called 'plian'; did you mean 'plain'?"),
        ("zzz", "no backend is called 'zzz'; the backends are: 1e3, plain"),
        ("plain", "backend 'plain' has no server_ids: it has nothing to load"),
    ],
)
def test_backends_without_a_server_config(read: Read, name: str, says: str) -> None:
    """The error lists the existing names, suggests one, or gives the reason."""
    for make in (server_config, yang_server_configs):
        with pytest.raises(ConfigError) as caught:
            make(read(TWO).config, name)
        assert caught.value.problems == (says,)


def test_a_configuration_without_backends(read: Read) -> None:
    """Without backends, the error says that there are none."""
    with pytest.raises(ConfigError, match=r"the backends are: none$"):
        server_config(read("listen: ['127.0.0.1:1']\nbackends: []\n").config, "a")
