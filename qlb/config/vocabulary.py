"""Which keys a mapping may have: the model's. An unknown one is a problem, and mostly a misspelt known one.

A misspelt key is reported and then read as the known key that it resembles, so that what stands below it is
checked too and nothing is said to be missing because of it. A scalar of its own is read in silence, and only
where it is needed, since the guess may be wrong.
"""

from collections.abc import Iterator
from typing import Final

from qlb.config.model import Config, Section, section_of
from qlb.config.problems import Problems, shown
from qlb.config.tree import MappingNode, Node, ScalarNode, SequenceNode

ALIKE: Final = 0.6
"""difflib's ratio from which an unknown key is taken for a known one."""


def known_keys(root: MappingNode, problems: Problems, model: type[Section] = Config) -> MappingNode:
    """Return the tree with known keys only: misspelt ones renamed, others reported and left out.

    model: of the whole file.
    """
    return _Vocabulary(problems).known(root, model, "")


class _Vocabulary:
    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._homes = dict(_homes())
        self._sections: dict[type[Section], dict[str, type[Section] | None]] = {}

    def known(self, node: MappingNode, model: type[Section], path: str) -> MappingNode:
        """Return one mapping, and those below it, with the keys of its model."""
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
        """Return what section_of() says of every field; asked once per model, there may be 65,536 backends."""
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
        """Say that a key is unknown; return the one that it resembles, or "".

        Its value is not shown, and neither is a key that looks like a secret: to YAML, `{key:00ff…}` without
        the space is one word.
        """
        home = self._homes.get(key.text)
        close = "" if home else self._problems.suggestion(key.text.lower(), model.model_fields, ALIKE)
        if key.text == "<<":
            advice = ": merge keys are not supported, write the keys out"
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
    """Yield every key of a section and of the file, and where it belongs; the last pair of a key counts."""
    for name in reversed(Config.model_fields):
        section = section_of(Config, name)
        if section is not None:
            yield from ((key, f"under {name!r}") for key in section.model_fields)
    for name in Config.model_fields:
        yield name, "at the top of the file"
