"""What a reload may not do while packets are under way: take from them the server or the key that they need.

A configuration can be right in itself and wrong for the connections that live now. The objections here are to
such ones; an operator who knows better forces the reload. Packets are what is judged by, not connections: a balancer
without state sees no others.

Spec: draft-ietf-quic-load-balancers, section "Security Considerations" and "Configuration Rotation".
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Protocol

from qlb.config.build import cid_params
from qlb.config.model import BackendConfig, Config

_FORCE = "or reload with --force"


class Objection(NamedTuple):
    """A reason against a reload. text: for operators, with the seconds of silence.

    wait_s: the reason is gone when no packet comes for so long. backend: the one that must get no new clients for
    that, None where that would not help. about: identifies the reason, whatever the seconds.
    """

    text: str
    wait_s: float
    about: str
    backend: str | None = None


class Live(Protocol):
    """What is known of the packets of the last while: seconds since the last one, None where there was none."""

    def backend_silence_s(self, name: str) -> float | None:
        """Since a packet went to a backend."""

    def config_silence_s(self, config_id: int) -> float | None:
        """Since an ID under a configured config ID was routed."""

    def unconfigured_silence_s(self, config_id: int) -> float | None:
        """Since a short header carried a config ID while it was not configured."""


def objections(running: Config, wanted: Config, former: Mapping[int, str], live: Live) -> tuple[Objection, ...]:
    """Return what speaks against going from one configuration to the next; nothing where it is safe.

    former: fingerprints of configurations that this daemon has had and has no more, by config ID.
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
    """Yield server IDs that backends which stay would lose, to another one or to nobody."""
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
                f"backend {name!r} would lose its server ID {server_id.hex()} of config {config_id} to "
                f"{repr(owner) if owner else 'nobody'} while it gets packets (the last one {silence_s:.1f} s ago): "
                f"drain it first, {_FORCE}"
            )
            yield Objection(text, min(waits_s), f"server ID {config_id} {server_id.hex()} of {name}", name)


def _configs(running: Config, wanted: Config, live: Live) -> Iterator[Objection]:
    """Yield configs that would go, or would decode otherwise, while packets carry their IDs."""
    next_ones = _fingerprints(wanted)
    for config_id, fingerprint in _fingerprints(running).items():
        silence_s, quiet_s = live.config_silence_s(config_id), running.rotation.quiet_period
        if next_ones.get(config_id) == fingerprint or silence_s is None or silence_s >= quiet_s:
            continue
        heard = f"packets still carry config ID {config_id} (the last one {silence_s:.1f} s ago)"
        if config_id in next_ones:
            text = f"{heard}: its key and lengths cannot change; add another config (`qlb rotate`), {_FORCE}"
        else:
            text = f"{heard}: it may go after {quiet_s:g} s of silence (rotation.quiet_period), {_FORCE}"
        yield Objection(text, quiet_s - silence_s, f"config {config_id}")


def _reused_config_ids(running: Config, wanted: Config, former: Mapping[int, str], live: Live) -> Iterator[Objection]:
    """Yield config IDs that stood for something else a while ago and are still carried."""
    now = _fingerprints(running)
    for config_id, fingerprint in _fingerprints(wanted).items():
        if config_id in now or former.get(config_id, fingerprint) == fingerprint:
            continue
        known = [s for s in (live.unconfigured_silence_s(config_id), live.config_silence_s(config_id)) if s is not None]
        silence_s, quiet_s = min(known, default=None), running.rotation.quiet_period
        if silence_s is not None and silence_s < quiet_s:
            text = (
                f"packets still carry config ID {config_id} as it was before (the last one {silence_s:.1f} s ago): "
                f"give the new config another ID, {_FORCE}"
            )
            yield Objection(text, quiet_s - silence_s, f"config {config_id} before")


def _gone(running: Config, wanted: Config) -> Iterator[BackendConfig]:
    """Yield backends that are no more. One that was renamed, with its address and its server IDs, is still there."""
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
    """Return what is missing to a quiet period; 0 where there was no packet."""
    return 0.0 if silence_s is None else max(quiet_period_s - silence_s, 0.0)
