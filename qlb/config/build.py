"""Convert the configuration for the floors below: CID parameters, backends, a snapshot."""

from qlb.cid.params import CidParams
from qlb.config.model import BackendConfig, CidConfig, Config
from qlb.routing.backends import Backend, BackendIndexes
from qlb.routing.maglev import DEFAULT_KEY
from qlb.routing.snapshot import Snapshot, compile_snapshot


def cid_params(config: Config) -> tuple[CidParams, ...]:
    """Return the parameters of every entry of cid_configs, in the order of the file."""
    return tuple(_cid_params(one) for one in config.cid_configs)


def _cid_params(one: CidConfig) -> CidParams:
    return CidParams(
        config_id=one.config_id,
        server_id_length=one.server_id_length,
        nonce_length=one.nonce_length,
        key=one.key,
        length_self_encoded=one.length_self_encoded,
        cid_length=one.cid_length or 0,
    )


def backends(config: Config) -> tuple[Backend, ...]:
    """Return every backend, in the order of the file. All are healthy until a probe fails."""
    return tuple(map(backend, config.backends))


def backend(one: BackendConfig) -> Backend:
    """Convert one backend."""
    # A plain dict, because snapshots are pickled for the workers and a read-only view cannot be.
    return Backend(one.name, one.address, dict(one.server_ids), one.weight, one.state)


def fallback_key(config: Config) -> bytes:
    """Return the key of the fallback's 4-tuple hash, 16 octets."""
    return config.fallback.hash_key or DEFAULT_KEY


def snapshot(config: Config, generation: int = 1) -> Snapshot:
    """Compile a snapshot for a command that runs once. The supervisor compiles its own, with health."""
    return compile_snapshot(
        generation,
        cid_params(config),
        BackendIndexes().arrange(backends(config)),
        fallback_key=fallback_key(config),
    )
