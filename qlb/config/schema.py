"""JSON Schema (2020-12) of the YAML as users write it, for editors and for `qlb schema`.

The kinds of scalars describe themselves. The docstring below a field is its description; it is read from the source.
Defaults have the form of the YAML, and a key may be null wherever it may be empty. Of the rules between fields, the
schema has the one that JSON Schema can express.
"""

import ast
import inspect
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Final

from qlb.addresses import Endpoint
from qlb.config.fields import Field, Section, Table, fields_of
from qlb.config.model import Config
from qlb.config.scalars import Scalar, Size, duration_text

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_EXCLUSIVE: Final[tuple[tuple[str, str], ...]] = (("key", "key_file"), ("hash_key", "hash_key_file"))


def json_schema() -> dict[str, object]:
    """Return the schema. It describes fields, but few rules between them: only `qlb check` checks all rules."""
    below = {section.__name__: section for section in _sections_below(Config)}
    return {
        "$schema": _DIALECT,
        **_section(Config),
        "$defs": {name: _section(section) for name, section in sorted(below.items())},
    }


def _sections_below(section: type[Section]) -> Iterator[type[Section]]:
    for field in fields_of(section).values():
        if field.section is not None:
            yield field.section
            yield from _sections_below(field.section)


def _section(section: type[Section]) -> dict[str, object]:
    """Return the schema of one mapping."""
    fields, texts = fields_of(section), _descriptions(section)
    result: dict[str, object] = {"title": section.__name__, "description": _text(section.__doc__), "type": "object"}
    result["properties"] = {name: _property(field, texts.get(name)) for name, field in fields.items()}
    result["required"] = [name for name, field in fields.items() if field.required]
    result["additionalProperties"] = False
    for pair in _EXCLUSIVE:
        if fields.keys() >= set(pair):
            # A key without a value counts as absent, so "present" means "present and not null".
            result["not"] = {"required": list(pair), "properties": {one: {"not": {"type": "null"}} for one in pair}}
    return result


def _property(field: Field, description: str | None) -> dict[str, object]:
    """Return the schema of one key: its values, its description, its default."""
    outer: dict[str, object] = {"description": _text(description)}
    if field.limits.examples:
        outer["examples"] = field.limits.examples
    inner = _list(field) if field.is_list else _form(field)
    if field.required:
        return outer | inner
    default = _as_written(field.default)
    if default is not None:
        outer["default"] = default
    return outer | {"anyOf": [inner, {"type": "null"}]}


def _list(field: Field) -> dict[str, object]:
    lengths = {"minItems": field.limits.min_length or None, "maxItems": field.limits.max_length}
    return {"type": "array", "items": _form(field), **{name: one for name, one in lengths.items() if one is not None}}


def _form(field: Field) -> dict[str, object]:
    match field.form:
        case Scalar() | Table():
            return dict(field.form.schema)
        case section:
            return {"$ref": f"#/$defs/{section.__name__}"}


def _descriptions(section: type[Section]) -> Mapping[str, str]:
    """Return the docstring below each field of a section. Python does not store these, so the source is read."""
    source = ast.parse(inspect.getsource(sys.modules[section.__module__]))
    (body,) = (one.body for one in source.body if isinstance(one, ast.ClassDef) and one.name == section.__name__)
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


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
