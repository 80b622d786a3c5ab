"""The valid values of a configuration with their positions, even if other values are invalid.

The rules between fields are checked on this and not on the model: a model exists only if every field is valid, and one
run must report all problems. An invalid value is None here; qlb.config.validate has already reported it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from qlb.addresses import Endpoint, Network
from qlb.config.credentials import key_path
from qlb.config.model import (
    BACKEND_ADDRESS,
    CID_LENGTH,
    CONFIG_ID,
    DNS_RECORD,
    NONCE_LENGTH,
    SERVER_ID_FROM,
    SERVER_ID_LENGTH,
)
from qlb.config.names import KEY_FILE, NAME, NETWORK, PATH, SERVER_ID, SOURCE_NAME
from qlb.config.problems import Mark
from qlb.config.scalars import Scalar
from qlb.config.sections import LISTEN_ADDRESS, MODE, PLANE, SOCKET
from qlb.config.tree import MappingNode, Node, ScalarNode, SequenceNode

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class At(Generic[T]):
    """A value and its position."""

    value: T
    mark: Mark


@dataclass(frozen=True, slots=True)
class KeyDraft:
    """A secret: in the file or in a key file. inline: its position only. path: the mapping that contains it."""

    path: str
    name: str
    inline: Mark | None
    file: At[Path] | None


@dataclass(frozen=True, slots=True)
class CidDraft:
    """One entry of cid_configs. path: its name in messages."""

    path: str
    config_id: At[int] | None
    server_id_length: At[int] | None
    nonce_length: At[int] | None
    cid_length: At[int] | None
    key: KeyDraft


@dataclass(frozen=True, slots=True)
class BackendDraft:
    """One entry of backends. server_ids: config ID and server IDs, in the order of the file."""

    path: str
    name: At[str] | None
    address: At[Endpoint] | None
    server_ids: tuple[tuple[At[int], tuple[At[bytes], ...]], ...]

    @property
    def label(self) -> str:
        """The backend's name in messages."""
        return f"backend {self.name.value!r}" if self.name else self.path


@dataclass(frozen=True, slots=True)
class SourceDraft:
    """One entry of discovery. keys: the positions of the keys that are present, by name."""

    path: str
    mark: Mark
    name: At[str] | None
    keys: Mapping[str, Mark]
    record: str
    networks: tuple[At[Network], ...]
    from_address: At[str] | None
    files: tuple[At[Path], ...] = ()


@dataclass(frozen=True, slots=True)
class Draft:
    """The fields that rules relate to each other.

    config_ids_known: every entry of cid_configs has a valid ID. has_mode: the key is present, but possibly invalid.
    """

    listen: tuple[At[Endpoint], ...]
    cid_configs: tuple[CidDraft, ...]
    config_ids_known: bool
    backends: tuple[BackendDraft, ...]
    hash_key: KeyDraft
    socket: At[Path | str] | None
    plane: At[str] | None
    mode: At[str] | None
    has_mode: bool
    has_interfaces: bool
    sources: tuple[SourceDraft, ...]

    @property
    def keys(self) -> tuple[KeyDraft, ...]:
        """All secrets that the configuration can contain."""
        return (*(config.key for config in self.cid_configs), self.hash_key)


def read_draft(root: MappingNode) -> Draft:
    """Read all valid values that rules need. root: with known keys only."""
    entries = root.get("cid_configs")
    configs = tuple(_cid_config(path, node) for path, node in _mappings(root, "cid_configs"))
    count = 0 if entries is None else len(entries.items) if isinstance(entries, SequenceNode) else -1
    admin = root.get("admin")
    fallback = root.get("fallback")
    forwarding = root.get("forwarding")
    interfaces = forwarding.get("interfaces") if isinstance(forwarding, MappingNode) else None
    return Draft(
        listen=tuple(_scalars(root.get("listen"), LISTEN_ADDRESS)),
        cid_configs=configs,
        config_ids_known=sum(config.config_id is not None for config in configs) == count,
        backends=tuple(_backend(path, node) for path, node in _mappings(root, "backends")),
        hash_key=_key("fallback", fallback, "hash_key"),
        socket=_field(admin, "socket", SOCKET),
        plane=_field(forwarding, "plane", PLANE),
        mode=_field(forwarding, "mode", MODE),
        has_mode=isinstance(forwarding, MappingNode) and forwarding.get("mode") is not None,
        has_interfaces=isinstance(interfaces, SequenceNode) and bool(interfaces.items),
        sources=tuple(_source(path, node) for path, node in _mappings(root, "discovery")),
    )


def named_files(draft: Draft, folder: Path) -> Iterator[Path]:
    """Yield every file that a configuration names: key files and files of discovery. folder: of relative names."""
    for key in draft.keys:
        if key.file is not None:
            yield key_path(folder, key.file.value)
    for source in draft.sources:
        yield from ((folder / file.value).absolute() for file in source.files)


def _source(path: str, node: MappingNode) -> SourceDraft:
    record = _field(node, "record", DNS_RECORD)
    server_id_from = _field(node, "server_id_from", SERVER_ID_FROM)
    return SourceDraft(
        path,
        node.mark,
        _field(node, "name", SOURCE_NAME),
        {key.text: key.mark for key, value in node.entries if not (isinstance(value, ScalarNode) and value.is_null)},
        record.value if record else "address",
        tuple(_scalars(node.get("networks"), NETWORK)),
        server_id_from if server_id_from and server_id_from.value == "address" else None,
        tuple(file for name in ("file", "kubeconfig") if (file := _field(node, name, PATH)) is not None),
    )


def _cid_config(path: str, node: MappingNode) -> CidDraft:
    return CidDraft(
        path,
        _field(node, "config_id", CONFIG_ID),
        _field(node, "server_id_length", SERVER_ID_LENGTH),
        _field(node, "nonce_length", NONCE_LENGTH),
        _field(node, "cid_length", CID_LENGTH),
        _key(path, node, "key"),
    )


def _backend(path: str, node: MappingNode) -> BackendDraft:
    return BackendDraft(
        path, _field(node, "name", NAME), _field(node, "address", BACKEND_ADDRESS), tuple(_server_ids(node))
    )


def _server_ids(node: MappingNode) -> Iterator[tuple[At[int], tuple[At[bytes], ...]]]:
    by_config = node.get("server_ids")
    for key, value in by_config.entries if isinstance(by_config, MappingNode) else ():
        config_id = CONFIG_ID.read(key.text)
        if config_id is not None:
            yield At(config_id, key.mark), tuple(_scalars(value, SERVER_ID))


def _key(path: str, node: Node | None, name: str) -> KeyDraft:
    inline = node.get(name) if isinstance(node, MappingNode) else None
    return KeyDraft(path, name, inline.mark if inline else None, _field(node, f"{name}_file", KEY_FILE))


def _mappings(root: MappingNode, name: str) -> Iterator[tuple[str, MappingNode]]:
    """Yield path and node of each mapping in a list of mappings."""
    entries = root.get(name)
    for index, node in enumerate(entries.items if isinstance(entries, SequenceNode) else ()):
        if isinstance(node, MappingNode):
            yield f"{name}[{index}]", node


def _field(node: Node | None, name: str, kind: Scalar[T]) -> At[T] | None:
    value = node.get(name) if isinstance(node, MappingNode) else None
    return next(_scalars(value, kind), None) if isinstance(value, ScalarNode) else None


def _scalars(node: Node | None, kind: Scalar[T]) -> Iterator[At[T]]:
    """Yield the value of a scalar, or of each scalar in a list, if it is valid."""
    for item in node.items if isinstance(node, SequenceNode) else (node,):
        value = kind.read(item.text) if isinstance(item, ScalarNode) and not item.is_null else None
        if isinstance(item, ScalarNode) and value is not None:
            yield At(value, item.mark)
