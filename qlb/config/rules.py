"""The rules between fields. They are checked on all values that could be read, even if other values are invalid.

Spec: draft-ietf-quic-load-balancers, section "Configuration Agent Actions".
"""

import ipaddress
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from qlb.addresses import Endpoint
from qlb.cid.params import MAX_CID_BYTES, MAX_PLAINTEXT_BYTES
from qlb.config.partial import At, BackendDraft, CidDraft, Draft
from qlb.config.problems import Mark, Problems, shown
from qlb.config.sections import DIRECT_RETURN
from qlb.local_addresses import FindLocal, find_loops

MAX_SOCKET_PATH_BYTES: Final = 107
"""Octets of a path in sockaddr_un on Linux, without the final zero."""


def check(
    draft: Draft, folder: Path, problems: Problems, find_local: FindLocal | None = None, *, is_running: bool = False
) -> None:
    """Add a problem for each broken rule within a section or between addresses.

    folder: of the configuration, for relative paths. find_local: finds the addresses of this machine, if this machine
    will run the configuration. is_running: the daemon runs, and so has its control socket.
    """
    for config in draft.cid_configs:
        _check_lengths(config, problems)
    _check_keys(draft, problems)
    _check_listen(draft, problems)
    _check_loops(draft, find_local, problems)
    _check_socket(draft, folder, problems, is_here=find_local is not None and not is_running)
    _check_plane(draft, problems)
    if draft.mode is not None and draft.mode.value in DIRECT_RETURN:
        _check_direct_return(draft, draft.mode, problems)


def socket_path(folder: Path, socket: Path) -> Path:
    """Return the complete path of the control socket, with ``..`` and links resolved as the kernel resolves them."""
    return Path(os.path.realpath(folder / socket))


def _check_lengths(config: CidDraft, problems: Problems) -> None:
    if config.server_id_length is None or config.nonce_length is None:
        return
    plaintext_len = config.server_id_length.value + config.nonce_length.value
    if plaintext_len > MAX_PLAINTEXT_BYTES:
        problems.add(
            config.nonce_length.mark,
            f"{config.path}.nonce_length: the sum of server_id_length {config.server_id_length.value} and nonce_length "
            f"{config.nonce_length.value} is {plaintext_len} octets; it must be at most {MAX_PLAINTEXT_BYTES}",
        )
    elif config.cid_length is not None and config.cid_length.value < 1 + plaintext_len:
        problems.add(
            config.cid_length.mark,
            f"{config.path}.cid_length must be from {1 + plaintext_len} (1 + server_id_length + nonce_length) "
            f"to {MAX_CID_BYTES} octets, not {config.cid_length.value}",
        )


def _check_keys(draft: Draft, problems: Problems) -> None:
    for key in draft.keys:
        if key.inline is not None and key.file is not None:
            text = f"{key.path} has both {key.name} and {key.name}_file: remove one"
            problems.add(max(key.inline, key.file.mark), text)


def _check_listen(draft: Draft, problems: Problems) -> None:
    first: dict[Endpoint, Mark] = {}
    for address in draft.listen:
        other = first.setdefault(address.value, address.mark)
        # Two ports 0 are two different ports.
        if address.value.port and other is not address.mark:
            text = f"already in line {other.line}, column {other.column}; remove one"
            problems.add(address.mark, f"listen contains {address.value} {text}")


def _check_loops(draft: Draft, find_local: FindLocal | None, problems: Problems) -> None:
    addresses = [backend.address.value for backend in draft.backends if backend.address is not None]
    loops = find_loops(addresses, [one.value for one in draft.listen], find_local)
    for backend in draft.backends:
        service = loops.get(backend.address.value) if backend.address is not None else None
        if backend.address is None or service is None:
            continue
        problems.add(
            backend.address.mark,
            f"{backend.path}.address {backend.address.value} is the balancer itself (listen {service}"
            f"{_every_address(service)}): packets would loop; give the server another port",
        )


def _every_address(service: Endpoint) -> str:
    """Return an explanation if the address is a wildcard, because it does not look like the backend's address."""
    is_wildcard = ipaddress.ip_address(service.host).is_unspecified
    return ", which is every address of this machine" if is_wildcard else ""


def _check_direct_return(draft: Draft, mode: At[str], problems: Problems) -> None:
    if not draft.has_interfaces:
        text = "lacks the key interfaces: name those that receive clients' packets, for example `interfaces: [eth0]`"
        problems.add(mode.mark, f"forwarding.mode {mode.value}: forwarding {text}")
    for address in draft.listen:
        host = ipaddress.ip_address(address.value.host)
        if host.is_unspecified or not address.value.port or host.is_link_local:
            text = "packets are recognised by the service's address: write one address with its port, not"
            problems.add(address.mark, f"listen: in mode {mode.value} {text} {address.value}")
    for backend in draft.backends:
        if backend.address is not None and ipaddress.ip_address(backend.address.value.host).is_link_local:
            text = f"{backend.address.value} is link-local, and mode {mode.value} forwards by routes"
            problems.add(backend.address.mark, f"{backend.path}.address {text}: write another address")


_MODES: Final = {"batch": ("proxy",), "asyncio": ("proxy",), "xdp": DIRECT_RETURN}
"""The modes of each plane; qlb.dataplane.planes, which has the planes themselves, must agree."""


def _check_plane(draft: Draft, problems: Problems) -> None:
    modes = _MODES.get(draft.plane.value if draft.plane else "")
    mode = "proxy" if not draft.has_mode else draft.mode.value if draft.mode else None
    if draft.plane is None or modes is None or mode is None or mode in modes:
        return
    planes = ("auto", *(plane for plane, known in _MODES.items() if mode in known))
    default = "" if draft.has_mode else ", the default"
    problems.add(
        draft.plane.mark,
        f"forwarding.plane {draft.plane.value} does not support mode {mode}{default}: set forwarding.mode to "
        f"{_or(modes)}, or forwarding.plane to {_or(planes)}",
    )


def _or(words: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _check_socket(draft: Draft, folder: Path, problems: Problems, *, is_here: bool) -> None:
    if draft.socket is None or not isinstance(draft.socket.value, Path):
        return
    path = socket_path(folder, draft.socket.value)
    if is_here and _is_missing(path.parent) and _is_missing(path.parent.parent):
        problems.add(
            draft.socket.mark,
            f"admin.socket {shown(str(draft.socket.value))}: the folder {path.parent.parent} does not exist; create "
            "it, or correct the path (qlb creates only the last folder)",
        )
    length = len(bytes(path))
    if length > MAX_SOCKET_PATH_BYTES:
        problems.add(
            draft.socket.mark,
            f"admin.socket has {length} octets when complete ({path}), and the path of a Unix socket at most "
            f"{MAX_SOCKET_PATH_BYTES}; choose a shorter path",
        )


def _is_missing(folder: Path) -> bool:
    """Return whether a folder does not exist; False if this user cannot find out."""
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def check_references(draft: Draft, problems: Problems) -> None:
    """Add a problem for each broken rule between cid_configs and backends: names and IDs that must match or differ."""
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
                "give each CID config its own",
            )


def _check_names(draft: Draft, problems: Problems) -> None:
    lines: dict[str, int] = {}
    for backend in draft.backends:
        if backend.name is None:
            continue
        if backend.name.value in lines:
            problems.add(
                backend.name.mark,
                f"{backend.path}.name {shown(backend.name.value)} is already the name of the backend in line "
                f"{lines[backend.name.value]}; give each backend its own",
            )
        lines.setdefault(backend.name.value, backend.name.mark.line)


def _check_known_configs(draft: Draft, problems: Problems) -> None:
    known = sorted({config.config_id.value for config in draft.cid_configs if config.config_id})
    for backend in draft.backends:
        seen: set[int] = set()
        for config_id, _ in backend.server_ids:
            where = f"{backend.path}.server_ids: config {config_id.value}"
            if config_id.value in seen:
                problems.add(config_id.mark, f"{where} occurs twice; write its server IDs as one list")
            elif draft.config_ids_known and config_id.value not in known:
                have = f"has only {', '.join(map(str, known))}" if known else "is empty"
                problems.add(config_id.mark, f"{where} is unknown: cid_configs {have}; add it there or remove it here")
            seen.add(config_id.value)


def _check_server_id_lengths(draft: Draft, problems: Problems) -> None:
    lengths = _lengths(draft)
    for backend, config_id, server_id in _server_ids(draft):
        length = lengths.get(config_id)
        if length is not None and length.value != len(server_id.value):
            problems.add(
                server_id.mark,
                f"{backend.path}.server_ids.{config_id} must have {length.value} octets (server_id_length in line "
                f"{length.mark.line}), but {shown(server_id.value.hex())} has {len(server_id.value)}",
            )


def _check_server_ids_unique(draft: Draft, problems: Problems) -> None:
    owners: dict[tuple[int, bytes], tuple[BackendDraft, At[bytes]]] = {}
    for backend, config_id, server_id in _server_ids(draft):
        owner, first = owners.setdefault((config_id, server_id.value), (backend, server_id))
        if first is not server_id:
            problems.add(
                server_id.mark,
                f"{backend.path}.server_ids.{config_id} {shown(server_id.value.hex())} already belongs to "
                f"{owner.label} in line {first.mark.line}; write each server ID once",
            )


def _lengths(draft: Draft) -> dict[int, At[int]]:
    """Return server_id_length by config ID, for config IDs that only one entry has."""
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
