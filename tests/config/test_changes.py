"""The texts for the log about the changes of a reload."""

from pathlib import Path

import pytest

from qlb.config.changes import changes
from qlb.config.load import load_text
from qlb.config.model import Config

TEXT = """
listen: ["127.0.0.1:4433"]
cid_configs:
  - {config_id: 1, server_id_length: 3, nonce_length: 13, key: 000102030405060708090a0b0c0d0e0f}
backends:
  - {name: a, address: "127.0.0.1:5001", server_ids: {1: "0a0a0a"}}
  - {name: b, address: "127.0.0.1:5002"}
"""


def read(*changed: tuple[str, str], more: str = "") -> Config:
    """Return TEXT with changes, loaded."""
    text = TEXT + more
    for old, new in changed:
        assert old in text
        text = text.replace(old, new)
    return load_text(text, Path("qlb.yaml")).config


@pytest.mark.parametrize(
    ("changed", "more", "told"),
    [
        ([], "", ()),
        ([("  - {name: b", "  - {name: c")], "", ("- backend b", "+ backend c")),
        (
            [('"127.0.0.1:5002"', '"[::1]:5002", weight: 3')],
            "",
            ("backend b: address 127.0.0.1:5002 -> [::1]:5002", "backend b: weight 1 -> 3"),
        ),
        (
            [('{1: "0a0a0a"}', '{1: ["0a0a0a", "0c0c0c"]}')],
            "",
            ("backend a: server_ids 1: 0a0a0a -> 1: 0a0a0a,0c0c0c",),
        ),
        ([("key: 00", "key: ff")], "", ("cid_config 1: key changed",)),
        (
            [("nonce_length: 13, key: 000102030405060708090a0b0c0d0e0f", "nonce_length: 13, state: retiring")],
            "",
            ("cid_config 1: key changed", "cid_config 1: state active -> retiring"),
        ),
        (
            [],
            "health: {interval: 500ms, probe: none}\nadmin: {listen: none}\n",
            ("health.probe auto -> none", "health.interval 2s -> 500ms", "admin.listen 127.0.0.1:9464 -> none"),
        ),
        (
            [],
            "fallback: {hash_key: 000102030405060708090a0b0c0d0eff}\n"
            "forwarding: {pin_workers: true, interfaces: [eth0]}\n",
            ("forwarding.pin_workers false -> true", "forwarding.interfaces none -> eth0", "fallback.hash_key changed"),
        ),
    ],
)
def test_each_change_is_described(changed: list[tuple[str, str]], more: str, told: tuple[str, ...]) -> None:
    """Each change has its name, the old and the new value; a secret has neither value."""
    assert changes(read(), read(*changed, more=more)) == told


def test_many_changes_are_counted() -> None:
    """With many changes the text ends with the number of further ones."""
    many = "".join(f'  - {{name: n{number}, address: "127.0.0.1:{6000 + number}"}}\n' for number in range(100))
    found = changes(read(), read(('  - {name: b, address: "127.0.0.1:5002"}\n', many)))
    assert found[0] == "- backend b"
    assert found[-1] == "and 81 more"
    assert len(found) == 21
