"""From the tree to the model: pydantic checks each field on its own; its findings get our words and places."""

import json
from typing import Final, TypeVar

from pydantic import ValidationError

from qlb.config.model import Config, Section, section_of
from qlb.config.problems import Problems
from qlb.config.tree import MappingNode, Node, ScalarNode, SequenceNode, locate, to_data

Steps = tuple[int | str, ...]
T = TypeVar("T", bound=Section)

_MAPPING_WANTED: Final = frozenset({"model_type", "model_attributes_type", "mapping_type", "dict_type"})
_LIST_WANTED: Final = frozenset({"tuple_type", "list_type"})


def validate(root: MappingNode, problems: Problems, model: type[T] = Config) -> T | None:  # type: ignore[assignment]
    """Return the configuration, or None after adding every field's problem.

    root: with known keys only. model: of the whole file. Rules between fields are not looked at here.
    """
    try:
        return model.model_validate(to_data(root))
    except ValidationError as error:
        # include_input: an input may be a key.
        found = error.errors(include_url=False, include_input=False)
    for one in found:
        _add(root, one["loc"], one["type"], one.get("ctx", {}), problems)
        problems.raise_if_too_many()
    return None


def _add(root: Node, steps: Steps, kind: str, details: dict[str, object], problems: Problems) -> None:
    path, node, mark = locate(root, steps)
    if kind == "missing":
        _add_missing(root, steps, problems)
    elif kind in _MAPPING_WANTED:
        problems.add(mark, f"{path} must be a mapping (`key: value`), not {_shape(node)}")
    elif kind in _LIST_WANTED:
        problems.add(mark, f"{path} must be a list (`- item`, or [item, item]), not {_shape(node)}")
    elif kind == "too_short":
        problems.add(mark, f"{path} is an empty list: it needs at least one item")
    elif kind == "too_long":
        problems.add(mark, f"{path} has too many items: {details['max_length']} at most")
    else:
        problems.add(mark, f"{path} {details['text']}")


def _add_missing(root: Node, steps: Steps, problems: Problems) -> None:
    """Say what is missing: at its value, if the key is there without one, else where its mapping begins."""
    inside = locate(root, steps[:-1])[0] or "the file"
    name = str(steps[-1])
    problems.add(
        locate(root, steps)[2], f"{inside} lacks the key {name}: add it, for example `{name}: {_example(steps)}`"
    )


def _example(steps: Steps) -> str:
    """Return what the model gives as an example of a required field. JSON is YAML's flow style."""
    model: type[Section] = Config
    for step in steps[:-1]:
        model = model if isinstance(step, int) else section_of(model, step) or model
    return json.dumps((model.model_fields[str(steps[-1])].examples or [""])[0])


def _shape(node: Node) -> str:
    if isinstance(node, ScalarNode):
        return "nothing" if node.is_null else "a single value"
    return "a list" if isinstance(node, SequenceNode) else "a mapping"
