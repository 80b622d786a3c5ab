"""Parse YAML text into a tree of nodes with their positions. Values have no types yet: every scalar is its text.

So ``010203``, ``01``, ``1e3`` and ``12:30`` mean what they look like. Only a plain ``null``, ``~`` or an absent value
is special. The tree is built from PyYAML's events with an explicit stack, because PyYAML's composer recurses. Nesting
is bounded, duplicate keys are detected, and every invalid text raises ConfigError and nothing else.

These are rejected with their position: anchors and aliases, tags, merge keys, a second document, and keys that are not
scalars. No two values of a configuration need to be the same object, and an aliased value would have two positions.

PyYAML's Python scanner reads small texts, so that messages and columns are equal on every machine. It takes 0.2 ms per
backend. PyYAML's C scanner, if it is installed, takes 0.01 ms and reads texts of MIN_FAST characters or more. If it
rejects a text of up to MAX_READ_AGAIN characters, the Python scanner reads it again, and its result counts.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import yaml

from qlb.config.problems import START, Mark, Problems, masked, shown
from qlb.errors import ConfigError

MAX_DEPTH: Final = 16
"""Levels of nested collections; the schema needs five."""

MAX_NODES: Final = 3_000_000
"""Keys, values and collections. A file with 65,536 backends, every key and seven CID configs has two million."""
MIN_FAST: Final = 1 << 16
"""Characters from which the C scanner is used. It reports another column for an empty value; nothing else differs."""
MAX_READ_AGAIN: Final = 1 << 20
"""Characters that the Python scanner can read within a few seconds."""

_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_WORD: Final = re.compile(r"[A-Za-z0-9_]{1,20}")
_HINTS: Final = (
    ("mapping values are not allowed", "indent all keys of a mapping alike, and quote a value that contains ': '"),
    ("'\\t'", "indent with spaces, not with tabs"),
    ("could not find expected ':'", "write `key: value`, with a space after the colon"),
    ("but found ':'", 'quote the whole value: "[::1]:4433"'),
    ("but found '<scalar>'", 'quote the whole value: "[::1]:4433"'),
    ("special characters are not allowed", "remove the character; the file must be plain text"),
)


class _YamlMark(Protocol):
    """A mark of PyYAML, counted from 0. Its Python scanner and its C scanner have different classes for it."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """A single value. text: as written, without quotes; possibly a secret. is_null: absent, ~ or null."""

    mark: Mark
    text: str = field(repr=False)
    is_null: bool = False


@dataclass(frozen=True, slots=True)
class SequenceNode:
    """A list."""

    mark: Mark
    items: "tuple[Node, ...]"


@dataclass(frozen=True, slots=True)
class MappingNode:
    """A mapping: keys and values in the order of the file, each key once."""

    mark: Mark
    entries: "tuple[tuple[ScalarNode, Node], ...]"
    _by_text: "dict[str, tuple[ScalarNode, Node]]" = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the keys, because a hostile file can have 200,000 of them in one mapping."""
        object.__setattr__(self, "_by_text", {entry[0].text: entry for entry in self.entries})

    def entry(self, key: str) -> "tuple[ScalarNode, Node] | None":
        """Return the node of a key and its value, or None if the key is absent."""
        return self._by_text.get(key)

    def get(self, key: str) -> "Node | None":
        """Return the value of a key, or None if it is absent or null."""
        value = self._by_text.get(key, (None, None))[1]
        return None if isinstance(value, ScalarNode) and value.is_null else value


Node = ScalarNode | SequenceNode | MappingNode


def parse(text: str, problems: Problems) -> MappingNode:
    """Parse one YAML document, which must be a mapping.

    Valid YAML that qlb rejects is added to problems, and parsing continues.
    Raises ConfigError if parsing cannot continue: the text is invalid YAML, nested too deeply, empty or not a mapping.
    """
    root = _read(text, problems)
    if root is None or (isinstance(root, ScalarNode) and root.is_null):
        raise problems.failure(START, "the file is empty: it needs at least `listen` and `backends`")
    if not isinstance(root, MappingNode):
        raise problems.failure(root.mark, "the file must be a mapping of keys such as `listen:` and `backends:`")
    return root


def locate(root: Node, steps: tuple[int | str, ...]) -> tuple[str, Node, Mark]:
    """Follow keys and indexes; return the path for a message, the last node that exists, and its position.

    A last step "[key]" selects the key instead of its value. Steps that do not exist are ignored.
    """
    node, path, mark = root, "", root.mark
    for at, step in enumerate(steps):
        if isinstance(node, SequenceNode) and isinstance(step, int):
            node, path = node.items[step], f"{path}[{step}]"
            mark = node.mark
        elif isinstance(node, MappingNode) and (entry := node.entry(str(step))) is not None:
            key, node = entry
            path = f"{path}.{_word(key.text)}".lstrip(".")
            mark = key.mark if steps[at + 1 :] == ("[key]",) else node.mark
    return path, node, mark


def _word(key: str) -> str:
    """Return a key for a path. A key in server_ids can be any text by mistake, even a secret."""
    return key if _WORD.fullmatch(key) else shown(key)


def _read(text: str, problems: Problems) -> Node | None:
    """Return the top node of the text, None for an empty text. Raises ConfigError if parsing cannot continue."""
    scanner = getattr(yaml, "CSafeLoader", None)
    if scanner is not None and len(text) >= MIN_FAST:
        first = Problems(problems.path)
        try:
            root = _build(_events(scanner, text, first), first)
        except ConfigError:
            if len(text) > MAX_READ_AGAIN:
                raise
        else:
            problems.merge(first)
            return root
    return _build(_events(yaml.SafeLoader, text, problems), problems)


def _build(events: "Iterator[yaml.Event]", problems: Problems) -> Node | None:
    builder = _Builder(problems)
    for count, event in enumerate(events):
        builder.take(event)
        if count > MAX_NODES:
            text = f"more than {MAX_NODES:,} values: this is not a configuration of qlb"
            raise problems.failure(_mark(event.start_mark), text)
    return builder.root


def _events(scanner: Callable[[str], Any], text: str, problems: Problems) -> Iterator[yaml.Event]:
    """Yield PyYAML's events; convert each exception of PyYAML into a problem with a position."""
    loader = None
    try:
        yaml.reader.Reader(text)  # raises ReaderError, which names the first character that YAML forbids
        loader = scanner(text)
        while loader.check_event():
            yield loader.get_event()
        return
    except yaml.MarkedYAMLError as error:
        mark = _mark(error.problem_mark or error.context_mark)
        reason = masked(error.problem or "unreadable")
    except yaml.reader.ReaderError as error:
        mark = position(text, error.position)
        reason = f"character U+{error.character:04X}: {error.reason}"
    except (ValueError, OverflowError):
        # PyYAML does not catch errors of int() and chr(): a directive of 5,000 digits, an escape above U+10FFFF.
        mark = _mark(loader.get_mark() if loader else None)
        reason = "a number here is too large"
    except RecursionError:
        mark, reason = START, "nested too deeply"
    raise problems.failure(mark, _syntax(reason))


def position(text: str, index: int) -> Mark:
    """Return line and column of the character at an index."""
    before = text[:index]
    return Mark(before.count("\n") + 1, index - (before.rfind("\n") + 1) + 1)


def _mark(mark: _YamlMark | None) -> Mark:
    return START if mark is None else Mark(mark.line + 1, mark.column + 1)


def _syntax(text: str) -> str:
    hint = next((hint for sign, hint in _HINTS if sign in text), "")
    return f"not valid YAML: {text}" + (f" ({hint})" if hint else "")


@dataclass(slots=True)
class _Open:
    """A collection whose end was not read yet. In a mapping, keys and values alternate in children."""

    mark: Mark
    is_mapping: bool
    children: list[Node] = field(default_factory=list)


class _Builder:
    """A builder of the tree: take() receives the events, root is the result."""

    def __init__(self, problems: Problems) -> None:
        self.root: Node | None = None
        self._problems = problems
        self._open: list[_Open] = []
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        """Process one event."""
        mark = _mark(event.start_mark)
        match event:
            case yaml.ScalarEvent():
                self._refuse_extras(event, mark)
                # The style of a plain scalar is "" in the C scanner, None in the Python scanner.
                self._add(ScalarNode(mark, event.value, not event.style and event.value in _NULLS))
            case yaml.CollectionStartEvent():
                self._refuse_extras(event, mark)
                self._start_collection(mark, is_mapping=isinstance(event, yaml.MappingStartEvent))
            case yaml.CollectionEndEvent():
                self._add(self._end_collection())
            case yaml.DocumentStartEvent():
                self._start_document(mark)
            case yaml.AliasEvent():
                self._problems.add(mark, "aliases (*name) are not supported: write the value here")
                self._problems.raise_if_too_many()
                self._problems.silence(mark)
                self._add(ScalarNode(mark, ""))

    def _start_document(self, mark: Mark) -> None:
        self._documents += 1
        if self._documents > 1:
            raise self._problems.failure(mark, "a second YAML document starts here: one file is one configuration")

    def _start_collection(self, mark: Mark, *, is_mapping: bool) -> None:
        if len(self._open) >= MAX_DEPTH:
            raise self._problems.failure(mark, f"nested more than {MAX_DEPTH} levels deep: no key of qlb needs that")
        self._open.append(_Open(mark, is_mapping))

    def _end_collection(self) -> Node:
        ended = self._open.pop()
        if not ended.is_mapping:
            return SequenceNode(ended.mark, tuple(ended.children))
        entries: dict[str, tuple[ScalarNode, Node]] = {}
        for key, value in zip(ended.children[::2], ended.children[1::2], strict=True):
            self._problems.raise_if_too_many()
            if not isinstance(key, ScalarNode):
                self._problems.add(key.mark, "a key must be a single word, not a list or a mapping")
            elif key.text in entries:
                line = entries[key.text][0].mark.line
                self._problems.add(key.mark, f"duplicate key {shown(key.text)}: also in line {line}; remove one")
            else:
                entries[key.text] = (key, value)
        return MappingNode(ended.mark, tuple(entries.values()))

    def _add(self, node: Node) -> None:
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.root = node

    def _refuse_extras(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, mark: Mark) -> None:
        if event.anchor is not None:
            self._problems.add(mark, "anchors (&name) are not supported: write the value where it is used")
        if event.tag is not None:
            self._problems.add(mark, "tags (!name) are not supported: the key determines the type of its value")
        self._problems.raise_if_too_many()
