"""The configuration that one backend must load to issue routable connection IDs: `qlb server-config`.

Only this module writes keys out, because the server needs them.

Spec: draft-ietf-quic-load-balancers, appendix "QUIC-LB YANG Model", module ietf-quic-lb-server; RFC 7951 (YANG
as JSON); RFC 6991 (yang:hex-string).
"""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Final

import yaml

from qlb.addresses import Endpoint, canonical_address
from qlb.cid.address_ids import is_within, server_id_of
from qlb.cid.params import CidParams
from qlb.config.build import cid_params
from qlb.config.model import BackendConfig, Config
from qlb.errors import ConfigError

YANG_TOP: Final = "ietf-quic-lb-server:quic-lb"


class _Text(str):
    """A string that is written to YAML in quotes. The keys of mappings are not."""

    __slots__ = ()


class _Dumper(yaml.SafeDumper):
    """A dumper with a representer of its own, so that yaml.SafeDumper remains unchanged."""


def _represent_text(dumper: yaml.SafeDumper, text: _Text) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"')


_Dumper.add_representer(_Text, _represent_text)


def server_config(config: Config, backend_name: str) -> dict[str, object]:
    """Return the CID configs that a backend must load: the active ones in which it has a server ID, in file order.

    Staged ones are left out until all balancers decode them, and servers must no longer issue from retiring ones.

    Keys: backend, cid_configs[]: config_id, algorithm, server_ids, server_id_length, nonce_length, cid_length
    (octets, first one included), length_self_encoded, key (32 hex digits; absent for plaintext).
    Raises ConfigError if there is no such backend, or it has no server ID in an active CID config.
    """
    backend = _backend(config, backend_name)
    return {
        "backend": _Text(backend.name),
        "cid_configs": [_cid_config(params, server_ids) for params, server_ids in _issued(config, backend)],
    }


def server_config_yaml(config: Config, backend_name: str) -> str:
    """Return server_config() as YAML. Strings are quoted, because many parsers read `010203` and `1e3` as numbers."""
    return yaml.dump(server_config(config, backend_name), Dumper=_Dumper, sort_keys=False)


def server_params(config: Config, backend_name: str) -> tuple[str, tuple[tuple[CidParams, tuple[bytes, ...]], ...]]:
    """Return the backend's name, and the CID configs of server_config() with the server IDs that it has in each.

    Raises ConfigError like server_config().
    """
    backend = _backend(config, backend_name)
    return backend.name, tuple(_issued(config, backend))


def yang_server_configs(config: Config, backend_name: str) -> tuple[dict[str, object], ...]:
    """Return the draft's YANG model of the server as JSON data for json.dumps.

    The model describes one CID config and one server ID, so there is one document for each pair that the backend has.
    It has no leaf for cid_length: configure a server that appends octets by other means.
    Raises ConfigError like server_config().
    """
    return tuple(
        {YANG_TOP: _yang(params, server_id)}
        for params, server_ids in _issued(config, _backend(config, backend_name))
        for server_id in server_ids
    )


def _backend(config: Config, name: str) -> BackendConfig:
    names = {backend.name: backend for backend in config.backends}
    if name not in names and (found := _by_address(config, name)) is not None:
        return found
    if name not in names:
        close = get_close_matches(name, names, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"the backends are: {', '.join(names) or 'none'}"
        raise ConfigError(f"no backend is called {name!r}; {hint}")
    backend = names[name]
    if not backend.server_ids:
        raise ConfigError(f"backend {name!r} has no server_ids: it has nothing to load")
    if not any(one.config_id in backend.server_ids for one in config.cid_configs if one.state == "active"):
        raise ConfigError(f"backend {name!r} has no server ID in an active CID config: it has nothing to load")
    return backend


def _by_address(config: Config, name: str) -> BackendConfig | None:
    """Return the server with an address if a source derives server IDs from addresses there; otherwise None."""
    try:
        host = str(canonical_address(name))
    except ValueError:
        return None
    for source in config.discovery:
        if source.server_id_from != "address" or not is_within(host, source.networks):
            continue
        ids = {one.config_id: (server_id_of(host, one.server_id_length),) for one in config.cid_configs}
        return BackendConfig(name=host, address=Endpoint(host, source.port or 0), server_ids=ids)
    return None


def _issued(config: Config, backend: BackendConfig) -> Iterator[tuple[CidParams, tuple[bytes, ...]]]:
    states = {one.config_id: one.state for one in config.cid_configs}
    for params in cid_params(config):
        if params.config_id in backend.server_ids and states[params.config_id] == "active":
            yield params, backend.server_ids[params.config_id]


def _cid_config(params: CidParams, server_ids: tuple[bytes, ...]) -> dict[str, object]:
    loaded: dict[str, object] = {
        "config_id": params.config_id,
        "algorithm": _Text(params.algorithm),
        "server_ids": [_Text(server_id.hex()) for server_id in server_ids],
        "server_id_length": params.server_id_length,
        "nonce_length": params.nonce_length,
        "cid_length": params.cid_length,
        "length_self_encoded": params.length_self_encoded,
    }
    return loaded if params.key is None else loaded | {"key": _Text(params.key.hex())}


def _yang(params: CidParams, server_id: bytes) -> dict[str, object]:
    leaves: dict[str, object] = {
        "config-id": params.config_id,
        "first-octet-encodes-cid-length": params.length_self_encoded,
        "server-id-length": params.server_id_length,
        "nonce-length": params.nonce_length,
    }
    if params.key is not None:
        leaves["cid-key"] = params.key.hex(":")
    return leaves | {"server-id": server_id.hex(":")}
