"""The status of a daemon as plain data for JSON, which ``/status`` returns and ``qlb status --json`` prints.

Its names and their meanings are a contract. It contains no secret. Durations end in _s; ``loaded_at`` is RFC 3339.
"""

from collections import Counter
from datetime import UTC, datetime

from qlb.observe.figures import (
    REMOVED,
    BackendReading,
    CidConfigReading,
    ListenerReading,
    Reading,
    RotationReading,
    SampleReading,
    SourceReading,
    WorkerReading,
    XdpReading,
)
from qlb.observe.notices import Notice, notices
from qlb.observe.outcomes import grouped
from qlb.routing.totals import TOTALS

_DECIMALS = 3
_SHARE_DECIMALS = 6


def build_status(reading: Reading) -> dict[str, object]:
    """Return the status of a reading. Backends that have left are apart, under ``removed_backends``."""
    return {
        "version": reading.version,
        "ready": reading.ready,
        "uptime_s": round(reading.uptime_s, _DECIMALS),
        "plane": reading.plane,
        "mode": reading.mode,
        "listen": list(reading.listen),
        "listeners": [_listener(row) for row in reading.listeners],
        "config": {
            "generation": reading.generation,
            "loaded_at": datetime.fromtimestamp(reading.loaded_at, UTC).isoformat(timespec="milliseconds"),
            "last_reload_ok": reading.last_reload_ok,
            "reload_problems": list(reading.reload_problems),
            "reload_retry_s": _rounded(reading.reload_retry_s),
        },
        "notices": [_notice(one) for one in notices(reading)],
        "all_probes_failing": reading.all_failing,
        "probe_error": reading.probe_error or None,
        "backends": [_backend(row) for row in reading.backends if row.state != REMOVED],
        "removed_backends": [_counts(row) for row in reading.backends if row.state == REMOVED],
        "cid_configs": [_cid_config(row) for row in reading.cid_configs],
        "unconfigured_cids": [
            {
                "config_id": row.config_id,
                "packets": row.packets,
                "last_seen_s": _rounded(row.last_seen_s),
                "sustained": row.sustained,
                "configured_before": row.configured_before,
            }
            for row in reading.unconfigured
        ],
        "unknown_server_ids": [
            {
                "config_id": row.config_id,
                "packets": row.packets,
                "last_seen_s": _rounded(row.last_seen_s),
                "sustained": row.sustained,
            }
            for row in reading.unknown
        ],
        "rotation": _rotation(reading.rotation),
        "outcomes": dict(reading.outcomes),
        "outcome_groups": grouped(reading.outcomes),
        **reading.totals,
        "totals": [
            {"name": one.name, "kind": one.kind, "value": reading.totals[one.name], "text": one.text} for one in TOTALS
        ],
        "send_errors": _send_errors(reading),
        "discovery": [_source(row) for row in reading.discovery],
        "workers": [_worker(row) for row in reading.workers],
        "xdp": _xdp(reading.xdp),
        "samples": {reason: _sample(sample) for reason, sample in reading.samples.items()},
        "balancers": list(reading.balancers),
    }


def _notice(notice: Notice) -> dict[str, str]:
    """Return a notice. see: the page in docs/ that explains it."""
    return {
        "severity": notice.severity,
        "level": notice.level,
        "kind": notice.kind,
        "text": notice.text,
        "see": notice.see,
    }


def _send_errors(reading: Reading) -> dict[str, int]:
    """Return refused calls to send by cause, in both directions."""
    totals = Counter(reading.return_send_errors)
    for row in reading.backends:
        totals.update(row.send_errors)
    return dict(totals)


def _backend(row: BackendReading) -> dict[str, object]:
    return {
        "name": row.name,
        "address": row.address,
        "source": row.source,
        "state": row.state,
        "drained": row.drained,
        "leaving": row.leaving,
        "healthy": row.healthy,
        "detail": row.detail,
        "finding": row.finding or None,
        "send_errors": dict(row.send_errors),
        "too_large_bytes": row.too_large_bytes or None,
        "without_ids": row.without_ids,
        "shown_ids": None if row.shown_ids is None else dict(row.shown_ids),
        "unknown_ids": row.unknown_ids,
        "excluded": row.excluded or None,
        "weight": row.weight,
        "fallback_share": round(row.fallback_share, _SHARE_DECIMALS),
        "packets_per_second": round(row.packets_per_second, _DECIMALS),
        **_counts(row),
    }


def _counts(row: BackendReading) -> dict[str, object]:
    return {
        "name": row.name,
        "forwarded_packets": sum(row.forwarded.values()),
        "forwarded_by_route": dict(row.forwarded),
        "forwarded_bytes": row.forwarded_bytes,
        "returned_packets": row.returned,
        "returned_bytes": row.returned_bytes,
        "new_flows": row.new_flows,
        "last_seen_s": _rounded(row.last_seen_s),
    }


def _source(row: SourceReading) -> dict[str, object]:
    return {
        "name": row.name,
        "kind": row.kind,
        "up": row.up,
        "backends": row.backends,
        "last_success_s": _rounded(row.last_success_s),
        "error": row.error or None,
        "remarks": list(row.remarks),
    }


def _listener(row: ListenerReading) -> dict[str, object]:
    return {
        "listen": row.listen,
        "kernel_dropped_packets": row.kernel_dropped,
        "receive_buffer_bytes": row.receive_buffer_bytes,
        "send_buffer_bytes": row.send_buffer_bytes,
        "strangers": row.strangers,
    }


def _worker(row: WorkerReading) -> dict[str, object]:
    return {
        "index": row.index,
        "slot": row.index,
        "pid": row.pid,
        "alive": row.alive,
        "heartbeat_age_s": round(row.heartbeat_age_s, _DECIMALS),
        "up_to_date": row.up_to_date,
        "cpu_seconds": round(row.cpu_s, _DECIMALS),
        "busy_share": round(row.busy_share, _DECIMALS),
        "resident_bytes": row.resident_bytes,
    }


def _cid_config(row: CidConfigReading) -> dict[str, object]:
    return {
        "config_id": row.config_id,
        "algorithm": row.algorithm,
        "state": row.state,
        "fingerprint": row.fingerprint,
        "packets": row.packets,
        "packets_per_second": round(row.packets_per_second, _DECIMALS),
        "last_seen_s": _rounded(row.last_seen_s),
    }


def _rotation(row: RotationReading) -> dict[str, object]:
    return {
        "phase": row.phase,
        "from_config_id": row.from_config_id,
        "to_config_id": row.to_config_id,
        "next_step": row.next_step,
    }


def _xdp(row: XdpReading | None) -> dict[str, object] | None:
    if row is None:
        return None
    return {
        "detached_interfaces": row.detached_interfaces,
        "refused_backends": row.refused_backends,
    }


def _sample(sample: SampleReading) -> dict[str, object]:
    """Return a dropped datagram, with its octets in the form that ``qlb explain`` accepts."""
    return {"octets": sample.octets.hex(), "length": sample.length, "seen_s": round(sample.seen_s, _DECIMALS)}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, _DECIMALS)
