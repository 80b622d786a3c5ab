"""The state machine of a rotation: the next step, and the objections to it.

A rotation replaces one QUIC-LB CID config by another, in three phases:

staged: every balancer must decode the new CID config; servers issue from the old one.
retiring: servers issue from the new CID config; packets still carry the old one.
done: no packet has carried the old CID config for a whole quiet period.

The states are in the YAML and nowhere else. A step is safe only if the reports of all balancers allow it.

Spec: draft-ietf-quic-load-balancers, section "Configuration Rotation" and "Security Considerations".
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from qlb.cid.params import MAX_CONFIG_ID
from qlb.config.build import cid_params
from qlb.config.credentials import is_credential
from qlb.config.model import CidConfig, Config
from qlb.errors import QlbError
from qlb.observe.figures import RotationReading

_PREFERRED_IDS: Final[tuple[int, ...]] = (*range(1, MAX_CONFIG_ID + 1), 0)
"""0 is the last choice: some servers without QUIC-LB issue IDs that begin with zeros."""
_ISSUED_PACKETS: Final = 100
"""Packets under a staged CID config that show that servers issue from it; one short call sends more."""


class Seen(NamedTuple):
    """One CID config on one balancer.

    silence_s: time since an ID under it was last routed; if none ever was, time since the daemon started.
    packets: number of packets that were routed by it.
    """

    config_id: int
    state: str
    silence_s: float
    fingerprint: str = ""
    packets: int = 0


class Carried(NamedTuple):
    """Packets with a config ID that is not configured on a balancer.

    Any host can send a few such packets, so they prove nothing by themselves.
    sustained: they arrive continuously, as those of a server do. configured_before: this balancer once had the config
    ID, so the packets may belong to live connections.
    """

    silence_s: float
    packets: int = 0
    sustained: bool = False
    configured_before: bool = False


class Balancer(NamedTuple):
    """The report of one balancer.

    configs, unconfigured: by config ID. behind: its workers that have not applied its configuration yet.
    """

    name: str
    configs: Mapping[int, Seen]
    unconfigured: Mapping[int, Carried]
    behind: tuple[int, ...] = ()


class Parts(NamedTuple):
    """The CID configs of a rotation. staged, retiring: those in this state. old: the active ones to replace next."""

    staged: CidConfig | None
    retiring: tuple[CidConfig, ...]
    old: tuple[CidConfig, ...]


def read_balancer(name: str, status: Mapping[str, object]) -> Balancer:
    """Read the /status of a balancer. Raises QlbError if it is invalid, or from a release without rotation."""
    try:
        return _read_balancer(name, status)
    except (KeyError, TypeError, ValueError) as error:
        raise QlbError(f"{name} returns no status that a rotation can use: {error!r}") from error


def _read_balancer(name: str, status: Mapping[str, object]) -> Balancer:
    uptime_s, rows, others = status["uptime_s"], status["cid_configs"], status["unconfigured_cids"]
    if not isinstance(uptime_s, int | float) or not isinstance(rows, list) or not isinstance(others, list):
        raise TypeError("uptime_s, cid_configs, unconfigured_cids")
    since_start_s = float(uptime_s)

    def silence_s(row: Mapping[str, object]) -> float:
        last_seen_s = row["last_seen_s"]
        return float(last_seen_s) if isinstance(last_seen_s, int | float) else since_start_s

    configs: dict[int, Seen] = {
        row["config_id"]: Seen(row["config_id"], row["state"], silence_s(row), row["fingerprint"], row["packets"])
        for row in rows
    }
    carried: dict[int, Carried] = {
        row["config_id"]: Carried(
            silence_s(row),
            int(row.get("packets", 0)),
            # An earlier release does not report these two. There, every packet is an objection, as in that release.
            sustained=row.get("sustained", True) is not False,
            configured_before=row.get("configured_before", True) is not False,
        )
        for row in others
    }
    workers = status.get("workers")  # an earlier release does not report its workers
    behind = [row["index"] for row in workers if not row.get("up_to_date", True)] if isinstance(workers, list) else []
    return Balancer(name, configs, carried, tuple(behind))


def read_parts(config: Config, old_id: int | None = None) -> Parts:
    """Return the CID configs of the rotation. old_id: the config ID to replace, needed if several are active.

    Raises QlbError if the answer is ambiguous.
    """
    staged = [one for one in config.cid_configs if one.state == "staged"]
    if len(staged) > 1:
        raise QlbError(
            f"configs {_listed(staged)} are staged at the same time: only one rotation at a time is possible"
        )
    retiring = tuple(one for one in config.cid_configs if one.state == "retiring")
    active = [one for one in config.cid_configs if one.state == "active"]
    if staged:
        covered = _pool(config, staged[0])
        return Parts(staged[0], retiring, tuple(one for one in active if _pool(config, one) <= covered))
    old = [one for one in active if old_id in (None, one.config_id)]
    if not active:
        raise QlbError("no cid_configs are active: there is nothing to replace")
    if not retiring and len(old) != 1:
        raise QlbError(f"--config-id must say which of the active configs to replace: {_listed(active)}")
    return Parts(None, retiring, tuple(old))


def choose_config_id(
    config: Config, balancers: Sequence[Balancer], wanted: int | None = None, *, force: bool = False
) -> tuple[int, tuple[str, ...]]:
    """Return a config ID for a new CID config, and warnings about it.

    The config ID is configured nowhere, and no server seems to issue it. One that no packet carries is preferred.
    wanted: the only one to consider. force: ignore the packets. Raises QlbError if no config ID is possible.
    """
    configured: set[int] = {one.config_id for one in config.cid_configs}.union(*(one.configs for one in balancers))
    if wanted in configured:
        raise QlbError(f"config ID {wanted} is configured already: choose another one (--new-config-id)")
    free = [n for n in _PREFERRED_IDS if n not in configured and wanted in (None, n)]
    if not free:
        raise QlbError("all seven config IDs are configured: retire one first")
    objections = {n: tuple(against_using(config, n, balancers)) for n in free}
    possible = free if force else [n for n in free if not objections[n]]
    if not possible:
        reasons = "\n".join(reason for n in free for reason in objections[n])
        raise QlbError(f"no free config ID is safe to use; --force uses one anyway:\n{reasons}")
    chosen = min(possible, key=lambda n: (bool(objections[n]), any(n in one.unconfigured for one in balancers)))
    return chosen, objections[chosen] or tuple(_stray(chosen, balancers))


def against_using(config: Config, config_id: int, balancers: Sequence[Balancer]) -> Iterator[str]:
    """Yield the objections to a free config ID: servers seem to issue it, or issued it a short time ago.

    A few packets with a config ID that no balancer ever had are no objection, because any host can send them.
    """
    quiet_s = config.rotation.quiet_period
    for balancer in balancers:
        seen = balancer.unconfigured.get(config_id)
        if seen is None or seen.silence_s >= quiet_s:
            continue
        if seen.sustained:
            yield f"{balancer.name}: packets keep coming with config ID {config_id}: a server may issue it"
        elif seen.configured_before:
            yield (
                f"{balancer.name}: packets still carry config ID {config_id}, which it had before (the last one came "
                f"{seen.silence_s:.1f} s ago; {quiet_s:g} s are needed)"
            )


def _stray(config_id: int, balancers: Sequence[Balancer]) -> Iterator[str]:
    for balancer in balancers:
        seen = balancer.unconfigured.get(config_id)
        if seen is not None:
            yield (
                f"{balancer.name}: {seen.packets} packets carried config ID {config_id} before it was configured (the "
                f"last one came {seen.silence_s:.1f} s ago); they are too few to come from a server"
            )


def against_issuing(config: Config, staged: CidConfig, balancers: Sequence[Balancer]) -> Iterator[str]:
    """Yield the objections to letting servers issue from a staged CID config: balancers that do not decode it."""
    fingerprint = next(params.fingerprint for params in cid_params(config) if params.config_id == staged.config_id)
    for balancer in balancers:
        seen = balancer.configs.get(staged.config_id)
        if seen is None:
            load = "restart" if staged.key_file is not None and is_credential(staged.key_file) else "reload"
            yield f"{balancer.name} does not decode config {staged.config_id} yet: copy this file to it and {load} it"
        elif balancer.behind:
            yield f"{balancer.name}: worker {_and(balancer.behind)} has not applied the configuration yet"
        elif seen.fingerprint != fingerprint:
            yield (
                f"{balancer.name} decodes config {staged.config_id} with another key or other lengths (fingerprint "
                f"{seen.fingerprint}, not {fingerprint}): copy this file and its keys to it, and reload it"
            )


def against_removing(config: Config, going: CidConfig, balancers: Sequence[Balancer]) -> Iterator[str]:
    """Yield the objections to removing a CID config: packets still carry it, or servers may still issue from it."""
    quiet_s = config.rotation.quiet_period
    for balancer in balancers:
        seen = balancer.configs.get(going.config_id)
        if seen is not None and seen.silence_s < quiet_s:
            yield (
                f"{balancer.name}: config {going.config_id} has been silent for {seen.silence_s:.1f} s, and must be "
                f"for {quiet_s:g} s (rotation.quiet_period; --force removes it anyway)"
            )
    successors = [one.config_id for one in config.cid_configs if one.state == "active"]
    if not any(balancer.configs[n].packets for balancer in balancers for n in successors if n in balancer.configs):
        yield f"no balancer has seen a packet under config {_or(successors)} yet: give every server its parameters"


def against_unstaging(staged: CidConfig, balancers: Sequence[Balancer]) -> Iterator[str]:
    """Yield the objections to removing a staged CID config: servers already issue from it.

    A few packets are no evidence. If server IDs are short, random octets sometimes decode to a backend, and if there is
    no key, any host can make up an ID.
    """
    for balancer in balancers:
        seen = balancer.configs.get(staged.config_id)
        if seen is not None and seen.packets >= _ISSUED_PACKETS:
            yield (
                f"{balancer.name} has routed {seen.packets} packets under config {staged.config_id}: servers already "
                "issue from it (--force removes it anyway)"
            )


def read_rotation(configs: Sequence[Seen], quiet_period_s: float) -> RotationReading:
    """Return the phase of a rotation, as one balancer sees it."""
    by_state = {state: [one for one in configs if one.state == state] for state in ("staged", "active", "retiring")}
    staged, active, retiring = by_state["staged"], by_state["active"], by_state["retiring"]
    current = active[-1].config_id if active else None
    if staged:
        new = staged[0].config_id
        text = f"config {new} is decoded here; when every balancer decodes it, `qlb rotate next` activates it"
        return RotationReading(phase="staged", from_config_id=current, to_config_id=new, next_step=text)
    if not retiring:
        return RotationReading(phase="idle")
    last = min(retiring, key=lambda one: one.silence_s)
    old = last.config_id
    if last.silence_s < quiet_period_s:
        text = (
            f"give every server its new parameters (`qlb server-config`); config {old} can be removed after "
            f"{quiet_period_s:g} s of silence; it has been silent for {last.silence_s:.0f} s"
        )
        return RotationReading(phase="retiring", from_config_id=old, to_config_id=current, next_step=text)
    text = f"config {old} has been silent for {last.silence_s:.0f} s: `qlb rotate next` removes it"
    return RotationReading(phase="done", from_config_id=old, to_config_id=current, next_step=text)


def _pool(config: Config, one: CidConfig) -> set[str]:
    """Return the names of the backends that have a server ID under a CID config."""
    return {backend.name for backend in config.backends if one.config_id in backend.server_ids}


def _listed(configs: Sequence[CidConfig]) -> str:
    return ", ".join(str(one.config_id) for one in configs)


def _and(numbers: Sequence[int]) -> str:
    return " and ".join(map(str, numbers))


def _or(config_ids: Sequence[int]) -> str:
    return " or ".join(map(str, config_ids)) or "(none is active)"
