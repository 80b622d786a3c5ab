"""The configuration as YAML again: normal form, defaults, and no secret."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from qlb.config import json_schema, load, load_text
from qlb.config.dump import NOT_SHOWN, as_data, as_yaml
from qlb.config.model import Config
from qlb.errors import ConfigError

EXAMPLES = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
KEY = "8f95f09245765f80256934e50c66207f"
TEXT = f"""
listen: ["127.0.0.1:4433"]
cid_configs:
  - {{config_id: 1, server_id_length: 4, nonce_length: 12, key: "{KEY}"}}
  - {{config_id: 2, server_id_length: 4, nonce_length: 4}}
backends:
  - {{name: 1e3, address: "[::ffff:127.0.0.1]:1", server_ids: {{01: [00000001, "c0ffee01"], 2: 12345678}}}}
fallback: {{flow_timeout: 0.75m, hash_key: "{KEY}"}}
health: {{interval: 1.5s, server_name: ~}}
drain:
discovery: []
"""
SHOWN = f"""listen:
  - 127.0.0.1:4433
cid_configs:
  - config_id: 1  # fingerprint 316a5784
    server_id_length: 4
    nonce_length: 12
    key: "{NOT_SHOWN}"
  - config_id: 2  # fingerprint 042a881b
    server_id_length: 4
    nonce_length: 4
backends:
  - name: "1e3"
    address: 127.0.0.1:1
    server_ids: {{1: ["00000001", "c0ffee01"], 2: "12345678"}}
fallback:
  flow_timeout: 45s
  hash_key: "{NOT_SHOWN}"
health:
  interval: 1500ms
"""


def with_key_files(example: Path, folder: Path) -> Path:
    """Copy a configuration into a folder, with key files in place of inline keys; return its path."""
    path = folder / example.name
    text = re.sub(r"\bkey: \"?[0-9a-f]{32}\b\"?", "key_file: keys/inline.hex", example.read_text())
    path.write_text(text)
    for number, name in enumerate(re.findall(r"key_file: ([\w./-]+)", text)):
        key = folder / name
        key.parent.mkdir(exist_ok=True)
        key.write_text(f"{number + 1:032x}\n")
        key.chmod(0o600)
    return path


@pytest.fixture
def config() -> Config:
    """Return a configuration whose keys are inline."""
    return load_text(TEXT, Path("/etc/qlb/qlb.yaml")).config


def test_the_normal_form(config: Config) -> None:
    """Only the keys without their default values are written, each value in one form, and fingerprints for keys."""
    assert as_yaml(as_data(config, with_defaults=False)) == SHOWN


@pytest.mark.parametrize("with_defaults", [False, True])
def test_no_secret_is_written(config: Config, with_defaults: bool) -> None:
    """An inline key is not shown, and qlb rejects the output: it would run without encryption otherwise."""
    data = as_data(config, with_defaults=with_defaults)
    for text in (as_yaml(data), json.dumps(data), repr(data)):
        assert KEY not in text.lower()
        assert repr(bytes.fromhex(KEY))[2:-1] not in text
    with pytest.raises(ConfigError) as raised:
        load_text(as_yaml(data), Path("qlb.yaml"))
    assert [problem.split(": ")[1].split()[0] for problem in raised.value.problems] == [
        "cid_configs[0].key",
        "fallback.hash_key",
    ]


@pytest.mark.parametrize("with_defaults", [False, True])
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_output_is_the_same_configuration(example: Path, with_defaults: bool, tmp_path: Path) -> None:
    """The output is a configuration equal to the input, if no key is inline, also after JSON."""
    before = load(with_key_files(example, tmp_path)).config
    data = as_data(before, with_defaults=with_defaults)
    other = tmp_path / "other"
    other.mkdir()
    after = load_text(as_yaml(data), other / "qlb.yaml").config
    lengths = [one.cid_length for one in after.cid_configs]
    assert all(lengths) or not with_defaults
    assert _without_lengths(after) == _without_lengths(before)
    assert as_yaml(json.loads(json.dumps(data))) == as_yaml(data)


def _without_lengths(config: Config) -> Config:
    """Return a configuration without cid_length, whose default depends on other keys."""
    configs = tuple(replace(one, cid_length=None) for one in config.cid_configs)
    return replace(config, cid_configs=configs)


def test_the_effective_configuration_has_every_key(config: Config) -> None:
    """With defaults, every key of the schema is written, except those that secrets replace or lists do not have."""
    data = as_data(config, with_defaults=True)
    schema = json_schema()
    assert list(data) == list(schema["properties"])  # type: ignore[call-overload]
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    for name, model in (
        ("forwarding", "Forwarding"),
        ("health", "Health"),
        ("admin", "Admin"),
        ("fallback", "Fallback"),
    ):
        section = data[name]
        assert isinstance(section, dict)
        assert list(section) == list(definitions[model]["properties"])
    assert [list(one) for one in data["cid_configs"]] == [  # type: ignore[attr-defined]
        [*definitions["CidConfig"]["properties"], "fingerprint"]
    ] * 2
    assert [one["cid_length"] for one in data["cid_configs"]] == [17, 9]  # type: ignore[attr-defined]


def test_a_default_that_is_turned_off(config: Config) -> None:
    """The word that turns a default off is written; null would mean the default."""
    off = replace(config, admin=replace(config.admin, listen=None))
    admin = as_data(off, with_defaults=True)["admin"]
    assert admin == {"listen": "none", "socket": None}
    assert (
        load_text(as_yaml({"listen": ["127.0.0.1:1"], "backends": [], "admin": admin}), Path("q")).config.admin
        == off.admin
    )


def test_without_keys_there_are_no_fingerprints(config: Config) -> None:
    """If key files were not read, no fingerprint is written: it would be that of a placeholder."""
    data = as_data(config, with_defaults=True, with_keys=False)
    assert "fingerprint" not in as_yaml(data)
    assert "fingerprint" not in json.dumps(data)


@pytest.mark.parametrize(
    "name",
    [
        *("yes", "No", "null", "1e3", "010203", "0x1f", "1.5", "1:20", "a: b", "a:", ":a", "a #b", "#a", "- a", "[a]"),
        *(
            "{a}",
            "a, b",
            "'a'",
            '"a"',
            "a\\b",
            "*a",
            "&a",
            "!a",
            "|",
            ">",
            "%a",
            "@a",
            "`a`",
            " a",
            "a ",
            "~",
            "é ü",
            "=",
            ".",
        ),
    ],
)
def test_every_text_is_read_back(name: str) -> None:
    """A text that YAML could read as something else is quoted, also in the eyes of another parser."""
    path = Path("/etc/qlb/qlb.yaml")
    text = f"listen: ['127.0.0.1:1']\nbackends: []\nadmin: {{socket: {json.dumps(name)}}}\n"
    before = load_text(text, path).config
    written = as_yaml({"listen": ["127.0.0.1:1"], "backends": [], "admin": {"socket": name}})
    assert load_text(written, path).config == before
    assert yaml.safe_load(written)["admin"]["socket"] == name
