"""The differences between two configurations, for the log: a short text for each, and never a secret."""

from collections.abc import Iterator, Mapping
from typing import Final

from qlb.config.fields import Section, fields_of
from qlb.config.model import BackendConfig, CidConfig, Config
from qlb.config.scalars import duration_text

_SECRETS: Final = frozenset({"key", "hash_key"})
_MAX_CHANGES: Final = 20
"""Changes that are described; a last text gives the number of further ones."""


def changes(before: Config, after: Config) -> tuple[str, ...]:
    """Return the changes: ``backend agent-a: weight 1 -> 2``, ``+ cid_config 2``, ``- backend agent-b``."""
    found = [
        *_named("cid_config", _configs_by_id(before), _configs_by_id(after)),
        *_named("backend", _backends_by_name(before), _backends_by_name(after)),
        *_fields(before, after, ""),
    ]
    more = len(found) - _MAX_CHANGES
    return tuple(found) if more <= 0 else (*found[:_MAX_CHANGES], f"and {more} more")


def _configs_by_id(config: Config) -> Mapping[str, CidConfig]:
    return {str(one.config_id): one for one in config.cid_configs}


def _backends_by_name(config: Config) -> Mapping[str, BackendConfig]:
    return {backend.name: backend for backend in config.backends}


def _named(what: str, before: Mapping[str, Section], after: Mapping[str, Section]) -> Iterator[str]:
    yield from (f"- {what} {name}" for name in before if name not in after)
    yield from (f"+ {what} {name}" for name in after if name not in before)
    for name, section in before.items():
        if name in after:
            yield from (f"{what} {name}: {change}" for change in _fields(section, after[name], ""))


def _fields(before: Section, after: Section, path: str) -> Iterator[str]:
    for name in fields_of(type(before)):
        old, new = getattr(before, name), getattr(after, name)
        if isinstance(old, Section):
            yield from _fields(old, new, f"{path}{name}.")
        elif old == new or (isinstance(old, tuple) and name in ("cid_configs", "backends")):
            continue
        elif name in _SECRETS:
            yield f"{path}{name} changed"
        else:
            yield f"{path}{name} {_shown(old)} -> {_shown(new)}"


def _shown(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case float():
            return duration_text(value)
        case bytes():
            return value.hex()
        case tuple() if type(value) is tuple:
            return ",".join(map(_shown, value)) or "none"
        case Mapping():
            return "; ".join(f"{key}: {_shown(one)}" for key, one in value.items()) or "none"
        case _:
            return str(value)
