"""Objections against a reload: it must not remove a server or a key that live packets need.

A configuration can be valid and still break live connections. Then the reload is refused, unless the operator forces
it. The objections refer to packets, not to connections, because a stateless balancer sees no connections.

Spec: draft-ietf-quic-load-balancers, section "Security Considerations" and "Configuration Rotation".
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from qlb.config.build import cid_params
from qlb.config.model import BackendConfig, Config

_FORCE = "or reload with --force"


class Objection(NamedTuple):
    """A reason against a reload. text: for operators, with the seconds since the last packet.

    wait_s: the reason disappears if no packet arrives for this time. backend: the one that must get no new clients
    before that; None if that would not help. about: identifies the reason, without the seconds.
    """

    text: str
    wait_s: float
    about: str
    backend: str | None = None


class Live(Protocol):
    """The times of the last packets, as seconds that have passed since; None if there was no packet."""

    def backend_silence_s(self, name: str) -> float | None:
        """Return the seconds since the last packet to a backend."""

    def config_silence_s(self, config_id: int) -> float | None:
        """Return the seconds since a packet was last routed by an ID of a CID config."""

    def unconfigured_silence_s(self, config_id: int) -> float | None:
        """Return the seconds since a short header last carried a config ID while it was not configured."""


def objections(running: Config, wanted: Config, former: Mapping[int, str], live: Live) -> tuple[Objection, ...]:
    """Return the objections against replacing one configuration by another; empty if that is safe.

    former: config ID → fingerprint of the CID config that this daemon had before.
    """
    return (
        *_removed_backends(running, wanted, live),
        *_lost_server_ids(running, wanted, live),
        *_configs(running, wanted, live),
        *_reused_config_ids(running, wanted, former, live),
    )


def _removed_backends(running: Config, wanted: Config, live: Live) -> Iterator[Objection]:
    quiet_s = running.drain.quiet_period
    for backend in _gone(running, wanted):
        silence_s = live.backend_silence_s(backend.name)
        if silence_s is not None and silence_s < quiet_s:
            text = (
                f"backend {backend.name!r} still gets packets (the last one {silence_s:.1f} s ago): drain it "
                f"(`qlb drain {backend.name}`) and remove it when `qlb status` says that it is drained, {_FORCE}"
            )
            yield Objection(text, quiet_s - silence_s, f"backend {backend.name}", backend.name)


def _lost_server_ids(running: Config, wanted: Config, live: Live) -> Iterator[Objection]:
    """Yield server IDs that remaining backends would lose, to another backend or without replacement."""
    stay = {backend.name for backend in wanted.backends}
    owners = _owners(wanted)
    kept = {one.config_id for one in wanted.cid_configs}
    for (config_id, server_id), name in _owners(running).items():
        owner = owners.get((config_id, server_id))
        if name not in stay or owner == name or config_id not in kept:
            continue
        silence_s, config_silence_s = live.backend_silence_s(name), live.config_silence_s(config_id)
        waits_s = (
            _wait_s(silence_s, running.drain.quiet_period),
            _wait_s(config_silence_s, running.rotation.quiet_period),
        )
        if min(waits_s) > 0:
            text = (
                f"backend {name!r} would lose its server ID {server_id.hex()} of config {config_id}"
                f"{f' to {owner!r}' if owner else ''} while it gets packets (the last one {silence_s:.1f} s ago): "
                f"drain it first, {_FORCE}"
            )
            yield Objection(text, min(waits_s), f"server ID {config_id} {server_id.hex()} of {name}", name)


def _configs(running: Config, wanted: Config, live: Live) -> Iterator[Objection]:
    """Yield CID configs that would be removed, or would decode differently, while packets carry their IDs."""
    next_ones = _fingerprints(wanted)
    for config_id, fingerprint in _fingerprints(running).items():
        silence_s, quiet_s = live.config_silence_s(config_id), running.rotation.quiet_period
        if next_ones.get(config_id) == fingerprint or silence_s is None or silence_s >= quiet_s:
            continue
        carried = f"packets still carry config ID {config_id} (the last one {silence_s:.1f} s ago)"
        if config_id in next_ones:
            text = f"{carried}: its key and lengths cannot change; add another CID config (`qlb rotate`), {_FORCE}"
        else:
            text = f"{carried}: it can be removed after {quiet_s:g} s of silence (rotation.quiet_period), {_FORCE}"
        yield Objection(text, quiet_s - silence_s, f"config {config_id}")


def _reused_config_ids(running: Config, wanted: Config, former: Mapping[int, str], live: Live) -> Iterator[Objection]:
    """Yield config IDs that had another CID config a while ago and are still carried."""
    now = _fingerprints(running)
    for config_id, fingerprint in _fingerprints(wanted).items():
        if config_id in now or former.get(config_id, fingerprint) == fingerprint:
            continue
        known = [s for s in (live.unconfigured_silence_s(config_id), live.config_silence_s(config_id)) if s is not None]
        silence_s, quiet_s = min(known, default=None), running.rotation.quiet_period
        if silence_s is not None and silence_s < quiet_s:
            text = (
                f"packets still carry config ID {config_id} as it was before (the last one {silence_s:.1f} s ago): "
                f"give the new CID config another ID, {_FORCE}"
            )
            yield Objection(text, quiet_s - silence_s, f"config {config_id} before")


def _gone(running: Config, wanted: Config) -> Iterator[BackendConfig]:
    """Yield removed backends. A backend that was renamed and has the same address and server IDs is not removed."""
    names = {backend.name for backend in wanted.backends}
    addresses = {backend.name: backend.address for backend in wanted.backends}
    owners = _owners(wanted)
    for backend in running.backends:
        if backend.name in names:
            continue
        heirs = {owners.get((n, server_id)) for n, ids in backend.server_ids.items() for server_id in ids}
        heir = heirs.pop() if len(heirs) == 1 else None
        if heir is None or addresses[heir] != backend.address:
            yield backend


def _owners(config: Config) -> dict[tuple[int, bytes], str]:
    return {
        (config_id, server_id): backend.name
        for backend in config.backends
        for config_id, server_ids in backend.server_ids.items()
        for server_id in server_ids
    }


def _fingerprints(config: Config) -> dict[int, str]:
    return {params.config_id: params.fingerprint for params in cid_params(config)}


def _wait_s(silence_s: float | None, quiet_period_s: float) -> float:
    """Return the rest of a quiet period; 0 if there was no packet."""
    return 0.0 if silence_s is None else max(quiet_period_s - silence_s, 0.0)
