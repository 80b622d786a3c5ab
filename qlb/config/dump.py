"""The configuration as YAML again, without secrets: `qlb config`.

A key that is in the file itself becomes NOT_SHOWN, which qlb rejects: no one can run this output by mistake without
encryption. A key from a key file is represented by the file's path, or by the name of the credential. Each CID config
has the fingerprint of its key.

This module writes its YAML itself, because the dumper of PyYAML takes minutes for 65,536 backends.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from qlb.cid.params import CidParams
from qlb.config.build import cid_params
from qlb.config.credentials import configured_name
from qlb.config.fields import Section, fields_of
from qlb.config.model import CidConfig, Config, DiscoverySource
from qlb.config.scalars import Size, duration_text
from qlb.config.source_rules import SOURCE_KEYS, SOURCE_KINDS

NOT_SHOWN: Final = "(not shown)"
"""The text in place of a secret."""
_SECRETS: Final = ("key", "hash_key")
_KEY_FILES: Final = tuple(f"{name}_file" for name in _SECRETS)
_FINGERPRINT: Final = "fingerprint"
_SERVER_IDS: Final = "server_ids"
_PLAIN: Final = re.compile(r"[A-Za-z0-9/.](?:[A-Za-z0-9_./:@%-]*[A-Za-z0-9_./@%-])?")
_LIKE_A_NUMBER: Final = re.compile(r"[0-9.][0-9A-Fa-f._+-]*|[0-9]+(?::[0-9]+)+[0-9.]*|0[xo].*")
_WORDS: Final = frozenset({"true", "false", "yes", "no", "on", "off", "y", "n", "null"})
"""Texts that a parser may read as something else."""


def as_data(config: Config, *, with_defaults: bool, with_keys: bool = True) -> dict[str, object]:
    """Return a loaded configuration as data for JSON, in the form of the YAML.

    with_defaults: include the keys that have their defaults. with_keys: the key files were read, so every CID config
    has one more entry, `fingerprint`.
    """
    found = _section(config, with_defaults)
    configs = found.get("cid_configs")
    if with_keys and isinstance(configs, list):
        for one, params in zip(configs, cid_params(config), strict=True):
            one[_FINGERPRINT] = params.fingerprint
    return found


def as_yaml(data: Mapping[str, object]) -> str:
    """Return the result of as_data() as YAML. Fingerprints become comments, because they are no keys."""
    return "".join(f"{line}\n" for line in _mapping(data, ""))


def _section(section: Section, with_defaults: bool) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, field in fields_of(type(section)).items():
        value = getattr(section, name)
        if value == field.default and not with_defaults and not field.required:
            continue
        if name in _SECRETS and value is not None:
            if getattr(section, f"{name}_file") is None:
                found[name] = NOT_SHOWN
        elif with_defaults and not _is_possible(section, name):
            continue
        elif value is None and field.default is not None and not field.required:
            found[name] = "none"  # the word that turns a default off
        else:
            written = _as_written(_in_force(section, name, value), with_defaults)
            if with_defaults or field.required or written != {}:
                found[name] = written
    return found


def _is_possible(section: Section, name: str) -> bool:
    """Return false for a key that the kind of this discovery source does not have."""
    if not isinstance(section, DiscoverySource):
        return True
    return any(getattr(section, kind) is not None for kind in SOURCE_KEYS.get(name, SOURCE_KINDS))


def _in_force(section: Section, name: str, value: object) -> object:
    """Return the value of a key: the length that results for a cid_length without a value, a credential by its name."""
    if value is None and name == "cid_length" and isinstance(section, CidConfig):
        return CidParams(section.config_id, section.server_id_length, section.nonce_length).cid_length
    if name in _KEY_FILES and isinstance(value, Path):
        return configured_name(value)
    return value


def _as_written(value: object, with_defaults: bool) -> object:
    # Concrete types first: a configuration has up to 65,536 backends with five values each.
    if isinstance(value, str | Size):
        return str(value)
    if value is None or isinstance(value, int):
        return value
    if isinstance(value, float):
        return duration_text(value)
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Section):
        return _section(value, with_defaults)
    if type(value) is tuple:
        return [_as_written(one, with_defaults) for one in value]
    if isinstance(value, MappingProxyType):
        return {str(key): _one_or_more(_as_written(one, with_defaults)) for key, one in value.items()}
    return str(value)  # an address, a network, a path


def _one_or_more(ids: object) -> object:
    return ids[0] if isinstance(ids, list) and len(ids) == 1 else ids


def _mapping(data: Mapping[str, object], indent: str) -> Iterator[str]:
    """Yield the lines of a mapping."""
    for name, value in data.items():
        if name == _FINGERPRINT:
            continue
        if not value or not isinstance(value, dict | list):
            yield f"{indent}{name}: {_scalar(value)}"
        elif name == _SERVER_IDS and isinstance(value, dict):
            yield f"{indent}{name}: {{{', '.join(f'{key}: {json.dumps(ids)}' for key, ids in value.items())}}}"
        else:
            yield f"{indent}{name}:"
            yield from _mapping(value, f"{indent}  ") if isinstance(value, dict) else _list(value, f"{indent}  ")


def _list(items: list[object], indent: str) -> Iterator[str]:
    """Yield the lines of a list. The fingerprint of a CID config is a comment on the first line of it."""
    for item in items:
        if not isinstance(item, dict):
            yield f"{indent}- {_scalar(item)}"
            continue
        first, *others = _mapping(item, f"{indent}  ")
        comment = f"  # {_FINGERPRINT} {item[_FINGERPRINT]}" if _FINGERPRINT in item else ""
        yield f"{indent}- {first.lstrip()}{comment}"
        yield from others


def _scalar(value: object) -> str:
    """Return a scalar, or an empty list or mapping. A text is quoted if a parser could read it as something else."""
    if not isinstance(value, str):
        return json.dumps(value)
    is_plain = _PLAIN.fullmatch(value) and not _LIKE_A_NUMBER.fullmatch(value) and value.lower() not in _WORDS
    return value if is_plain else json.dumps(value, ensure_ascii=False)
