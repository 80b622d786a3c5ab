"""A copy of a configuration on free ports of the loopback interface, so that a demo can run beside another daemon."""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import yaml

from qlb.addresses import Endpoint
from qlb.config.load import decode, load
from qlb.errors import BackendError

_FIRST_PORT: Final = 20_000
_PORTS: Final = 12_000
"""Below the ports that Linux gives to clients (from 32768): one of those may be taken before the demo binds it."""
_FILES: Final = ("key_file", "hash_key_file", "file", "kubeconfig")
"""Keys whose values are relative to the configuration."""


def move_to_free_ports(path: Path, folder: Path) -> Path:
    """Write a copy of a configuration into a folder and return its path.

    Its service and its backends have free ports of the loopback interface, and its admin server and control socket are
    off. Everything else is equal. Raises ConfigError if the configuration is wrong.
    """
    config = load(path).config
    text = decode(path.read_bytes(), path)
    document: Any = _without_empty(yaml.load(text, yaml.BaseLoader))  # noqa: S506 (it creates only text)
    ports = _candidates()
    document["listen"] = [str(_free(ports, address)) for address in config.listen]
    for entry, backend in zip(document["backends"], config.backends, strict=True):
        entry["address"] = str(_free(ports, backend.address))
    document["admin"] = {"listen": "none", "socket": "none"}
    for mapping in _mappings(document):
        for key in _FILES:
            if mapping.get(key):
                mapping[key] = str((path.parent / mapping[key]).absolute())
    copy = folder / path.name
    copy.touch(mode=0o600)  # it can contain keys
    copy.write_text(yaml.safe_dump(document))
    return copy


def _without_empty(node: object) -> object:
    """Remove keys without a value: the loader reads them as empty text, which would be written in quotes."""
    if isinstance(node, dict):
        return {key: _without_empty(value) for key, value in node.items() if value != ""}
    return [_without_empty(item) for item in node] if isinstance(node, list) else node


def _candidates() -> Iterator[int]:
    """Yield ports, each once. Two demos at the same time begin at different ones."""
    first = os.getpid() % _PORTS
    yield from (_FIRST_PORT + (first + number) % _PORTS for number in range(_PORTS))


def _free(ports: Iterator[int], address: Endpoint) -> Endpoint:
    """Return the next free UDP port of the loopback interface, in the address family of an address."""
    family, host = (socket.AF_INET6, "::1") if ":" in address.host else (socket.AF_INET, "127.0.0.1")
    for port in ports:
        with socket.socket(family, socket.SOCK_DGRAM) as sock, suppress(OSError):
            sock.bind((host, port))
            return Endpoint(host, port)
    raise BackendError(f"no UDP port of {host} from {_FIRST_PORT} to {_FIRST_PORT + _PORTS - 1} is free")


def _mappings(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the mappings of a configuration that can name files."""
    for section in ("cid_configs", "discovery"):
        yield from document.get(section) or ()
    yield document.get("fallback") or {}
