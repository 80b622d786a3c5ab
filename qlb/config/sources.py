"""The rules between the fields of a source of backends."""

from typing import Final

from qlb.config.draft import Draft, SourceDraft
from qlb.config.problems import Problems, shown
from qlb.routing.address_ids import ambiguity

_DNS_ONLY: Final = ("record", "port", "resolvers", "server_id_from", "weight", "min_interval", "max_interval")


def check_sources(draft: Draft, problems: Problems) -> None:
    """Add a problem for each rule that is broken."""
    lines: dict[str, int] = {}
    for source in draft.sources:
        if source.name is not None and source.name.value in lines:
            text = f"{source.path}.name {shown(source.name.value)} is already the source's in line "
            problems.add(source.name.mark, f"{text}{lines[source.name.value]}; give each its own")
        elif source.name is not None:
            lines[source.name.value] = source.name.mark.line
        _check_kind(source, problems)
        if source.from_address is not None:
            _check_server_ids(source, draft, problems)


def _check_kind(source: SourceDraft, problems: Problems) -> None:
    keys = source.keys
    if ("dns" in keys) == ("file" in keys):
        text = "both dns and file: they are two sources" if "dns" in keys else "neither dns nor file: add one of them"
        problems.add(source.mark, f"{source.path} has {text}")
    elif "file" in keys:
        for key in _DNS_ONLY:
            if key in keys:
                problems.add(keys[key], f"{source.path}.{key} is of dns, and {source.path} is a file: remove it")
    else:
        _check_dns(source, problems)


def _check_dns(source: SourceDraft, problems: Problems) -> None:
    keys = source.keys
    if "networks" not in keys:
        text = "lacks the key networks: whoever answers for the name could send packets anywhere; name those that"
        problems.add(source.mark, f"{source.path} {text} servers are in, for example `networks: [10.0.0.0/16]`")
    if source.record == "srv" and "port" in keys:
        problems.add(keys["port"], f"{source.path}.port: srv records bring their own ports: remove it")
    if source.record != "srv" and "port" not in keys:
        problems.add(source.mark, f"{source.path} lacks the key port: add it, for example `port: 4433`")


def _check_server_ids(source: SourceDraft, draft: Draft, problems: Problems) -> None:
    """Where IDs are made of addresses, no two addresses may make the same one: of this source, and of all such."""
    assert source.from_address is not None, "it was asked"
    if not draft.cid_configs and draft.config_ids_known:
        text = "server_id_from: address needs an entry in cid_configs, which says how long server IDs are"
        problems.add(source.from_address.mark, f"{source.path}.{text}")
    before = draft.sources[: draft.sources.index(source)]
    others = [at.value for one in before if one.from_address is not None for at in one.networks]
    own = [at.value for at in source.networks]
    for config in draft.cid_configs:
        length = config.server_id_length
        reason = ambiguity([*own, *(one for one in others if one not in own)], length.value) if length else ""
        if reason:
            text = f"server_id_from: address under {config.path}: {reason}"
            problems.add(source.from_address.mark, f"{source.path}.{text}; make networks smaller or server IDs longer")
