"""Edit the text of a configuration. Only the edited places change: comments, order, quotes and styles stay.

PyYAML's marks give the places. The loader has already refused the YAML that this module does not support (anchors and
tags). Each edit loads its result again and compares it with the intended configuration.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import yaml

from qlb.config.load import load_text
from qlb.config.model import CidConfig, CidState, Config
from qlb.errors import ConfigError


class _Edit(NamedTuple):
    start: int
    end: int
    text: str


class Document:
    """The text of one configuration with a list of edits. Reading ``text`` applies them all."""

    def __init__(self, text: str) -> None:
        """Parse a text that the loader has accepted."""
        self._text = text if text.endswith("\n") else text + "\n"
        root = yaml.compose(self._text, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError("the top level of the configuration is not a mapping")
        self._root = root
        self._edits: list[_Edit] = []

    @property
    def text(self) -> str:
        """Return the text with all edits."""
        text = self._text
        for edit in sorted(self._edits, reverse=True):
            text = text[: edit.start] + edit.text + text[edit.end :]
        return text

    def value(self, key: str) -> yaml.Node | None:
        """Return the value of a top-level key; None if the key is absent."""
        return value_of(self._root, key)

    def items(self, key: str) -> list[yaml.MappingNode]:
        """Return the mappings in a top-level list."""
        node = self.value(key)
        return [item for item in getattr(node, "value", ()) if isinstance(item, yaml.MappingNode)]

    def append_item(self, key: str, pairs: list[tuple[str, str]]) -> None:
        """Add a mapping to a top-level list that has items already. pairs: keys and values, as YAML text."""
        sequence = self.value(key)
        assert isinstance(sequence, yaml.SequenceNode), "the loader accepts only lists here"
        end = _end(sequence.value[-1])
        if sequence.flow_style:
            self._insert(end, f", {{{', '.join(f'{name}: {value}' for name, value in pairs)}}}")
            return
        dash = " " * sequence.start_mark.column
        lines = [f"{dash}{'- ' if not at else '  '}{name}: {value}\n" for at, (name, value) in enumerate(pairs)]
        self._insert(self._past_comments(self._line_end(end), sequence.start_mark.column), "".join(lines))

    def remove_item(self, key: str, item: yaml.MappingNode) -> None:
        """Remove an item from a top-level list."""
        sequence = self.value(key)
        assert isinstance(sequence, yaml.SequenceNode), "the loader accepts only lists here"
        if sequence.flow_style:
            self._cut_from_flow(item.start_mark.index, _end(item))
        else:
            self._cut_lines(self._text.rindex("-", 0, item.start_mark.index), _end(item), sequence.start_mark.column)

    def put(self, mapping: yaml.MappingNode, key: str, value: str) -> None:
        """Set the value of a key, as YAML text. If the key is absent, add it after the first key."""
        before = value_of(mapping, key)
        if before is not None:
            self._edits.append(_Edit(before.start_mark.index, _end(before), value))
        else:
            self._add(mapping, mapping.value[0], key, value)

    def add(self, mapping: yaml.MappingNode, key: str, value: str) -> None:
        """Add a key at the end of a mapping that has keys already. value: as YAML text."""
        self._add(mapping, mapping.value[-1], key, value)

    def remove(self, mapping: yaml.MappingNode, key: str) -> None:
        """Remove a key from a mapping that has at least one other key."""
        name, value = next(pair for pair in mapping.value if pair[0].value == key)
        if mapping.flow_style:
            self._cut_from_flow(name.start_mark.index, _end(value))
        elif name is mapping.value[0][0]:  # a dash may precede it, so the next key moves here
            self._edits.append(_Edit(name.start_mark.index, mapping.value[1][0].start_mark.index, ""))
        else:
            self._cut_lines(name.start_mark.index, _end(value), name.start_mark.column)

    def _add(self, mapping: yaml.MappingNode, after: tuple[yaml.Node, yaml.Node], key: str, value: str) -> None:
        if mapping.flow_style:
            self._insert(_end(after[1]), f", {key}: {value}")
        else:
            column = mapping.value[0][0].start_mark.column
            self._insert(self._line_end(_end(after[1])), f"{' ' * column}{key}: {value}\n")

    def _insert(self, at: int, text: str) -> None:
        self._edits.append(_Edit(at, at, text))

    def _line_end(self, at: int) -> int:
        """Return the start of the line after an index."""
        return self._text.index("\n", at) + 1

    def _cut_lines(self, start: int, end: int, column: int) -> None:
        """Remove whole lines, and the comments after them that are indented deeper than a column."""
        begin, finish = self._text.rfind("\n", 0, start) + 1, self._past_comments(self._line_end(end), column)
        self._edits.append(_Edit(begin, finish, ""))

    def _past_comments(self, at: int, column: int) -> int:
        """Return the start of the first line from an index on that is not a comment indented deeper than a column."""
        while (line := self._text[at:].partition("\n")[0]).lstrip().startswith("#"):
            if len(line) - len(line.lstrip()) <= column:
                break
            at += len(line) + 1
        return at

    def _cut_from_flow(self, start: int, end: int) -> None:
        """Remove an entry and one comma beside it."""
        before = self._text[:start].rstrip()
        if before.endswith(","):
            self._edits.append(_Edit(len(before) - 1, end, ""))
            return
        rest = self._text[end:]
        comma = rest.index(",") + 1
        self._edits.append(_Edit(start, end + comma + len(rest[comma:]) - len(rest[comma:].lstrip(" ")), ""))


def value_of(mapping: yaml.MappingNode, key: str) -> yaml.Node | None:
    """Return the value of a key; None if the key is absent."""
    return next((value for name, value in mapping.value if name.value == key), None)


def text_of(mapping: yaml.MappingNode, key: str) -> str:
    """Return the text of a scalar value; ``""`` if the key is absent."""
    value = value_of(mapping, key)
    return value.value if isinstance(value, yaml.ScalarNode) else ""


def _end(node: yaml.Node) -> int:
    """Return the end of a node's last character. The end marks of block collections are behind it."""
    if not isinstance(node, yaml.CollectionNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def without_keys(text: str) -> str:
    """Return the text with ``(not shown)`` in place of every key."""
    document = Document(text)
    fallback = document.value("fallback")
    for mapping in (*document.items("cid_configs"), *([fallback] if isinstance(fallback, yaml.MappingNode) else [])):
        for name in ("key", "hash_key"):
            if value_of(mapping, name) is not None:
                document.put(mapping, name, "(not shown)")
    return document.text


def introduce(text: str, path: Path, new: CidConfig, old_id: int, server_ids: Mapping[str, tuple[bytes, ...]]) -> str:
    """Return the text with a new, staged CID config.

    new: with a key; its key_file, if any, need not exist yet. old_id: config ID of the entry to imitate. server_ids: of
    each backend under the new CID config. Raises ConfigError if the text cannot be edited safely.
    """
    # The edited text is checked with the key in place of the key file, which the loader would have to read.
    checked = _introduced(text, new, old_id, server_ids, ("key", _quoted((new.key or b"").hex())))
    before = load_text(text, path, with_keys=False).config
    backends = tuple(
        replace(one, server_ids={**one.server_ids, new.config_id: server_ids[one.name]})
        if one.name in server_ids
        else one
        for one in before.backends
    )
    after = _loaded(checked, path)
    staged = next((one for one in after.cid_configs if one.config_id == new.config_id), None)
    if staged is None or (staged.key, staged.state) != (new.key, "staged"):
        raise _cannot_edit(path, "the new CID config would be wrong")
    wanted = replace(before, cid_configs=(*before.cid_configs, staged), backends=backends)
    edited = _checked(checked, path, wanted)
    if new.key_file is None:
        return edited
    edited = _introduced(text, new, old_id, server_ids, ("key_file", _quoted(str(new.key_file)))).text
    if text_of(_entry(Document(edited), new.config_id), "key_file") != str(new.key_file):
        raise _cannot_edit(path, "the new key_file would be wrong")
    return edited


def _introduced(
    text: str, new: CidConfig, old_id: int, server_ids: Mapping[str, tuple[bytes, ...]], secret: tuple[str, str]
) -> Document:
    document = Document(text)
    own = _entry(document, old_id)
    lengths = [(name, text_of(own, name)) for name in ("server_id_length", "nonce_length")]
    extras = [(name, text_of(own, name)) for name in ("cid_length", "length_self_encoded") if value_of(own, name)]
    document.append_item(
        "cid_configs", [("config_id", str(new.config_id)), ("state", "staged"), *lengths, *extras, secret]
    )
    for backend in document.items("backends"):
        mapping = value_of(backend, "server_ids")
        if isinstance(mapping, yaml.MappingNode) and text_of(backend, "name") in server_ids:
            document.add(mapping, str(new.config_id), _ids(server_ids[text_of(backend, "name")]))
    return document


def set_states(text: str, path: Path, states: Mapping[int, CidState]) -> str:
    """Return the text with new states of CID configs. Raises ConfigError if the text cannot be edited safely."""
    document = Document(text)
    for config_id, state in states.items():
        document.put(_entry(document, config_id), "state", state)
    before = load_text(text, path, with_keys=False).config
    configs = tuple(replace(one, state=states.get(one.config_id, one.state)) for one in before.cid_configs)
    return _checked(document, path, replace(before, cid_configs=configs))


def remove(text: str, path: Path, config_id: int) -> str:
    """Return the text without a CID config and the server IDs under it.

    Raises ConfigError if a backend would have no server ID left, or the text cannot be edited safely.
    """
    document = Document(text)
    document.remove_item("cid_configs", _entry(document, config_id))
    before = load_text(text, path, with_keys=False).config
    backends = []
    for one, backend in zip(before.backends, document.items("backends"), strict=True):
        mapping = value_of(backend, "server_ids")
        if config_id not in one.server_ids or not isinstance(mapping, yaml.MappingNode):
            backends.append(one)
            continue
        if len(one.server_ids) == 1:
            raise ConfigError(f"backend {one.name!r} has server IDs only under config {config_id}: none would be left")
        document.remove(mapping, next(key.value for key, _ in mapping.value if int(key.value) == config_id))
        left = {number: ids for number, ids in one.server_ids.items() if number != config_id}
        backends.append(replace(one, server_ids=left))
    configs = tuple(one for one in before.cid_configs if one.config_id != config_id)
    return _checked(document, path, replace(before, cid_configs=configs, backends=tuple(backends)))


def key_file_of(text: str, config_id: int) -> str:
    """Return the key_file of a CID config as the text has it; "" if there is none."""
    return text_of(_entry(Document(text), config_id), "key_file")


def _entry(document: Document, config_id: int) -> yaml.MappingNode:
    return next(item for item in document.items("cid_configs") if int(text_of(item, "config_id")) == config_id)


def _checked(document: Document, path: Path, wanted: Config) -> str:
    """Return the edited text if it means the intended configuration."""
    if _loaded(document, path) != wanted:
        raise _cannot_edit(path, "the result would be another configuration")
    return document.text


def _loaded(document: Document, path: Path) -> Config:
    try:
        return load_text(document.text, path, with_keys=False).config
    except ConfigError as error:
        raise _cannot_edit(path, str(error)) from error


def _cannot_edit(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path} cannot be edited safely ({why}): do this step by hand")


def _ids(server_ids: tuple[bytes, ...]) -> str:
    texts = [_quoted(server_id.hex()) for server_id in server_ids]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
