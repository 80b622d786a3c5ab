"""The files in configs/, and the schema with which editors check them."""

import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from qlb.cli import cli
from qlb.config import json_schema, load
from qlb.config.advice import DEMO_KEY
from qlb.config.build import cid_params
from qlb.config.fields import Section, fields_of
from qlb.config.model import Config
from qlb.errors import PlaneUnavailable

CONFIGS = Path(__file__).parents[2] / "configs"
EXAMPLES = sorted(path.name for path in CONFIGS.glob("*.yaml"))
WARNED = {
    "anycast.yaml": 1,
    "direct-return.yaml": 1,
    "discovery.yaml": 1,
    "plaintext.yaml": 1,
    "production.yaml": 1,
    "rotation.yaml": 2,
}
"""Number of warnings that an example gives on purpose: no key, or the published demo key. All others give none."""


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    """Return a validator for the schema, which must be valid itself."""
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def as_editor(node: object) -> object:
    """Return YAML as an editor's JSON Schema validator sees it: typed values, keys as strings."""
    if isinstance(node, dict):
        return {str(key): as_editor(value) for key, value in node.items()}
    return [as_editor(item) for item in node] if isinstance(node, list) else node


@pytest.mark.parametrize("path", [*sorted(CONFIGS.glob("*.yaml")), CONFIGS.parent / "deploy/docker/qlb/qlb.yaml"])
def test_an_editor_finds_the_schema(path: Path) -> None:
    """The first line of each example names the schema for editors."""
    assert path.read_text().startswith("# yaml-language-server: $schema=qlb.schema.json\n")


def test_the_examples_are_there() -> None:
    """The examples that `make run` and the documentation use exist."""
    assert set(EXAMPLES) == {
        "anycast.yaml",
        "direct-return.yaml",
        "discovery.yaml",
        "minimal.yaml",
        "plaintext.yaml",
        "production.yaml",
        "quickstart.yaml",
        "rotation.yaml",
        "without-quic-lb.yaml",
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_loads(name: str) -> None:
    """Each example loads as it is shipped, and with no warning except an intended one."""
    assert len(load(CONFIGS / name).warnings) == WARNED.get(name, 0)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_passes_the_check_as_shipped(name: str) -> None:
    """`qlb check` accepts each example, unless this machine lacks a program or a privilege that the example needs."""
    result = CliRunner().invoke(cli, ["check", str(CONFIGS / name)])
    if isinstance(result.exception, PlaneUnavailable):
        pytest.skip(f"{name}: {result.exception}")
    assert result.exit_code == 0, (result.output, result.exception)
    assert ": good; " in result.output


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_follows_the_schema(name: str, validator: Draft202012Validator) -> None:
    """Each example follows the schema, with YAML's own types and as text."""
    text = (CONFIGS / name).read_text()
    validator.validate(as_editor(yaml.safe_load(text)))
    validator.validate(as_editor(yaml.load(text, yaml.BaseLoader)))


def test_the_quickstart() -> None:
    """The quickstart contains exactly what `make run` promises."""
    loaded = load(CONFIGS / "quickstart.yaml")
    config = loaded.config
    assert loaded.warnings == ()
    assert [str(address) for address in config.listen] == ["127.0.0.1:4433"]
    assert [(one.name, str(one.address)) for one in config.backends] == [
        ("agent-a", "127.0.0.1:5001"),
        ("agent-b", "127.0.0.1:5002"),
        ("agent-c", "127.0.0.1:5003"),
    ]
    (params,) = cid_params(config)
    assert (params.algorithm, params.key) == ("four-pass", DEMO_KEY)
    assert str(config.admin.listen) == "127.0.0.1:9464"
    assert config.admin.socket == CONFIGS.resolve().parent / ".qlb/quickstart.sock"


def test_production_names_every_key() -> None:
    """production.yaml names every key of the model, at least in a comment."""
    text = (CONFIGS / "production.yaml").read_text()
    sections = [field.section for field in fields_of(Config).values()]
    models: list[type[Section]] = [Config, *(section for section in sections if section is not None)]
    missing = [name for model in models for name in fields_of(model) if not re.search(rf"^[ #-]*{name}:", text, re.M)]
    assert missing == []


def comments(text: str) -> dict[str, str]:
    """Return key → the comment beside it and below it, on one line."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        code, _, comment = line.partition("#")
        if ":" in code:
            name = code.split(":")[0].strip(" -")
        found[name] = f"{found.get(name, '')} {' '.join(comment.split())}" if comment else found.get(name, "")
    return found


def test_production_states_every_default() -> None:
    """The defaults in the comments equal those of the model."""
    beside = comments((CONFIGS / "production.yaml").read_text())
    defaults = [(name, schema["default"]) for name, schema in _properties(json_schema()) if "default" in schema]
    for name, default in defaults:
        assert f"Default: {written(default)}" in beside[name], name
    assert len(defaults) == 40


def written(default: object) -> str:
    """Return a default in the form of the texts."""
    return str(default).lower() if isinstance(default, bool) else str(default)


def _properties(schema: dict[str, object]) -> list[tuple[str, dict[str, object]]]:
    definitions = schema["$defs"]
    assert isinstance(definitions, dict)
    return [entry for one in (schema, *definitions.values()) for entry in one["properties"].items()]


def test_every_key_is_described() -> None:
    """Each description has one line and contains the default."""
    for name, schema in _properties(json_schema()):
        description = schema["description"]
        assert isinstance(description, str)
        assert len(description) > 15, name
        assert "\n" not in description, name
        assert "title" not in schema, name
        if "default" in schema:
            assert f"Default: {written(schema['default'])}" in description, name


MINIMAL: dict[str, object] = {"listen": ["127.0.0.1:1"], "backends": [{"name": "a", "address": "127.0.0.1:2"}]}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"health": None, "admin": {"listen": "none", "socket": None}},
        {"shutdown_delay": "1.5s", "forwarding": {"workers": "auto"}},
        {"forwarding": {"workers": 4}},
        {"forwarding": {"workers": "4", "receive_buffer": "512KiB", "pin_workers": True}},
        {"forwarding": {"receive_buffer": 65536}},
        {"backends": [{"name": 7, "address": "[::1]:2", "server_ids": {"01": 10203, "2": ["aa", 11]}, "weight": 0}]},
        {"cid_configs": [{"config_id": 1, "server_id_length": 1, "nonce_length": 4, "key": None, "key_file": "a"}]},
        {"cid_configs": [{"config_id": 1, "server_id_length": 1, "nonce_length": 4, "length_self_encoded": True}]},
    ],
)
def test_the_schema_accepts(validator: Draft202012Validator, more: dict[str, object]) -> None:
    """The schema accepts valid values, in each type that an editor may see."""
    validator.validate(MINIMAL | more)


@pytest.mark.parametrize(
    "more",
    [
        {"lisen": []},
        {"listen": []},
        {"listen": None},
        {"listen": ["a"]},
        {"backends": [{"name": "a"}]},
        {"backends": [{"name": "a b", "address": "127.0.0.1:2"}]},
        {"backends": [{"name": "a", "address": "127.0.0.1:2", "server_ids": {"7": "aa"}}]},
        {"backends": [{"name": "a", "address": "127.0.0.1:2", "server_ids": {"1": "abc"}}]},
        {"shutdown_delay": 5},
        {"shutdown_delay": "5"},
        {"forwarding": {"workers": 0}},
        {"forwarding": {"receive_buffer": "4MB"}},
        {"forwarding": {"receive_buffer": 100}},
        {"forwarding": {"mode": "nat"}},
        {"health": []},
        {"cid_configs": [{"config_id": 7, "server_id_length": 1, "nonce_length": 4}]},
        {"cid_configs": [{"config_id": 1.5, "server_id_length": 1, "nonce_length": 4}]},
        {"cid_configs": [{"config_id": 1, "server_id_length": 1, "nonce_length": 4, "key": "a" * 32, "key_file": "a"}]},
        {"fallback": {"hash_key": "0" * 31}},
    ],
)
def test_the_schema_refuses(validator: Draft202012Validator, more: dict[str, object]) -> None:
    """The schema rejects invalid values, if one field alone shows it."""
    assert not validator.is_valid(MINIMAL | more)
