"""The rules about what is unique and what refers to something else: names, config IDs, server IDs.

A problem stands at the later of the two places and names the earlier one. Where one side could not be read
nothing is said: it would only follow from the problem that was told already.

Spec: draft-ietf-quic-load-balancers, section "Server ID Allocation".
"""

from collections import Counter
from collections.abc import Iterator

from qlb.config.draft import At, BackendDraft, CidDraft, Draft
from qlb.config.problems import Problems, shown


def check_references(draft: Draft, problems: Problems) -> None:
    """Add a problem for each rule that is broken."""
    _check_config_ids(draft, problems)
    _check_names(draft, problems)
    _check_known_configs(draft, problems)
    _check_server_id_lengths(draft, problems)
    _check_server_ids_unique(draft, problems)


def _check_config_ids(draft: Draft, problems: Problems) -> None:
    first: dict[int, CidDraft] = {}
    for config in draft.cid_configs:
        if config.config_id is None:
            continue
        other = first.setdefault(config.config_id.value, config)
        if other is not config:
            problems.add(
                config.config_id.mark,
                f"{config.path}.config_id {config.config_id.value} is already used by {other.path}; "
                "give each configuration its own",
            )


def _check_names(draft: Draft, problems: Problems) -> None:
    lines: dict[str, int] = {}
    for backend in draft.backends:
        if backend.name is None:
            continue
        if backend.name.value in lines:
            problems.add(
                backend.name.mark,
                f"{backend.path}.name {shown(backend.name.value)} is already the backend's in line "
                f"{lines[backend.name.value]}; give each its own",
            )
        lines.setdefault(backend.name.value, backend.name.mark.line)


def _check_known_configs(draft: Draft, problems: Problems) -> None:
    known = sorted({config.config_id.value for config in draft.cid_configs if config.config_id})
    for backend in draft.backends:
        seen: set[int] = set()
        for config_id, _ in backend.server_ids:
            where = f"{backend.path}.server_ids: config {config_id.value}"
            if config_id.value in seen:
                problems.add(config_id.mark, f"{where} is there twice; write its server IDs as one list")
            elif draft.config_ids_known and config_id.value not in known:
                have = f"has only {', '.join(map(str, known))}" if known else "has none"
                problems.add(config_id.mark, f"{where} is unknown, cid_configs {have}; add it there or remove it here")
            seen.add(config_id.value)


def _check_server_id_lengths(draft: Draft, problems: Problems) -> None:
    lengths = _lengths(draft)
    for backend, config_id, server_id in _server_ids(draft):
        length = lengths.get(config_id)
        if length is not None and length.value != len(server_id.value):
            problems.add(
                server_id.mark,
                f"{backend.path}.server_ids.{config_id} must have {length.value} octets (server_id_length in line "
                f"{length.mark.line}), not {len(server_id.value)} as {shown(server_id.value.hex())} has",
            )


def _check_server_ids_unique(draft: Draft, problems: Problems) -> None:
    owners: dict[tuple[int, bytes], tuple[BackendDraft, At[bytes]]] = {}
    for backend, config_id, server_id in _server_ids(draft):
        owner, first = owners.setdefault((config_id, server_id.value), (backend, server_id))
        if first is not server_id:
            problems.add(
                server_id.mark,
                f"{backend.path}.server_ids.{config_id} {shown(server_id.value.hex())} is already that of "
                f"{owner.label} in line {first.mark.line}; a server ID belongs to one backend, once",
            )


def _lengths(draft: Draft) -> dict[int, At[int]]:
    """Return server_id_length by config ID, of the configs whose ID is theirs alone."""
    ids = Counter(config.config_id.value for config in draft.cid_configs if config.config_id)
    return {
        config.config_id.value: config.server_id_length
        for config in draft.cid_configs
        if config.config_id and config.server_id_length and ids[config.config_id.value] == 1
    }


def _server_ids(draft: Draft) -> Iterator[tuple[BackendDraft, int, At[bytes]]]:
    """Yield backend, config ID and server ID of every server ID in the file."""
    for backend in draft.backends:
        for config_id, server_ids in backend.server_ids:
            for server_id in server_ids:
                yield backend, config_id.value, server_id
