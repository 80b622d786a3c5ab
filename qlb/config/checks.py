"""The rules between fields of one section, and between addresses. Each looks at what could be read.

Spec: draft-ietf-quic-load-balancers, section "Configuration Agent Actions".
"""

import ipaddress
import os
from pathlib import Path
from typing import Final

from qlb.cid.params import MAX_CID_BYTES, MAX_PLAINTEXT_BYTES
from qlb.config.draft import At, CidDraft, Draft
from qlb.config.local_addresses import FindLocal
from qlb.config.loops import find_loops
from qlb.config.model import DIRECT_RETURN
from qlb.config.problems import Problems
from qlb.routing.backends import Endpoint

MAX_SOCKET_PATH_BYTES: Final = 107
"""What fits into sockaddr_un on Linux, with the final zero."""


def check(draft: Draft, folder: Path, problems: Problems, find_local: FindLocal | None = None) -> None:
    """Add a problem for each rule that is broken. folder: of the configuration, for relative paths.

    find_local: finds the addresses of this machine, where it is the one that is to run the configuration.
    """
    for config in draft.cid_configs:
        _check_lengths(config, problems)
    _check_keys(draft, problems)
    _check_listen(draft, problems)
    _check_loops(draft, find_local, problems)
    _check_socket(draft, folder, problems)
    if draft.mode is not None and draft.mode.value in DIRECT_RETURN:
        _check_direct_return(draft, draft.mode, problems)


def socket_path(folder: Path, socket: Path) -> Path:
    """Return where the control socket is. Relative to the configuration's folder, with .. as the kernel takes it."""
    return Path(os.path.realpath(folder / socket))


def _check_lengths(config: CidDraft, problems: Problems) -> None:
    if config.server_id_length is None or config.nonce_length is None:
        return
    plaintext_len = config.server_id_length.value + config.nonce_length.value
    if plaintext_len > MAX_PLAINTEXT_BYTES:
        problems.add(
            config.nonce_length.mark,
            f"{config.path}.nonce_length: server_id_length {config.server_id_length.value} and nonce_length "
            f"{config.nonce_length.value} sum to {plaintext_len} octets, and {MAX_PLAINTEXT_BYTES} is the most; "
            "shorten one",
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
    lines: dict[Endpoint, int] = {}
    for address in draft.listen:
        # Port 0 twice is two different ports.
        if address.value.port and address.value in lines:
            text = f"listen has {address.value} already in line {lines[address.value]}; remove one"
            problems.add(address.mark, text)
        lines.setdefault(address.value, address.mark.line)


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
            f"{_every_address(service)}): packets would go round in a loop; give the server another port",
        )


def _every_address(service: Endpoint) -> str:
    """Explain a wildcard, which does not look like the backend's address."""
    is_wildcard = ipaddress.ip_address(service.host).is_unspecified
    return ", which is every address of this machine" if is_wildcard else ""


def _check_direct_return(draft: Draft, mode: At[str], problems: Problems) -> None:
    if not draft.has_interfaces:
        text = "lacks the key interfaces: name those that clients' packets come in at, for example `interfaces: [eth0]`"
        problems.add(mode.mark, f"forwarding.mode {mode.value}: forwarding {text}")
    for address in draft.listen:
        host = ipaddress.ip_address(address.value.host)
        if host.is_unspecified or not address.value.port or host.is_link_local:
            text = (
                f"packets are recognised by the service's address: name one, with its port, in place of {address.value}"
            )
            problems.add(address.mark, f"listen: in mode {mode.value} {text}")
    for backend in draft.backends:
        if backend.address is not None and ipaddress.ip_address(backend.address.value.host).is_link_local:
            text = f"{backend.address.value} is of one link alone, and mode {mode.value} goes by routes"
            problems.add(backend.address.mark, f"{backend.path}.address {text}: give it another address")


def _check_socket(draft: Draft, folder: Path, problems: Problems) -> None:
    if draft.socket is None:
        return
    path = socket_path(folder, draft.socket.value)
    length = len(bytes(path))
    if length > MAX_SOCKET_PATH_BYTES:
        problems.add(
            draft.socket.mark,
            f"admin.socket has {length} octets when complete ({path}), and a Unix socket's name "
            f"{MAX_SOCKET_PATH_BYTES} at most; put it into a shorter folder",
        )
