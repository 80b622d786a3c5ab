"""Warnings about valid settings that the operator probably does not want.

Each warning gives the consequence and a remedy. A warning about a good configuration is a bug in this module.

Spec: draft-ietf-quic-load-balancers, sections "Security Considerations", "Server ID Allocation",
"Connection ID Entropy" and "Distinguishing Attacks".
"""

import ipaddress
import math
from collections.abc import Callable, Iterator
from typing import Final

from qlb.addresses import Endpoint
from qlb.config.build import cid_params
from qlb.config.model import Config
from qlb.config.problems import Problems
from qlb.config.scalars import duration_text
from qlb.config.tree import MappingNode, locate
from qlb.routing.backends import BackendState

DEMO_KEY: Final = bytes.fromhex("716c62207075626c69632064656d6f21")
"""The published key of configs/quickstart.yaml."""
DEMO_KEYS: Final = (DEMO_KEY, bytes.fromhex("716c62207075626c69632064656d6f32"))
"""The published keys of all samples."""
SAFE_SERVER_ID_BYTES: Final = 3
"""With this length and up to 134 server IDs, a client's random ID matches one with odds below 1 in a million."""
SAFE_NONCE_BYTES: Final = 6
"""With this length, 100 starts of a server with 100,000 IDs each repeat an ID with odds of 1 in 281,475."""
_STARTS: Final = 100
_IDS_PER_START: Final = 100_000

Advice = Iterator[tuple[tuple[int | str, ...], str]]
"""The path of a key (keys and indexes) and the text of the warning."""


def advise(config: Config, root: MappingNode, warnings: Problems, *, exposed: bool) -> None:
    """Add the warnings. root: the tree of config. exposed: every user of this machine can read the file."""
    for rule in (*_RULES, *((_exposed_key,) if exposed else ())):
        for steps, text in rule(config):
            warnings.add(locate(root, steps)[2], text)
    _same_addresses(config, root, warnings)


def _short_server_ids(config: Config) -> Advice:
    for index, one in enumerate(config.cid_configs):
        servers = len(_server_ids(config, one.config_id))
        if one.server_id_length < SAFE_SERVER_ID_BYTES and servers:
            odds = 8 * 256**one.server_id_length / servers
            yield (
                ("cid_configs", index, "server_id_length"),
                f"server IDs of config {one.config_id} are shorter than {SAFE_SERVER_ID_BYTES} octets: a client's "
                f"random first ID matches one with odds of 1 in {odds:,.0f} ({servers} server IDs / "
                f"(8 x 256^{one.server_id_length})), and goes to its backend whatever its weight and state; use "
                f"{SAFE_SERVER_ID_BYTES} octets or more",
            )


def _plaintext(config: Config) -> Advice:
    for index, one in enumerate(config.cid_configs):
        if one.key is None:
            yield (
                ("cid_configs", index, "config_id"),
                f"config {one.config_id} has no key: every packet shows its server to any observer on the path; add "
                "key_file (`qlb keygen` creates a key)",
            )


def _short_nonces(config: Config) -> Advice:
    """Warn about nonces that can repeat after restarts, because each start begins at a random nonce.

    Two starts with k IDs each overlap if their first nonces are less than k apart; the odds are starts² · k /
    256^length. A plaintext nonce must look random, and a server may choose it at random: then the birthday bound of
    256^length applies.
    """
    for index, one in enumerate(config.cid_configs):
        if one.nonce_length >= SAFE_NONCE_BYTES:
            continue
        odds = 256**one.nonce_length / (_STARTS**2 * _IDS_PER_START)
        text = (
            f"nonces of config {one.config_id} are shorter than {SAFE_NONCE_BYTES} octets: a server begins at a random "
            f"nonce after a restart, and {_STARTS} starts with {_IDS_PER_START:,} connection IDs each repeat one with "
            f"odds of 1 in {odds:,.0f} ({_STARTS}^2 x {_IDS_PER_START:,} / 256^{one.nonce_length})"
        )
        if one.key is None:
            repeat = math.sqrt(2 * math.log(2) * 256**one.nonce_length)
            text += f"; a server with random nonces repeats one with even odds after {repeat:,.0f} connection IDs"
        yield ("cid_configs", index, "nonce_length"), f"{text}; use {SAFE_NONCE_BYTES} octets or more"


def _unused_configs(config: Config) -> Advice:
    if any(source.file is not None or source.server_id_from == "address" for source in config.discovery):
        return  # their backends may have server IDs
    for index, one in enumerate(config.cid_configs):
        if not _server_ids(config, one.config_id):
            yield (
                ("cid_configs", index, "config_id"),
                f"no backend has a server ID under config {one.config_id}: all its connection IDs are unroutable; add "
                "server_ids to the backends, or remove the config",
            )


def _backends_without_ids(config: Config) -> Advice:
    """Warn about backends without server IDs if other backends have some."""
    without = [index for index, backend in enumerate(config.backends) if not backend.server_ids]
    if not config.cid_configs or not without or len(without) == len(config.backends):
        return
    name = config.backends[without[0]].name
    others = f" (and {len(without) - 1} more)" if len(without) > 1 else ""
    yield (
        ("backends", without[0]),
        f"backend {name!r}{others} has no server_ids: a connection is lost when its client's address changes; add "
        "them if the server supports QUIC-LB",
    )
    for index, one in enumerate(config.cid_configs):
        if one.config_id == 0:
            yield (
                ("cid_configs", index, "config_id"),
                f"config 0 beside a backend without server_ids ({name!r}): some servers without QUIC-LB issue IDs that "
                "begin with zeros, which config 0 then decodes; use 1 to 6",
            )


def _shared_keys(config: Config) -> Advice:
    first: dict[bytes, int] = {}
    for index, one in enumerate(config.cid_configs):
        if one.key is not None and first.setdefault(one.key, one.config_id) != one.config_id:
            yield (
                ("cid_configs", index, "key" if one.key_file is None else "key_file"),
                f"config {one.config_id} has the same key as config {first[one.key]}: a new config ID without a new "
                "key gives no new nonces and no new secret; create a key with `qlb keygen`",
            )


def _demo_key(config: Config) -> Advice:
    public = [address for address in config.listen if not ipaddress.ip_address(address.host).is_loopback]
    for index, one in enumerate(config.cid_configs):
        if one.key in DEMO_KEYS and public:
            yield (
                ("cid_configs", index, "key" if one.key_file is None else "key_file"),
                f"config {one.config_id} has the published demo key, and qlb listens on {public[0]}: anyone can decode "
                "its connection IDs; create a key with `qlb keygen FILE`, and name it as key_file",
            )


def _mixed_encryption(config: Config) -> Advice:
    for index, one in enumerate(config.cid_configs):
        for other in config.cid_configs[:index]:
            shared = _server_ids(config, one.config_id) & _server_ids(config, other.config_id)
            if (one.key is None) != (other.key is None) and shared:
                yield (
                    ("cid_configs", index, "config_id"),
                    f"configs {other.config_id} and {one.config_id} share server IDs (such as {min(shared).hex()}), "
                    "and only one of the two encrypts them: known plaintext helps to attack the encrypted ones; use "
                    "different server IDs in each config",
                )


def _cid_lengths(config: Config) -> Advice:
    """Warn if one server issues, or accepts, connection IDs of several lengths."""
    lengths = {params.config_id: params.cid_length for params in cid_params(config)}
    for index, one in enumerate(config.cid_configs):
        for other in config.cid_configs[:index]:
            pool = [b for b in config.backends if {one.config_id, other.config_id} <= b.server_ids.keys()]
            if pool and lengths[one.config_id] != lengths[other.config_id]:
                yield (
                    ("cid_configs", index, "cid_length"),
                    f"connection IDs of config {one.config_id} have {lengths[one.config_id]} octets, those of config "
                    f"{other.config_id} {lengths[other.config_id]}, and backend {pool[0].name!r} has both: servers "
                    "that parse short headers with one fixed length (aioquic) cannot parse one of them; set "
                    f"cid_length: {max(lengths[one.config_id], lengths[other.config_id])} in both",
                )
                break


def _takers(config: Config) -> Advice:
    if config.discovery:
        return
    if not config.backends:
        yield ("backends",), "backends is empty: every packet is dropped"
    elif not any(b.state is BackendState.ACTIVE and b.weight for b in config.backends):
        yield ("backends",), "no backend is active with a weight above 0: new connections are dropped"


def _same_addresses(config: Config, root: MappingNode, warnings: Problems) -> None:
    """Warn about two backends with one address, with the positions of both."""
    first: dict[Endpoint, int] = {}
    for index, backend in enumerate(config.backends):
        other = first.setdefault(backend.address, index)
        if other == index:
            continue
        before, mark = (locate(root, ("backends", one, "address"))[2] for one in (other, index))
        warnings.add(
            mark,
            f"backends {config.backends[other].name!r} (line {before.line}) and {backend.name!r} (line {mark.line}) "
            f"have the same address {backend.address}: write all server_ids under one of them, unless several "
            "processes share this address",
        )


def _open_admin(config: Config) -> Advice:
    """Warn about an admin server that hosts on the Internet can possibly reach."""
    listen = config.admin.listen
    if listen is None:
        return
    address = ipaddress.ip_address(listen.host.partition("%")[0])
    if address.is_unspecified or address.is_global:
        every = ", which is every address of this machine" if address.is_unspecified else ""
        yield (
            ("admin", "listen"),
            f"admin.listen {listen}{every}: each host that can reach it reads status and metrics, because it has no "
            "password; use 127.0.0.1 or an address of your management network, or allow only your monitoring in the "
            "firewall",
        )


def _slow_probes(config: Config) -> Advice:
    health = config.health
    if health.probe != "none" and health.timeout > health.interval:
        yield (
            ("health", "timeout"),
            f"health.timeout ({duration_text(health.timeout)}) is longer than health.interval "
            f"({duration_text(health.interval)}): a backend that does not answer is probed less often than interval",
        )


def _exposed_key(config: Config) -> Advice:
    """Warn about a secret in a file that every user can read; a key file with that mode would be rejected."""
    for index, one in enumerate(config.cid_configs):
        if one.key not in (None, *DEMO_KEYS) and one.key_file is None:
            yield ("cid_configs", index, "key"), _EXPOSED
            return
    if config.fallback.hash_key is not None and config.fallback.hash_key_file is None:
        yield ("fallback", "hash_key"), _EXPOSED


def _server_ids(config: Config, config_id: int) -> set[bytes]:
    return {server_id for backend in config.backends for server_id in backend.server_ids.get(config_id, ())}


_EXPOSED: Final = (
    "this file contains a key, and every user of this machine can read it: chmod o-rwx it, or use a key file"
)
_RULES: Final[tuple[Callable[[Config], Advice], ...]] = (
    _short_server_ids,
    _plaintext,
    _short_nonces,
    _unused_configs,
    _backends_without_ids,
    _shared_keys,
    _demo_key,
    _mixed_encryption,
    _cid_lengths,
    _takers,
    _slow_probes,
    _open_admin,
)
