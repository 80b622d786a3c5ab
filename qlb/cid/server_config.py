"""The parameters that a server loads: the document that ``qlb server-config`` prints, as plain data.

Two forms exist: qlb's own, and the draft's YANG model. Both are read strictly. A key that is missing or misspelt must
not turn an encrypted CID config into a plaintext one, and neither must a file that is only half written.

Spec: draft-ietf-quic-load-balancers, appendix "QUIC-LB YANG Model", module ietf-quic-lb-server.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from qlb.cid.octets import octets
from qlb.cid.params import PLAINTEXT, CidParams
from qlb.errors import CidError

YANG_TOP: Final = "ietf-quic-lb-server:quic-lb"
"""The key around the draft's YANG model of one server."""
_KEYS: Final = (
    "config_id",
    "algorithm",
    "server_ids",
    "server_id_length",
    "nonce_length",
    "cid_length",
    "length_self_encoded",
    "key",
)
_YANG: Final = {
    "config-id": "config_id",
    "first-octet-encodes-cid-length": "length_self_encoded",
    "server-id-length": "server_id_length",
    "nonce-length": "nonce_length",
    "cid-key": "key",
    "server-id": "server_ids",
}
"""Leaf of the YANG model → key of qlb's own form."""
_MAX_DIGITS: Final = 18


class Issued(NamedTuple):
    """One CID config that a server may issue from, and the server's own IDs in it."""

    params: CidParams
    server_ids: tuple[bytes, ...]


class ServerConfig(NamedTuple):
    """Everything that one server loads. issued: in the order of the document, at least one."""

    issued: tuple[Issued, ...]

    def choose(self, config_id: int | None, server_id_index: int) -> tuple[CidParams, bytes]:
        """Return the parameters and the server ID to issue from.

        config_id: of the CID config; None is the last one. server_id_index: of the server ID, from 0.
        Raises CidError if there is no such CID config or server ID.
        """
        found = [one for one in self.issued if config_id in (None, one.params.config_id)]
        if not found:
            there = ", ".join(str(one.params.config_id) for one in self.issued)
            raise CidError(f"there is no config {config_id}; the config IDs are: {there}")
        params, server_ids = found[-1]
        if not 0 <= server_id_index < len(server_ids):
            raise CidError(
                f"config {params.config_id} has {len(server_ids)} server IDs, so server_id_index must be from 0 to "
                f"{len(server_ids) - 1}, not {server_id_index}"
            )
        return params, server_ids[server_id_index]


def read_server_config(document: object) -> ServerConfig:
    """Return the parameters in a document that YAML or JSON was parsed into. Numbers may be text.

    Raises CidError, which names the key.
    """
    if isinstance(document, list):
        models = [_mapping(one, f"[{index}]") for index, one in enumerate(document)]
        return ServerConfig(_merged([_yang(model, f"[{index}].") for index, model in enumerate(models)]))
    top = _mapping(document, "the file")
    if YANG_TOP in top:
        return ServerConfig((_yang(top, ""),))
    _reject_unknown(top, ("backend", "cid_configs"), "")
    entries = top.get("cid_configs")
    if not isinstance(entries, list) or not entries:
        raise CidError("cid_configs must be a list with at least one CID config, as `qlb server-config` prints it")
    return ServerConfig(tuple(_own(entry, f"cid_configs[{index}]") for index, entry in enumerate(entries)))


def _merged(found: Sequence[Issued]) -> tuple[Issued, ...]:
    """Return one entry for each CID config: the YANG model has a document for each server ID."""
    if not found:
        raise CidError("the list is empty: the backend has nothing to issue")
    by_params: dict[CidParams, tuple[bytes, ...]] = {}
    for params, server_ids in found:
        by_params[params] = (*by_params.get(params, ()), *server_ids)
    return tuple(Issued(params, server_ids) for params, server_ids in by_params.items())


def _yang(top: Mapping[str, object], path: str) -> Issued:
    _reject_unknown(top, (YANG_TOP,), path)
    inner = f"{path}{YANG_TOP}"
    leaves = _mapping(top.get(YANG_TOP), inner)
    _reject_unknown(leaves, tuple(_YANG), f"{inner}.")
    entry = {_YANG[name]: value for name, value in leaves.items()}
    if "server_ids" in entry:
        entry["server_ids"] = [entry["server_ids"]]
    return _own(entry, inner)


def _own(value: object, path: str) -> Issued:
    """Read one CID config. path: its name in errors."""
    entry = _mapping(value, path)
    _reject_unknown(entry, _KEYS, f"{path}.")
    try:
        params = CidParams(
            config_id=_number(entry, "config_id"),
            server_id_length=_number(entry, "server_id_length"),
            nonce_length=_number(entry, "nonce_length"),
            key=_key(entry),
            length_self_encoded=_boolean(entry, "length_self_encoded"),
            cid_length=_number(entry, "cid_length") if "cid_length" in entry else 0,
        )
        _check_algorithm(entry, params)
        return Issued(params, _server_ids(entry, params))
    except CidError as error:
        raise CidError(f"{path}: {error}") from None


def _check_algorithm(entry: Mapping[str, object], params: CidParams) -> None:
    named = entry.get("algorithm", params.algorithm)
    if named == params.algorithm:
        return
    if params.algorithm == PLAINTEXT:
        raise CidError(f"algorithm is {named}, but key is missing: the file is not complete")
    raise CidError(f"algorithm is {named}, but with this key and these lengths it is {params.algorithm}")


def _server_ids(entry: Mapping[str, object], params: CidParams) -> tuple[bytes, ...]:
    values = entry.get("server_ids")
    if not isinstance(values, list) or not values:
        raise CidError("server_ids must be a list of server IDs in hexadecimal")
    found = tuple(octets(f"server_ids[{index}]", value) for index, value in enumerate(values))
    for index, server_id in enumerate(found):
        if len(server_id) != params.server_id_length:
            raise CidError(
                f"server_ids[{index}] {server_id.hex()} has {len(server_id)} octets, and server_id_length is "
                f"{params.server_id_length}"
            )
    return found


def _key(entry: Mapping[str, object]) -> str | None:
    """Return the text of the key; None without one."""
    value = entry.get("key")
    if "key" in entry and not isinstance(value, str):
        raise CidError("key must be text in quotes, 32 hexadecimal digits (value not shown)")
    return value if isinstance(value, str) else None


def _number(entry: Mapping[str, object], name: str) -> int:
    value = _present(entry, name)
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= _MAX_DIGITS:
        return int(value)
    if type(value) is not int:
        raise CidError(f"{name} must be a whole number, not {value!r}")
    return value


def _boolean(entry: Mapping[str, object], name: str) -> bool:
    value = entry.get(name, False)
    if value not in (True, False, "true", "false") or isinstance(value, int | float) != isinstance(value, bool):
        raise CidError(f"{name} must be true or false, not {value!r}")
    return value in (True, "true")


def _present(entry: Mapping[str, object], name: str) -> object:
    if name not in entry:
        raise CidError(f"{name} is missing")
    return entry[name]


def _mapping(value: object, path: str) -> Mapping[str, object]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise CidError(f"{path} must be a mapping of keys to values, as `qlb server-config` prints it")
    return value


def _reject_unknown(entry: Mapping[str, object], known: Sequence[str], path: str) -> None:
    for name in entry:
        if name not in known:
            raise CidError(f"{path}{name[:64]} is not a key of this file; the keys are: {', '.join(known)}")
