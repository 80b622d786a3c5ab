"""JSON Schema (2020-12) of the YAML as users write it, for editors and for `qlb schema`.

pydantic generates the schema of the models. This module adapts it for editors: defaults in the form of the YAML, null
wherever a key may be empty, and the one rule between fields that JSON Schema can express.
"""

from collections.abc import Mapping

from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from qlb.addresses import Endpoint
from qlb.config.model import Config
from qlb.config.scalars import Size, duration_text
from qlb.config.sections import Section, section_of

_EXCLUSIVE: tuple[tuple[str, str], ...] = (("key", "key_file"), ("hash_key", "hash_key_file"))


def json_schema() -> dict[str, object]:
    """Return the schema. It describes fields, but few rules between them: only `qlb check` checks all rules."""
    top = Config.model_json_schema()
    definitions = top.pop("$defs")
    models = {model.__name__: model for model in _sections(Config)}
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        **_section(top, Config),
        "$defs": {name: _section(schema, models[name]) for name, schema in sorted(definitions.items())},
    }


def _sections(model: type[Section]) -> list[type[Section]]:
    return [section for name in model.model_fields if (section := section_of(model, name))]


def _section(schema: JsonSchemaValue, model: type[Section]) -> dict[str, object]:
    """Return the schema of one mapping."""
    result: dict[str, object] = {"title": model.__name__, "description": _text(model.__doc__), "type": "object"}
    result["properties"] = {
        name: _property(field, schema["properties"][name]) for name, field in model.model_fields.items()
    }
    result["required"] = [name for name, field in model.model_fields.items() if field.is_required()]
    result["additionalProperties"] = False
    for pair in _EXCLUSIVE:
        if model.model_fields.keys() >= set(pair):
            # A key without a value counts as absent, so "present" means "present and not null".
            result["not"] = {"required": list(pair), "properties": {one: {"not": {"type": "null"}} for one in pair}}
    return result


def _property(field: FieldInfo, schema: Mapping[str, object]) -> dict[str, object]:
    """Return the schema of one key: its values, its description, its default."""
    outer: dict[str, object] = {"description": _text(field.description)}
    if field.examples:
        outer["examples"] = field.examples
    inner = {name: value for name, value in schema.items() if name not in ("title", "default", *outer)}
    if field.is_required():
        return outer | inner
    default = _as_written(field.default)
    if default is not None:
        outer["default"] = default
    return outer | {"anyOf": [inner, {"type": "null"}]}


def _as_written(default: object) -> object:
    """Return a default in the form of the YAML; None if there is none, and for mappings and lists."""
    match default:
        case Endpoint():
            return str(default)
        case float():
            return duration_text(default)
        case Size():
            return str(default)
        case bool() | int() | str():
            return default if isinstance(default, bool | int) else str(default)
        case _:
            return None


def _text(text: str | None) -> str:
    """Return a docstring with each paragraph on one line."""
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))
