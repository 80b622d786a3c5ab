"""From the tree to the model: check keys, then each field. pydantic's errors become problems with positions."""

import json
from collections.abc import Iterator
from typing import Final, TypeVar

from pydantic import ValidationError

from qlb.config.model import Config
from qlb.config.problems import Problems, shown
from qlb.config.sections import Section, section_of
from qlb.config.tree import MappingNode, Node, ScalarNode, SequenceNode, locate, to_data

Steps = tuple[int | str, ...]
T = TypeVar("T", bound=Section)

_MAPPING_WANTED: Final = frozenset({"model_type", "model_attributes_type", "mapping_type", "dict_type"})
_LIST_WANTED: Final = frozenset({"tuple_type", "list_type"})


def validate(root: MappingNode, problems: Problems, model: type[T] = Config) -> T | None:  # type: ignore[assignment]
    """Return the configuration, or None after adding a problem for each invalid field.

    root: with known keys only. model: of the whole file. Rules between fields are checked in qlb.config.rules.
    Raises ConfigError if there are more than MAX_COUNTED problems.
    """
    try:
        return model.model_validate(to_data(root))
    except ValidationError as error:
        # Without the input, which may be a key.
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
        # pydantic counts only valid items; an invalid one has its own problem.
        if not (isinstance(node, SequenceNode) and node.items):
            problems.add(mark, f"{path} is an empty list: add at least one item")
    elif kind == "too_long":
        problems.add(mark, f"{path} has too many items: {details['max_length']} at most")
    else:
        problems.add(mark, f"{path} {details['text']}")


def _add_missing(root: Node, steps: Steps, problems: Problems) -> None:
    """Report a missing key: at its empty value if the key is present, otherwise at the beginning of its mapping."""
    inside = locate(root, steps[:-1])[0] or "the file"
    name = str(steps[-1])
    problems.add(
        locate(root, steps)[2], f"{inside} lacks the key {name}: add it, for example `{name}: {_example(steps)}`"
    )


def _example(steps: Steps) -> str:
    """Return the model's example of a required field, as JSON, which is valid YAML in flow style."""
    model: type[Section] = Config
    for step in steps[:-1]:
        model = model if isinstance(step, int) else section_of(model, step) or model
    return json.dumps((model.model_fields[str(steps[-1])].examples or [""])[0])


def _shape(node: Node) -> str:
    if isinstance(node, ScalarNode):
        return "nothing" if node.is_null else "a single value"
    return "a list" if isinstance(node, SequenceNode) else "a mapping"


ALIKE: Final = 0.6
"""The ratio of difflib from which an unknown key counts as a misspelt known one."""


def known_keys(root: MappingNode, problems: Problems, model: type[Section] = Config) -> MappingNode:
    """Return the tree with known keys only: misspelt keys are reported and renamed, other unknown keys are removed.

    model: of the whole file. Raises ConfigError if there are more than MAX_COUNTED problems.
    """
    return _Vocabulary(problems).known(root, model, "")


class _Vocabulary:
    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._homes = dict(_homes())
        self._sections: dict[type[Section], dict[str, type[Section] | None]] = {}

    def known(self, node: MappingNode, model: type[Section], path: str) -> MappingNode:
        """Return one mapping, and all mappings below it, with known keys only."""
        fields = model.model_fields
        sections = self._sections_of(model)
        present = {key.text for key, _ in node.entries}
        entries: list[tuple[ScalarNode, Node]] = []
        for key, value in node.entries:
            name = key.text
            if name not in fields:
                name = self._report(key, model, path)
                is_scalar = isinstance(value, ScalarNode)
                if not name or name in present or (is_scalar and not fields[name].is_required()):
                    continue
                present.add(name)
                if is_scalar:
                    self._problems.silence(value.mark)
            section = sections[name]
            below = value if section is None else self._below(value, section, f"{path}.{name}".lstrip("."))
            entries.append((key if name == key.text else ScalarNode(key.mark, name), below))
        return MappingNode(node.mark, tuple(entries))

    def _sections_of(self, model: type[Section]) -> dict[str, type[Section] | None]:
        """Return section_of() of every field. Cached by model, because there may be 65,536 backends."""
        if model not in self._sections:
            self._sections[model] = {name: section_of(model, name) for name in model.model_fields}
        return self._sections[model]

    def _below(self, value: Node, section: type[Section], path: str) -> Node:
        match value:
            case MappingNode():
                return self.known(value, section, path)
            case SequenceNode():
                items = (self._below(item, section, f"{path}[{at}]") for at, item in enumerate(value.items))
                return SequenceNode(value.mark, tuple(items))
            case _:
                return value

    def _report(self, key: ScalarNode, model: type[Section], path: str) -> str:
        """Report an unknown key; return the known key that it resembles, or "".

        The message shows no value, and no key that looks like a secret: in YAML, `{key:00ff…}` without the space is one
        word.
        """
        home = self._homes.get(key.text)
        close = "" if home else self._problems.suggestion(key.text.lower(), model.model_fields, ALIKE)
        if key.text == "<<":
            advice = ": merge keys are not supported; write the keys here"
        elif home:
            advice = f": it belongs {home}"
        elif close:
            advice = f"; did you mean {close!r}?"
        else:
            advice = f"; the keys here are {', '.join(model.model_fields)}"
        where = f" in {path}" if path else ""
        self._problems.add(key.mark, f"unknown key {shown(key.text)}{where}{advice}")
        self._problems.raise_if_too_many()
        return close


def _homes() -> Iterator[tuple[str, str]]:
    """Yield each key of a section and of the file with its proper location. The last pair of a key counts."""
    for name in reversed(Config.model_fields):
        section = section_of(Config, name)
        if section is not None:
            yield from ((key, f"under {name!r}") for key in section.model_fields)
    for name in Config.model_fields:
        yield name, "at the top of the file"
