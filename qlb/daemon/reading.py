"""Take a reading: combine shared counters, wanted state and health into one plain object for metrics and status."""

import time
from collections.abc import Mapping, Sequence
from typing import Final, Protocol

import qlb
from qlb.addresses import Endpoint
from qlb.daemon.counts import by_reason, latency, samples, since
from qlb.daemon.desired import Desired
from qlb.daemon.history import History
from qlb.daemon.meter import IdUse
from qlb.daemon.preflight import Shortfalls
from qlb.daemon.reload_requests import Reloads
from qlb.daemon.rows import BackendRows, Row
from qlb.daemon.shown_ids import ShownIds, unknown_ids
from qlb.daemon.traffic import Traffic
from qlb.discovery.watch import Discovery
from qlb.handover.processes import AddressWatch
from qlb.health.monitor import HealthMonitor
from qlb.observe import figures
from qlb.observe.figures import REMOVED, Reading
from qlb.rotation.phases import Seen, read_rotation
from qlb.routing import counters as layout
from qlb.routing import sums
from qlb.routing.backends import Backend, BackendState
from qlb.routing.counters import Counters
from qlb.routing.outcomes import CONFIG_IDS, OUTCOMES, ROUTES
from qlb.routing.totals import NO_SLOT, TOTALS
from qlb.workers.engine import Engine
from qlb.workers.slots import Slot

_NS: Final = 1_000_000_000


class Daemon(Protocol):
    """The parts of a daemon that a reading is taken from."""

    desired: Desired
    reloads: Reloads
    history: History
    health: HealthMonitor
    discovery: Discovery
    traffic: Traffic
    rows: BackendRows
    id_use: IdUse
    shown_ids: ShownIds
    engine: Engine | None
    plane: str
    listen: tuple[Endpoint, ...]
    addresses: AddressWatch
    shortfalls: Shortfalls

    def is_ready(self) -> bool:
        """Return whether this node should get traffic."""


def take_reading(daemon: Daemon) -> Reading:
    """Return every figure of a daemon as it is now."""
    desired, history = daemon.desired, daemon.history
    slots = daemon.engine.slots if daemon.engine is not None else ()
    workers = daemon.engine.counters if daemon.engine is not None else ()
    packets, now_s = sums.total_outcomes(workers), time.monotonic()
    backends = _backends(daemon, workers, now_s)
    return Reading(
        version=qlb.__version__,
        taken_at=time.time(),
        uptime_s=now_s - history.started_s,
        plane=daemon.plane,
        mode=desired.config.forwarding.mode,
        listen=tuple(map(str, daemon.listen)),
        listeners=_listeners(daemon, slots),
        ready=daemon.is_ready(),
        generation=history.generation,
        loaded_at=history.loaded_at_s,
        last_reload_ok=not daemon.reloads.problems and history.is_complete,
        reload_problems=daemon.reloads.problems,
        reload_retry_s=daemon.reloads.retry_s,
        backends=backends,
        cid_configs=_cid_configs(daemon, workers, packets, now_s),
        totals=_totals(daemon, workers, slots, backends),
        outcomes={outcome.name: count for outcome, count in zip(OUTCOMES, packets, strict=True)},
        dropped=by_reason(packets, dropped=True),
        unroutable=by_reason(packets, dropped=False),
        return_send_errors=sums.total_return_send_errors(workers),
        latency=latency(workers) if slots else (),
        workers=_workers(daemon, slots),
        samples=samples(workers, now_s),
        probes={"ok": daemon.health.probes_ok, "failed": daemon.health.probes_failed},
        probe_errors=daemon.health.own_errors.counts,
        probe_error=daemon.health.own_errors.current,
        all_failing=daemon.health.all_failing,
        without_ids=daemon.id_use.none_at_all,
        unconfigured=_unconfigured(daemon, workers, now_s),
        unknown=unknown_ids(daemon.shown_ids, workers, now_s),
        rotation=_rotation(daemon, workers, now_s),
        discovery=_discovery(daemon, now_s),
        xdp=_xdp(daemon.engine),
        kernel_drops_over=daemon.traffic.kernel_drops.over,
        balancers=tuple(name for name in desired.config.rotation.balancers if name.startswith("http://")),
    )


def _totals(
    daemon: Daemon, workers: Sequence[Counters], slots: Sequence[Slot], backends: Sequence[figures.BackendReading]
) -> dict[str, int]:
    """Return the value of every row of TOTALS: sums of counters and of backends, and the supervisor's own numbers."""
    desired, count = daemon.desired, len(slots)
    present = sum(backend is not None for backend in desired.backends)
    return {
        "bytes_forwarded": sum(row.forwarded_bytes for row in backends),
        "bytes_returned": sum(row.returned_bytes for row in backends),
        "new_flows": sum(row.new_flows for row in backends),
        "sessions_max": daemon.shortfalls.granted_sessions(desired.config, count, present) * count if count else 0,
        "worker_restarts": sum(slot.restarts for slot in slots),
        "worker_hangs": sum(slot.hangs for slot in slots),
        **{one.name: sums.total(workers, one.slot) for one in TOTALS if one.slot != NO_SLOT},
    }


def _workers(daemon: Daemon, slots: Sequence[Slot]) -> tuple[figures.WorkerReading, ...]:
    return tuple(
        figures.WorkerReading(
            index=slot.number,
            pid=slot.process.pid,
            alive=slot.process.alive,
            heartbeat_age_s=slot.silent_ms / 1000,
            up_to_date=not slot.is_behind,
            busy_share=daemon.traffic.busy_share(slot.number),
            cpu_s=slot.counters.slots[layout.CPU_NS] / _NS,
            resident_bytes=slot.counters.slots[layout.RESIDENT_BYTES] or None,
        )
        for slot in slots
        if slot.process is not None
    )


def _xdp(engine: Engine | None) -> figures.XdpReading | None:
    if engine is None or (found := engine.findings) is None:
        return None
    return figures.XdpReading(notices=found.notices, detached_interfaces=found.detached, refused_backends=found.refused)


def _discovery(daemon: Daemon, now_s: float) -> tuple[figures.SourceReading, ...]:
    return tuple(
        figures.SourceReading(
            name=name,
            kind=one.source.kind,
            up=one.up,
            backends=len(one.backends or ()),
            last_success_s=None if one.answered_at is None else now_s - one.answered_at,
            error=one.error,
            remarks=tuple(remark.text for remark in one.remarks),
        )
        for name, one in daemon.discovery.sources.items()
    )


def _listeners(daemon: Daemon, slots: Sequence[Slot]) -> tuple[figures.ListenerReading, ...]:
    rows = []
    for number, endpoint in enumerate(daemon.listen if slots else ()):
        dropped = [count for slot in slots if (count := slot.drops[number].read()) is not None]
        rows.append(
            figures.ListenerReading(
                listen=str(endpoint),
                kernel_dropped=sum(dropped) if dropped else None,
                receive_buffer_bytes=min(slot.receive_buffer_bytes[number] for slot in slots),
                send_buffer_bytes=min(slot.send_buffer_bytes[number] for slot in slots),
                strangers=daemon.addresses.counts.get(endpoint, 0),
            )
        )
    return tuple(rows)


def _backends(daemon: Daemon, workers: Sequence[Counters], now_s: float) -> tuple[figures.BackendReading, ...]:
    backends = daemon.desired.present  # read before the names, because it may add names
    names, shares = daemon.desired.names, daemon.desired.fallback_shares
    daemon.rows.follow(workers, names)
    counts, shown = daemon.rows.read(workers, names), daemon.shown_ids.read(workers, names)
    rows = []
    for index, (name, backend) in enumerate(zip(names, backends, strict=True)):
        if name:
            row = counts.by_index[index]
            too_large = sums.last_too_large_bytes(workers, index) if row.send_errors[layout.TOO_LARGE] else 0
            rows.append(_backend(daemon, name, backend, row, now_s, shares[index], too_large, shown.get(name)))
    if len(rows) < len(names) or counts.removed != Row():
        rows.append(_backend(daemon, figures.REMOVED_ROW, None, counts.removed, now_s))
    return tuple(rows)


def _backend(
    daemon: Daemon,
    name: str,
    backend: Backend | None,
    counts: Row,
    now_s: float,
    share: float = 0.0,
    too_large_bytes: int = 0,
    shown: Mapping[str, int] | None = None,
) -> figures.BackendReading:
    """Return one backend's row. backend: None if it has left."""
    last_seen_s = since(counts.last_seen_ms, now_s)
    silence_s = now_s - daemon.history.started_s if last_seen_s is None else last_seen_s
    state = str(backend.state) if backend else REMOVED
    return figures.BackendReading(
        name=name,
        address=str(backend.endpoint) if backend else "",
        state=state,
        drained=state == BackendState.DRAINING and silence_s >= daemon.desired.config.drain.quiet_period,
        healthy=backend is not None and daemon.health.is_up(name),
        detail=daemon.health.detail(name) if backend else "",
        finding=(daemon.health.finding(name) or daemon.shown_ids.finding(name)) if backend else "",
        unknown_ids=daemon.shown_ids.has_unknown(name),
        shown_ids=shown,
        weight=backend.weight if backend else 0,
        forwarded=dict(zip(ROUTES, counts.forwarded, strict=True)),
        returned=counts.returned,
        last_seen_s=last_seen_s,
        fallback_share=share,
        without_ids=daemon.id_use.is_missing(name),
        packets_per_second=daemon.traffic.backend_rate(name),
        source=daemon.desired.members.source_of(name),
        send_errors={kind: n for kind, n in zip(layout.SEND_ERROR_KINDS, counts.send_errors, strict=True) if n},
        too_large_bytes=too_large_bytes,
        forwarded_bytes=counts.forwarded_bytes,
        returned_bytes=counts.returned_bytes,
        new_flows=counts.new_flows,
        excluded=daemon.desired.loops.excluded.get(name, "") if backend else "",
        leaving=daemon.desired.drains_leaving and name in daemon.desired.leaving,
    )


def _cid_configs(
    daemon: Daemon, workers: Sequence[Counters], packets: Sequence[int], now_s: float
) -> tuple[figures.CidConfigReading, ...]:
    states = {one.config_id: one.state for one in daemon.desired.config.cid_configs}
    return tuple(
        figures.CidConfigReading(
            config_id=config_id,
            algorithm=config.codec.params.algorithm,
            state=states.get(config_id, ""),
            fingerprint=config.codec.params.fingerprint,
            packets_per_second=daemon.traffic.config_rate(config_id),
            packets=packets[config_id],
            last_seen_s=since(sums.config_last_seen_ms(workers, config_id), now_s),
        )
        for config_id, config in enumerate(daemon.desired.current.orders.snapshot.configs)
        if config is not None
    )


def _unconfigured(daemon: Daemon, workers: Sequence[Counters], now_s: float) -> tuple[figures.UnconfiguredReading, ...]:
    configs = enumerate(daemon.desired.current.orders.snapshot.configs[:CONFIG_IDS])
    counts = {number: sums.total_unconfigured(workers, number) for number, config in configs if config is None}
    return tuple(
        figures.UnconfiguredReading(
            config_id=config_id,
            packets=found.packets,
            last_seen_s=since(found.last_seen_ms, now_s),
            sustained=daemon.traffic.is_unconfigured_sustained(config_id),
            configured_before=config_id in daemon.desired.former,
            over=daemon.traffic.unconfigured_over(config_id),
        )
        for config_id, found in counts.items()
        if found.packets
    )


def _rotation(daemon: Daemon, workers: Sequence[Counters], now_s: float) -> figures.RotationReading:
    config, uptime_s = daemon.desired.config, now_s - daemon.history.started_s
    seen = []
    for one in config.cid_configs:
        last_seen_s = since(sums.config_last_seen_ms(workers, one.config_id), now_s)
        seen.append(Seen(one.config_id, one.state, uptime_s if last_seen_s is None else last_seen_s))
    return read_rotation(seen, config.rotation.quiet_period)
