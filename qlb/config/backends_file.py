"""Files of backends, which `discovery` watches. They are read and checked like the configuration itself."""

from collections.abc import Sequence
from pathlib import Path

from qlb.addresses import Network
from qlb.cid.address_ids import is_within
from qlb.config.build import backend
from qlb.config.load import decode, read_octets
from qlb.config.model import BackendsFile, Config
from qlb.config.problems import Problems, shown
from qlb.config.tree import MappingNode, locate, parse
from qlb.config.validate import known_keys, validate
from qlb.routing.backends import Backend


def read_backends(path: Path, config: Config, networks: Sequence[Network], most: int) -> tuple[Backend, ...]:
    """Return the backends in a file. Their server IDs must fit the configuration's cid_configs.

    networks: the networks that backends must be in; empty = any. most: the largest number of backends.
    Raises ConfigError with every problem and its position. A backend with an address of this daemon is no problem here:
    for another balancer it may be valid, so the daemon ignores only that backend.
    """
    problems = Problems(path)
    root = known_keys(parse(decode(read_octets(path, problems)[0], path), problems), problems, BackendsFile)
    found = validate(root, problems, BackendsFile)
    problems.raise_if_any()
    assert found is not None, "none means a problem"
    _check(found, config, root, problems)
    for index, one in enumerate(found.backends):
        _, _, mark = locate(root, ("backends", index, "address"))
        where = f"backends[{index}].address {one.address}"
        if networks and not is_within(one.address.host.partition("%")[0], networks):
            problems.add(mark, f"{where} is in none of the source's networks ({', '.join(map(str, networks))})")
    if len(found.backends) > most:
        problems.add(root.mark, f"the file has {len(found.backends)} backends, and max_backends allows {most}")
    problems.raise_if_any()
    return tuple(map(backend, found.backends))


def _check(found: BackendsFile, config: Config, root: MappingNode, problems: Problems) -> None:
    """Add a problem for each name or server ID that occurs twice, and for each server ID with a wrong length."""
    lengths = {one.config_id: one.server_id_length for one in config.cid_configs}
    names: set[str] = set()
    owners: dict[tuple[int, bytes], str] = {}
    for index, one in enumerate(found.backends):
        path = f"backends[{index}]"
        if one.name in names:
            problems.add(locate(root, ("backends", index, "name"))[2], f"{path}.name {shown(one.name)} occurs twice")
        names.add(one.name)
        for config_id, server_ids in one.server_ids.items():
            mark = locate(root, ("backends", index, "server_ids", str(config_id)))[2]
            where = f"{path}.server_ids.{config_id}"
            length = lengths.get(config_id)
            if length is None:
                problems.add(mark, f"{where}: config {config_id} is unknown: add it to cid_configs or remove it here")
            for server_id in server_ids:
                if length is not None and len(server_id) != length:
                    problems.add(mark, f"{where} must have {length} octets, not {len(server_id)}")
                if owners.setdefault((config_id, server_id), one.name) != one.name:
                    text = f"{shown(server_id.hex())} already belongs to backend {owners[config_id, server_id]!r}"
                    problems.add(mark, f"{where} {text}; write each server ID once")
