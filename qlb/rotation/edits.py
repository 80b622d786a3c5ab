"""Change a configuration's text where it must change, and leave every other character as its author wrote it.

Comments, order, quotes and styles stay. Places come from PyYAML's marks; the loader refuses what this does not
understand (anchors, tags), and whoever edits loads the result again and compares it with what was wanted.
"""

from collections.abc import Mapping
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
    """The text of one configuration, with edits that are made all at once."""

    def __init__(self, text: str) -> None:
        """text: one that the loader has accepted."""
        self._text = text if text.endswith("\n") else text + "\n"
        root = yaml.compose(self._text, Loader=yaml.SafeLoader)
        if not isinstance(root, yaml.MappingNode):
            raise ConfigError("the top of the configuration is no mapping")
        self._root = root
        self._edits: list[_Edit] = []

    @property
    def text(self) -> str:
        """The text with all edits."""
        text = self._text
        for edit in sorted(self._edits, reverse=True):
            text = text[: edit.start] + edit.text + text[edit.end :]
        return text

    def items(self, key: str) -> list[yaml.MappingNode]:
        """Return the mappings of a list at the top."""
        node = value_of(self._root, key)
        return [item for item in getattr(node, "value", ()) if isinstance(item, yaml.MappingNode)]

    def append_item(self, key: str, pairs: list[tuple[str, str]]) -> None:
        """Add a mapping to a list at the top that has items already. pairs: keys and values as they are written."""
        sequence = value_of(self._root, key)
        assert isinstance(sequence, yaml.SequenceNode), "the loader takes nothing else"
        end = _end(sequence.value[-1])
        if sequence.flow_style:
            self._insert(end, f", {{{', '.join(f'{name}: {value}' for name, value in pairs)}}}")
            return
        dash = " " * sequence.start_mark.column
        lines = [f"{dash}{'- ' if not at else '  '}{name}: {value}\n" for at, (name, value) in enumerate(pairs)]
        self._insert(self._past_comments(self._line_end(end), sequence.start_mark.column), "".join(lines))

    def remove_item(self, key: str, item: yaml.MappingNode) -> None:
        """Take an item out of a list at the top."""
        sequence = value_of(self._root, key)
        assert isinstance(sequence, yaml.SequenceNode), "the loader takes nothing else"
        if sequence.flow_style:
            self._cut_from_flow(item.start_mark.index, _end(item))
        else:
            self._cut_lines(self._text.rindex("-", 0, item.start_mark.index), _end(item), sequence.start_mark.column)

    def put(self, mapping: yaml.MappingNode, key: str, value: str) -> None:
        """Set a key: in its place, or after the first one where it is not there. value: as it is written."""
        before = value_of(mapping, key)
        if before is not None:
            self._edits.append(_Edit(before.start_mark.index, _end(before), value))
        else:
            self._add(mapping, mapping.value[0], key, value)

    def add(self, mapping: yaml.MappingNode, key: str, value: str) -> None:
        """Add a key at the end of a mapping that has keys already. value: as it is written."""
        self._add(mapping, mapping.value[-1], key, value)

    def remove(self, mapping: yaml.MappingNode, key: str) -> None:
        """Take a key out of a mapping that keeps another one."""
        name, value = next(pair for pair in mapping.value if pair[0].value == key)
        if mapping.flow_style:
            self._cut_from_flow(name.start_mark.index, _end(value))
        elif name is mapping.value[0][0]:  # it may stand behind a dash: the next one takes its place
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
        """Return where the line after a place begins."""
        return self._text.index("\n", at) + 1

    def _cut_lines(self, start: int, end: int, column: int) -> None:
        """Cut whole lines, and the comments that follow them further in than a column."""
        begin, finish = self._text.rfind("\n", 0, start) + 1, self._past_comments(self._line_end(end), column)
        self._edits.append(_Edit(begin, finish, ""))

    def _past_comments(self, at: int, column: int) -> int:
        """Return where the first line from here on begins that is no comment further in than a column."""
        while (line := self._text[at:].partition("\n")[0]).lstrip().startswith("#"):
            if len(line) - len(line.lstrip()) <= column:
                break
            at += len(line) + 1
        return at

    def _cut_from_flow(self, start: int, end: int) -> None:
        """Cut an entry and one comma beside it."""
        before = self._text[:start].rstrip()
        if before.endswith(","):
            self._edits.append(_Edit(len(before) - 1, end, ""))
            return
        rest = self._text[end:]
        comma = rest.index(",") + 1
        self._edits.append(_Edit(start, end + comma + len(rest[comma:]) - len(rest[comma:].lstrip(" ")), ""))


def value_of(mapping: yaml.MappingNode, key: str) -> yaml.Node | None:
    """Return the value of a key; None where it is absent."""
    return next((value for name, value in mapping.value if name.value == key), None)


def text_of(mapping: yaml.MappingNode, key: str) -> str:
    """Return a scalar value's text; "" where it is absent."""
    value = value_of(mapping, key)
    return value.value if isinstance(value, yaml.ScalarNode) else ""


def _end(node: yaml.Node) -> int:
    """Return where a node's last character ends. The marks of block collections reach beyond it."""
    if not isinstance(node, yaml.CollectionNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def introduce(text: str, path: Path, new: CidConfig, old_id: int, server_ids: Mapping[str, tuple[bytes, ...]]) -> str:
    """Return the text with a new, staged configuration.

    new: with a key, or with a key_file that is there. old_id: of the configuration whose entry it resembles.
    server_ids: of each backend, under the new one. Raises ConfigError where the text cannot be edited.
    """
    document = Document(text)
    own = _entry(document, old_id)
    lengths = [(name, text_of(own, name)) for name in ("server_id_length", "nonce_length")]
    extras = [(name, text_of(own, name)) for name in ("cid_length", "length_self_encoded") if value_of(own, name)]
    secret = ("key_file", _quoted(str(new.key_file))) if new.key_file else ("key", _quoted((new.key or b"").hex()))
    document.append_item(
        "cid_configs", [("config_id", str(new.config_id)), ("state", "staged"), *lengths, *extras, secret]
    )
    for backend in document.items("backends"):
        mapping = value_of(backend, "server_ids")
        if isinstance(mapping, yaml.MappingNode) and text_of(backend, "name") in server_ids:
            document.add(mapping, str(new.config_id), _ids(server_ids[text_of(backend, "name")]))
    before = load_text(text, path).config
    backends = tuple(
        one.model_copy(update={"server_ids": {**one.server_ids, new.config_id: server_ids[one.name]}})
        if one.name in server_ids
        else one
        for one in before.backends
    )
    after = _loaded(document, path)
    staged = next((one for one in after.cid_configs if one.config_id == new.config_id), None)
    if staged is None or (staged.key, staged.state) != (new.key, "staged"):
        raise _cannot_edit(path, "a new configuration")
    wanted = {"cid_configs": (*before.cid_configs, staged), "backends": backends}
    return _checked(document, path, before.model_copy(update=wanted))


def set_states(text: str, path: Path, states: Mapping[int, CidState]) -> str:
    """Return the text with other states of configurations. Raises ConfigError where it cannot be edited."""
    document = Document(text)
    for config_id, state in states.items():
        document.put(_entry(document, config_id), "state", state)
    before = load_text(text, path).config
    configs = tuple(
        one.model_copy(update={"state": states.get(one.config_id, one.state)}) for one in before.cid_configs
    )
    return _checked(document, path, before.model_copy(update={"cid_configs": configs}))


def remove(text: str, path: Path, config_id: int) -> str:
    """Return the text without a configuration and the server IDs under it. Raises ConfigError where it cannot be."""
    document = Document(text)
    document.remove_item("cid_configs", _entry(document, config_id))
    before = load_text(text, path).config
    backends = []
    for one, backend in zip(before.backends, document.items("backends"), strict=True):
        mapping = value_of(backend, "server_ids")
        if config_id not in one.server_ids or not isinstance(mapping, yaml.MappingNode):
            backends.append(one)
            continue
        if len(one.server_ids) == 1:
            raise ConfigError(f"backend {one.name!r} has server IDs under config {config_id} alone: it would have none")
        document.remove(mapping, next(key.value for key, _ in mapping.value if int(key.value) == config_id))
        left = {number: ids for number, ids in one.server_ids.items() if number != config_id}
        backends.append(one.model_copy(update={"server_ids": left}))
    configs = tuple(one for one in before.cid_configs if one.config_id != config_id)
    return _checked(document, path, before.model_copy(update={"cid_configs": configs, "backends": tuple(backends)}))


def _entry(document: Document, config_id: int) -> yaml.MappingNode:
    return next(item for item in document.items("cid_configs") if int(text_of(item, "config_id")) == config_id)


def _checked(document: Document, path: Path, wanted: Config) -> str:
    """Return the edited text if it says what was meant."""
    if _loaded(document, path) != wanted:
        raise _cannot_edit(path, "it would say something else")
    return document.text


def _loaded(document: Document, path: Path) -> Config:
    try:
        return load_text(document.text, path).config
    except ConfigError as error:
        raise _cannot_edit(path, str(error)) from error


def _cannot_edit(path: Path, why: str) -> ConfigError:
    return ConfigError(f"{path} cannot be edited safely ({why}): do this step by hand")


def _ids(server_ids: tuple[bytes, ...]) -> str:
    texts = [_quoted(server_id.hex()) for server_id in server_ids]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
