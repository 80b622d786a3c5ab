"""The three edits of a rotation: a new QUIC-LB configuration comes in, takes over, and the old one goes.

Each takes the text of a configuration and returns another one; comments and layout stay. The result is loaded and
compared with what was meant before anybody sees it: a text that cannot be edited safely is told, and nothing is done.

Spec: draft-ietf-quic-load-balancers, section "Configuration Rotation".
"""

from collections.abc import Mapping
from pathlib import Path

import yaml

from qlb.config.edit import Document, text_of, value_of
from qlb.config.load import load_text
from qlb.config.model import CidConfig, CidState, Config
from qlb.errors import ConfigError


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
