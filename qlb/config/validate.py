"""From the tree to the model: check keys, then read each field. Each invalid one becomes a problem with a position."""

import json
from collections.abc import Callable, Iterator
from typing import Final, TypeVar, cast

from qlb.config.fields import Field, Section, Table, fields_of, section_of
from qlb.config.model import Config
from qlb.config.problems import Problems, shown
from qlb.config.scalars import Scalar, ScalarError
from qlb.config.tree import MappingNode, Node, ScalarNode, SequenceNode, locate

Steps = tuple[int | str, ...]
"""The way from the top of the file to a node: keys and indexes."""
T = TypeVar("T", bound=Section)

_INVALID: Final = object()
"""The value of a node that is not valid. Its problem was added."""


def validate(root: MappingNode, problems: Problems, model: type[T] = Config) -> T | None:  # type: ignore[assignment]
    """Return the configuration, or None after adding a problem for each invalid field.

    root: with known keys only. model: of the whole file. Rules between fields are checked in qlb.config.rules.
    Raises ConfigError if there are more than MAX_COUNTED problems.
    """
    found = _Reader(root, problems).section(root, model, ())
    return None if found is _INVALID else cast(T, found)


class _Reader:
    """A reader of one file. Its methods return a value, or _INVALID after adding a problem."""

    def __init__(self, root: MappingNode, problems: Problems) -> None:
        self._root = root
        self._problems = problems

    def section(self, node: Node, model: type[Section], steps: Steps) -> object:
        """Read a mapping. A key without a value is absent: `health:` may have only comments below it."""
        if not isinstance(node, MappingNode):
            return self._invalid(steps, f"must be a mapping (`key: value`), not {_shape(node)}")
        values: dict[str, object] = {}
        for name, one in fields_of(model).items():
            value = node.get(name)
            if value is not None:
                values[name] = self._field(value, one, (*steps, name))
            elif one.required:
                values[name] = self._missing(one, steps, name)
        return _INVALID if _INVALID in values.values() else cast(Callable[..., object], model)(**values)

    def _field(self, node: Node, one: Field, steps: Steps) -> object:
        if not one.is_list:
            return self._one(node, one.form, steps)
        if not isinstance(node, SequenceNode):
            return self._no_list(node, steps)
        most = one.limits.max_length
        if most is not None and len(node.items) > most:
            return self._invalid(steps, f"has too many items: {most} at most")
        if len(node.items) < one.limits.min_length:
            return self._empty(steps)
        items = [self._one(item, one.form, (*steps, at)) for at, item in enumerate(node.items)]
        return _INVALID if _INVALID in items else tuple(items)

    def _one(self, node: Node, form: Scalar[object] | Table | type[Section], steps: Steps) -> object:
        match form:
            case Scalar():
                return self._scalar(node, form, steps)
            case Table():
                return self._table(node, form, steps)
            case _:
                return self.section(node, form, steps)

    def _scalar(self, node: Node, kind: Scalar[object], steps: Steps) -> object:
        if not isinstance(node, ScalarNode):
            return self._invalid(
                steps, f"must be a single value, not a {'list' if isinstance(node, SequenceNode) else 'mapping'}"
            )
        if node.is_null:
            return self._invalid(steps, "is empty: write a value or remove it")
        try:
            return kind.parse(node.text)
        except ScalarError as error:
            text = str(error)
        return self._invalid(steps, text)

    def _table(self, node: Node, table: Table, steps: Steps) -> object:
        if not isinstance(node, MappingNode):
            return self._invalid(steps, f"must be a mapping (`key: value`), not {_shape(node)}")
        found = {}
        for key, value in node.entries:
            below = (*steps, key.text)
            name = self._scalar(key, table.key, (*below, "[key]"))
            found[name] = self._items(value, table.item, below)
        return _INVALID if _INVALID in found or _INVALID in found.values() else table.read_only(found)

    def _items(self, node: Node, kind: Scalar[object], steps: Steps) -> object:
        """Read a list of at least one scalar, or one scalar in place of it."""
        if isinstance(node, ScalarNode) and not node.is_null:
            item = self._scalar(node, kind, steps)
            return item if item is _INVALID else (item,)
        if not isinstance(node, SequenceNode):
            return self._no_list(node, steps)
        items = [self._scalar(item, kind, (*steps, at)) for at, item in enumerate(node.items)]
        if not items:
            return self._empty(steps)
        return _INVALID if _INVALID in items else tuple(items)

    def _no_list(self, node: Node, steps: Steps) -> object:
        return self._invalid(steps, f"must be a list (`- item`, or [item, item]), not {_shape(node)}")

    def _empty(self, steps: Steps) -> object:
        return self._invalid(steps, "is an empty list: add at least one item")

    def _missing(self, one: Field, steps: Steps, name: str) -> object:
        """Report a missing key: at its empty value if the key is present, otherwise at the start of its mapping.

        The text shows the example of the model as JSON, which is valid YAML in flow style.
        """
        inside = locate(self._root, steps)[0] or "the file"
        example = json.dumps((one.limits.examples or [""])[0])
        mark = locate(self._root, (*steps, name))[2]
        self._problems.add(mark, f"{inside} lacks the key {name}: add it, for example `{name}: {example}`")
        self._problems.raise_if_too_many()
        return _INVALID

    def _invalid(self, steps: Steps, text: str) -> object:
        """Add a problem at a node. Not to be called while an exception is handled, which could contain a key."""
        path, _, mark = locate(self._root, steps)
        self._problems.add(mark, f"{path} {text}")
        self._problems.raise_if_too_many()
        return _INVALID


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

    def known(self, node: MappingNode, model: type[Section], path: str) -> MappingNode:
        """Return one mapping, and all mappings below it, with known keys only."""
        fields = fields_of(model)
        present = {key.text for key, _ in node.entries}
        entries: list[tuple[ScalarNode, Node]] = []
        for key, value in node.entries:
            name = key.text
            if name not in fields:
                name = self._report(key, model, path)
                is_scalar = isinstance(value, ScalarNode)
                if not name or name in present or (is_scalar and not fields[name].required):
                    continue
                present.add(name)
                if is_scalar:
                    self._problems.silence(value.mark)
            section = fields[name].section
            below = value if section is None else self._below(value, section, f"{path}.{name}".lstrip("."))
            entries.append((key if name == key.text else ScalarNode(key.mark, name), below))
        return MappingNode(node.mark, tuple(entries))

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
        close = "" if home else self._problems.suggestion(key.text.lower(), fields_of(model), ALIKE)
        if key.text == "<<":
            advice = ": merge keys are not supported; write the keys here"
        elif home:
            advice = f": it belongs {home}"
        elif close:
            advice = f"; did you mean {close!r}?"
        else:
            advice = f"; the keys here are {', '.join(fields_of(model))}"
        where = f" in {path}" if path else ""
        self._problems.add(key.mark, f"unknown key {shown(key.text)}{where}{advice}")
        self._problems.raise_if_too_many()
        return close


def _homes() -> Iterator[tuple[str, str]]:
    """Yield each key of a section and of the file with its proper location. The last pair of a key counts."""
    for name in reversed(tuple(fields_of(Config))):
        section = section_of(Config, name)
        if section is not None:
            yield from ((key, f"under {name!r}") for key in fields_of(section))
    for name in fields_of(Config):
        yield name, "at the top of the file"
