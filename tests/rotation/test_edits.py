"""The edits of a rotation: they have the intended meaning in every YAML style and change nothing else."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from qlb.config.load import load_text
from qlb.config.model import Config
from qlb.errors import ConfigError
from qlb.rotation.edits import introduce, remove, set_states, without_keys

CONFIGS = Path(__file__).parents[2] / "configs"
PATH = CONFIGS / "edited.yaml"
KEY = bytes(range(16))

BLOCK = """\
listen: ["127.0.0.1:4433"]
cid_configs:
- config_id: 1           # the first
  nonce_length: 12
  # about lengths
  server_id_length: 4
  key: "00112233445566778899aabbccddeeff"   # a key
    # and more about it
backends:               # the servers
- name: a
  server_ids:
    1: [c0ffee01, c0ffee11]  # two of them
    # a remark
  address: 127.0.0.1:5001
- server_ids:
    1:
    - c0ffee02
  name: b
  address: 127.0.0.1:5002
- {name: c, address: "127.0.0.1:5003"}
"""
FLOW = """\
{listen: ["127.0.0.1:4433"],
 cid_configs: [{config_id: 1, server_id_length: 4, nonce_length: 12, key: 00112233445566778899aabbccddeeff}],
 backends: [{name: a, address: "127.0.0.1:5001", server_ids: {1: c0ffee01}}, {name: b, address: "127.0.0.1:5002", server_ids: {
   1: c0ffee02 }}]}"""  # noqa: E501
QUOTED = """\
"listen": ["127.0.0.1:4433"]
"cid_configs": [{"config_id": "01", "server_id_length": "4", "nonce_length": "12", "state": "active",
                 "key": "00112233445566778899aabbccddeeff"}]
backends: [{"name": "a", "address": "127.0.0.1:5001", "server_ids": {"01": "c0ffee01"}}]
"""
EXAMPLES = ("quickstart.yaml", "minimal.yaml", "direct-return.yaml", "production.yaml")


def _texts() -> list[str]:
    return [BLOCK, FLOW, QUOTED, BLOCK.replace("\n", "\r\n"), *map(_example, EXAMPLES)]


def _example(name: str) -> str:
    """Return an example with an inline key instead of its key file."""
    return re.sub(
        r"^    key_file: \S+", f"    key: {KEY[::-1].hex()}", (CONFIGS / name).read_text(), flags=re.MULTILINE
    )


def _read(text: str) -> Config:
    return load_text(text, PATH).config


def _introduced(text: str, config_id: int = 5) -> str:
    config = _read(text)
    old = config.cid_configs[0]
    new = replace(old, config_id=config_id, key=KEY, key_file=None)
    ids = {b.name: b.server_ids[old.config_id] for b in config.backends if old.config_id in b.server_ids}
    return introduce(text, PATH, new, old.config_id, ids)


@pytest.mark.parametrize("text", _texts())
def test_a_whole_rotation(text: str) -> None:
    """A whole rotation gives every backend its IDs under the new CID config and changes nothing else."""
    before = _read(text)
    old_id = before.cid_configs[0].config_id
    staged = _introduced(text)
    found = _read(staged)
    assert [(one.config_id, one.state, one.key == KEY) for one in found.cid_configs] == [
        (old_id, "active", False),
        (5, "staged", True),
    ]
    for backend, was in zip(found.backends, before.backends, strict=True):
        assert backend.server_ids.get(5) == was.server_ids.get(old_id)
    issued = set_states(staged, PATH, {old_id: "retiring", 5: "active"})
    assert [one.state for one in _read(issued).cid_configs] == ["retiring", "active"]
    alone = _read(remove(issued, PATH, old_id))
    lengths = [
        (one.server_id_length, one.nonce_length, one.cid_length) for one in (before.cid_configs[0], *alone.cid_configs)
    ]
    assert lengths[0] == lengths[1]
    assert [one.config_id for one in alone.cid_configs] == [5]
    assert replace(alone, cid_configs=(), backends=()) == replace(before, cid_configs=(), backends=())
    assert [(b.name, b.address, b.weight, b.state) for b in alone.backends] == [
        (b.name, b.address, b.weight, b.state) for b in before.backends
    ]


@pytest.mark.parametrize("text", _texts())
def test_staging_can_be_undone(text: str) -> None:
    """After staging is undone, the text is the same as before, character by character."""
    taken_back = remove(_introduced(text), PATH, 5)
    assert taken_back.splitlines() == text.splitlines()


def test_comments_and_layout_stay() -> None:
    """New lines are beside old ones and in their style. No comment moves."""
    staged = _introduced(BLOCK)
    assert set(BLOCK.splitlines()) <= set(staged.splitlines())
    assert staged.splitlines()[8:14] == [
        "- config_id: 5",
        "  state: staged",
        "  server_id_length: 4",
        "  nonce_length: 12",
        f'  key: "{KEY.hex()}"',
        "backends:               # the servers",
    ]
    assert '    5: ["c0ffee01", "c0ffee11"]' in staged.splitlines()


def test_a_backend_retains_a_server_id() -> None:
    """The only CID config in which a backend has a server ID cannot be removed."""
    text = _introduced(BLOCK.replace("name: b", "name: bee")).replace('    5: "c0ffee02"\n', "")
    with pytest.raises(ConfigError, match="'bee' has server IDs only under config 1"):
        remove(text, PATH, 1)


def test_an_unsafe_edit_is_refused() -> None:
    """If the result of an edit has another meaning than intended, it is refused, without the key."""
    config = _read(BLOCK)
    new = replace(config.cid_configs[0], config_id=1, key=KEY)
    with pytest.raises(ConfigError, match="cannot be edited safely") as caught:
        introduce(BLOCK, PATH, new, 1, {})
    assert KEY.hex() not in str(caught.value)


@pytest.mark.parametrize("text", _texts())
def test_keys_are_hidden(text: str) -> None:
    """No key remains, in any YAML style."""
    keys = [one.key for one in _read(text).cid_configs if one.key is not None]
    hidden = without_keys(text)
    assert keys
    assert all(key.hex() not in hidden for key in keys)
    assert hidden.count("(not shown)") == len(keys)


def test_the_hash_key_is_hidden() -> None:
    """The key of the fallback is hidden too. Every other character stays."""
    text = without_keys(BLOCK + "fallback: {hash_key: ffeeddccbbaa99887766554433221100}\n")
    assert text.endswith("fallback: {hash_key: (not shown)}\n")
    assert text.startswith(BLOCK[: BLOCK.index('"001122')])


def test_the_new_key_file_need_not_exist() -> None:
    """A step is computed before its key file is written."""
    old = _read(BLOCK).cid_configs[0]
    new = replace(old, config_id=5, key=KEY, key_file=Path('keys/"5" ü.hex'), state="staged")
    edited = introduce(BLOCK, PATH, new, 1, {"a": (b"aaaa",), "b": (b"bbbb",)})
    assert '  key_file: "keys/\\"5\\" ü.hex"' in edited.splitlines()
    assert KEY.hex() not in edited
