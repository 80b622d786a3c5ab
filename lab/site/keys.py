"""The keys of the configuration, read from its JSON Schema and from the keys that need a restart."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import yaml

from qlb.config import json_schema
from qlb.config.load import NEEDS_RESTART

RELOAD: Final = "a reload applies it"
NEXT_START: Final = "at the next start"
RESTART: Final = "needs a restart or `qlb upgrade`; a reload refuses it"

_MAPPING: Final = "mapping"
_DEFAULT: Final = re.compile(r"Default: (.+?)[,;:.](?:\s|$)")
_NEXT_START_WORDS: Final = "A change takes effect at the next start."
_RESTART_WORDS: Final = "A change needs a restart."


class Key(NamedTuple):
    """A key. path: with the names of the sections above it. kind: its values. default, example: as in the YAML.

    change: when a changed value is in force; empty for a section. text: its description, without what the other fields
    contain.
    """

    path: str
    kind: str
    default: str
    example: str
    change: str
    text: str


class Section(NamedTuple):
    """A mapping of the configuration. path: empty for the whole file."""

    path: str
    text: str
    keys: tuple[Key, ...]


def sections() -> Iterator[Section]:
    """Yield the whole file, then each section in the order of its keys."""
    schema: dict[str, Any] = json_schema()
    yield _section("", schema)
    for name, one in schema["properties"].items():
        model = _model(one)
        if model is not None:
            yield _section(name, schema["$defs"][model])


def _section(path: str, schema: Mapping[str, Any]) -> Section:
    keys = (
        _key(f"{path}.{name}" if path else name, one, required=name in schema["required"])
        for name, one in schema["properties"].items()
    )
    return Section(path, str(schema["description"]), tuple(keys))


def _key(path: str, schema: Mapping[str, Any], *, required: bool) -> Key:
    text = str(schema["description"])
    kind = kind_of(schema)
    default = "required" if required else "" if kind == _MAPPING else _default(path, schema)
    change = "" if kind == _MAPPING else _change(path, text)
    for words in (_RESTART_WORDS, _NEXT_START_WORDS, "Required.", f"Default: {default}."):
        text = text.replace(f" {words}", "")
    return Key(path, kind, default, _example(path, schema), change, text)


def _change(path: str, text: str) -> str:
    if tuple(path.split(".")) in NEEDS_RESTART:
        return RESTART
    return NEXT_START if _NEXT_START_WORDS in text else RELOAD


def _default(path: str, schema: Mapping[str, Any]) -> str:
    """Return the default: of the schema, or of the description where the schema cannot contain it."""
    if "default" in schema:
        return _written(schema["default"])
    match = _DEFAULT.search(schema["description"])
    if match is None:
        raise ValueError(f"the description of {path} states no default")
    return match[1]


def kind_of(schema: Mapping[str, Any]) -> str:
    """Return the kind of a key's values in words: type and range."""
    if "anyOf" in schema:
        kinds = [one for one in schema["anyOf"] if one != {"type": "null"}]
        words = [str(one["const"]) for one in kinds if "const" in one]
        return ", or ".join([*(kind_of(one) for one in kinds if "const" not in one), *(f"`{word}`" for word in words)])
    if "$comment" in schema:
        return str(schema["$comment"])
    if "$ref" in schema:
        return _MAPPING
    if "enum" in schema:
        words = [str(one) for one in schema["enum"]]
        return "`true` or `false`" if True in schema["enum"] else ", ".join(f"`{word}`" for word in words)
    if schema.get("type") == "array":
        inner = kind_of(schema["items"])
        return "list of mappings" if inner == _MAPPING else f"list; each item: {inner}"
    if "minimum" in schema:
        return f"whole number, {schema['minimum']} to {schema['maximum']}"
    raise ValueError(f"no kind is known for {schema}")


def _model(schema: Mapping[str, Any]) -> str | None:
    """Return the name of the model of a section; None for every other key."""
    for one in (schema, *schema.get("anyOf", ())):
        reference = one.get("$ref") or one.get("items", {}).get("$ref")
        if reference:
            return str(reference).rpartition("/")[2]
    return None


def _example(path: str, schema: Mapping[str, Any]) -> str:
    """Return a line of YAML; empty for sections and secrets."""
    name = path.rpartition(".")[2]
    inner = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    if any(one.get("writeOnly") for one in inner) or (_model(schema) and "examples" not in schema):
        return ""
    return f"{name}: {_written(schema['examples'][0] if 'examples' in schema else schema['default'])}"


def _written(value: object) -> str:
    """Return a value as YAML on one line."""
    if isinstance(value, str | bool | int):
        return yaml.safe_dump(value, width=1000).removesuffix("\n...\n").strip()
    return yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000).strip()
