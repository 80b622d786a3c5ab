"""The configuration as YAML again, without secrets: `qlb config`.

A key that is in the file itself becomes NOT_SHOWN, which qlb rejects: no one can run this output by mistake without
encryption. A key from a key file is represented by the file's path. Each CID config has the fingerprint of its key.
"""

import re
from collections.abc import Mapping
from typing import Final

import yaml

from qlb.cid.params import CidParams
from qlb.config.build import cid_params
from qlb.config.fields import Section, fields_of
from qlb.config.model import CidConfig, Config, DiscoverySource
from qlb.config.rules import SOURCE_KEYS, SOURCE_KINDS
from qlb.config.scalars import Size, duration_text

NOT_SHOWN: Final = "(not shown)"
"""The text in place of a secret."""
_SECRETS: Final = ("key", "hash_key")
_FINGERPRINT: Final = "fingerprint"
_LIKE_A_NUMBER: Final = re.compile(r"[0-9][0-9A-Fa-f.+_-]*")
_CONFIG_ID: Final = re.compile(r"^ *- config_id: ([0-6])$", re.MULTILINE)


def as_data(config: Config, *, with_defaults: bool, with_keys: bool = True) -> dict[str, object]:
    """Return a loaded configuration as data for JSON, in the form of the YAML.

    with_defaults: include the keys that have their defaults. with_keys: the key files were read, so every CID config
    has one more entry, `fingerprint`.
    """
    found = _section(config, with_defaults)
    if with_keys:
        for one, params in zip(_entries(found.get("cid_configs")), cid_params(config), strict=False):
            one[_FINGERPRINT] = params.fingerprint
    return found


def as_yaml(data: Mapping[str, object]) -> str:
    """Return the result of as_data() as YAML. Fingerprints become comments, because they are no keys."""
    configs = _entries(data.get("cid_configs"))
    fingerprints = {str(one["config_id"]): one[_FINGERPRINT] for one in configs if _FINGERPRINT in one}
    text = yaml.dump(_to_dump(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)

    def comment(match: re.Match[str]) -> str:
        fingerprint = fingerprints.get(match[1])
        return match[0] if fingerprint is None else f"{match[0]}  # {_FINGERPRINT} {fingerprint}"

    return _CONFIG_ID.sub(comment, text)


def _section(section: Section, with_defaults: bool) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, field in fields_of(type(section)).items():
        value = _in_force(section, name) if with_defaults else getattr(section, name)
        if name in _SECRETS and value is not None:
            if getattr(section, f"{name}_file") is None:
                found[name] = NOT_SHOWN
        elif with_defaults and not _is_possible(section, name):
            continue
        elif value is None and field.default is not None and not field.required:
            found[name] = "none"  # the word that turns a default off
        elif with_defaults or field.required or value != field.default:
            written = _as_written(value, with_defaults)
            if with_defaults or field.required or written != {}:
                found[name] = written
    return found


def _is_possible(section: Section, name: str) -> bool:
    """Return false for a key that the kind of this discovery source does not have."""
    if not isinstance(section, DiscoverySource):
        return True
    return any(getattr(section, kind) is not None for kind in SOURCE_KEYS.get(name, SOURCE_KINDS))


def _in_force(section: Section, name: str) -> object:
    """Return the value of a key; for cid_length without a value, the length that results from the others."""
    value = getattr(section, name)
    if isinstance(section, CidConfig) and name == "cid_length" and value is None:
        return CidParams(section.config_id, section.server_id_length, section.nonce_length).cid_length
    return value


def _as_written(value: object, with_defaults: bool) -> object:
    match value:
        case Section():
            return _section(value, with_defaults)
        case bool() | None:
            return value
        case float():
            return duration_text(value)
        case bytes():
            return value.hex()
        case Size():
            return str(value)
        case int():
            return value
        case Mapping():
            return {str(key): _one_or_more(_as_written(one, with_defaults)) for key, one in value.items()}
        case tuple() if type(value) is tuple:
            return [_as_written(one, with_defaults) for one in value]
        case _:
            return str(value)


def _one_or_more(ids: object) -> object:
    return ids[0] if isinstance(ids, list) and len(ids) == 1 else ids


def _entries(value: object) -> list[dict[str, object]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


class _Ids(dict[int, object]):
    """The server IDs of a backend, which are written on one line."""


class _Dumper(yaml.SafeDumper):
    """A dumper with representers of its own, so that yaml.SafeDumper remains unchanged."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002 (PyYAML's)
        """Indent the items of a list below its key."""
        super().increase_indent(flow, False)


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Quote every text that a parser could read as a number: 010203, 1e3."""
    style = '"' if _LIKE_A_NUMBER.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _represent_ids(dumper: yaml.SafeDumper, ids: _Ids) -> yaml.MappingNode:
    return dumper.represent_mapping("tag:yaml.org,2002:map", ids, flow_style=True)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(_Ids, _represent_ids)


def _to_dump(value: object) -> object:
    """Return data without fingerprints, and with server IDs in the type that the dumper knows."""
    if isinstance(value, Mapping):
        return {
            name: _Ids({int(config_id): ids for config_id, ids in one.items()})
            if name == "server_ids" and isinstance(one, Mapping)
            else _to_dump(one)
            for name, one in value.items()
            if name != _FINGERPRINT
        }
    return [_to_dump(one) for one in value] if isinstance(value, list) else value
