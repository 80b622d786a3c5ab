"""The rules of discovery sources, as qlb.config.rules has those of the other sections."""

from typing import Final

from qlb.cid.address_ids import ambiguity
from qlb.config.partial import Draft, SourceDraft
from qlb.config.problems import Problems, shown

SOURCE_KINDS: Final = ("dns", "kubernetes", "file")
SOURCE_KEYS: Final = {
    "record": ("dns",),
    "port": ("dns", "kubernetes"),
    "port_name": ("kubernetes",),
    "kubeconfig": ("kubernetes",),
    "resolvers": ("dns",),
    "server_id_from": ("dns", "kubernetes"),
    "weight": ("dns", "kubernetes"),
    "min_interval": ("dns", "kubernetes"),
    "max_interval": ("dns",),
}
"""Key → the kinds of source that have it, for keys that not every kind has."""


def check_sources(draft: Draft, problems: Problems) -> None:
    """Add a problem for each broken rule of the discovery sources."""
    lines: dict[str, int] = {}
    for source in draft.sources:
        if source.name is not None and source.name.value in lines:
            text = f"{source.path}.name {shown(source.name.value)} is already the name of the source in line "
            problems.add(source.name.mark, f"{text}{lines[source.name.value]}; give each source its own")
        elif source.name is not None:
            lines[source.name.value] = source.name.mark.line
        _check_kind(source, problems)
        if source.from_address is not None:
            _check_server_ids(source, draft, problems)


def _check_kind(source: SourceDraft, problems: Problems) -> None:
    kinds = [kind for kind in SOURCE_KINDS if kind in source.keys]
    if not kinds:
        problems.add(source.mark, f"{source.path} has neither dns nor kubernetes nor file: add one of them")
    elif len(kinds) > 1:
        problems.add(source.mark, f"{source.path} has {' and '.join(kinds)}: write them as {len(kinds)} sources")
    else:
        _check_source_keys(source, kinds[0], problems)


def _check_source_keys(source: SourceDraft, kind: str, problems: Problems) -> None:
    for key, owners in SOURCE_KEYS.items():
        if key in source.keys and kind not in owners:
            text = f"is a key of {' and '.join(owners)}, but {source.path} has {kind}: remove it"
            problems.add(source.keys[key], f"{source.path}.{key} {text}")
    if kind != "file" and "networks" not in source.keys:
        text = "lacks the key networks, without which a false answer could direct packets anywhere: add the servers'"
        problems.add(source.mark, f"{source.path} {text} networks, for example `networks: [10.0.0.0/16]`")
    if kind == "dns":
        _check_dns(source, problems)
    elif "port" in source.keys and "port_name" in source.keys:
        problems.add(source.keys["port"], f"{source.path} has port and port_name: remove one of them")


def _check_dns(source: SourceDraft, problems: Problems) -> None:
    keys = source.keys
    if source.record == "srv" and "port" in keys:
        problems.add(keys["port"], f"{source.path}.port: srv records contain their own ports: remove it")
    if source.record != "srv" and "port" not in keys:
        problems.add(source.mark, f"{source.path} lacks the key port: add it, for example `port: 4433`")


def _check_server_ids(source: SourceDraft, draft: Draft, problems: Problems) -> None:
    """Check that no two addresses can have the same server ID, within this source and the earlier ones."""
    assert source.from_address is not None, "the caller has checked it"
    if not draft.cid_configs and draft.config_ids_known:
        text = "server_id_from: address needs an entry in cid_configs, which sets the length of server IDs"
        problems.add(source.from_address.mark, f"{source.path}.{text}")
    before = draft.sources[: draft.sources.index(source)]
    others = [at.value for one in before if one.from_address is not None for at in one.networks]
    networks = list(dict.fromkeys([*(at.value for at in source.networks), *others]))
    for config in draft.cid_configs:
        length = config.server_id_length
        reason = ambiguity(networks, length.value) if length else ""
        if reason:
            text = f"server_id_from: address under {config.path}: {reason}"
            problems.add(source.from_address.mark, f"{source.path}.{text}; use smaller networks or longer server IDs")
