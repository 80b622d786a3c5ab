"""Prometheus metrics, made from a reading. The packet path never calls a metrics library.

The sums are exact: received = forwarded + dropped, and forwarded is the sum over all routes and all backends, including
those that have left. Rows of known labels (backends × routes, reasons, config IDs) exist from the start with 0, so that
a rate exists from the first packet on.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from qlb.observe.figures import (
    REMOVED,
    ROTATION_PHASES,
    BackendReading,
    LatencyReading,
    ListenerReading,
    Reading,
    SourceReading,
)
from qlb.routing.outcomes import OUTCOMES, REASONS
from qlb.routing.totals import TOTALS

_RETURNING_MODES: Final = ("proxy", "proxy-protocol")
"""Modes in which replies come back through the balancer."""
_DROP_REASONS: Final = tuple(outcome.reason for outcome in OUTCOMES if outcome.route == "drop")

Rows = Iterable[tuple[tuple[str, ...], Any]]
"""(values of the labels, value): a number, a mapping for an info metric, or (buckets, sum) for a histogram."""


class QlbCollector(Collector):
    """All of qlb's own metrics, from one reading for each collection."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        """read: takes a reading."""
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Return every metric as it is now."""
        reading = self._read()
        yield from _totals(reading)
        for family in _FAMILIES:
            rows = list(family.rows(reading))
            if rows or not family.is_optional:
                yield _metric(family.kind, family.name, family.text, family.labels, rows)


class _Family(NamedTuple):
    """One metric with labels. kind: a key of _TYPES. name: without ``_total``, which the library adds.

    is_optional: without rows, the whole metric is omitted, because a zero would be a false statement.
    """

    kind: str
    name: str
    text: str
    labels: tuple[str, ...]
    rows: Callable[[Reading], Rows]
    is_optional: bool = False


_TYPES: Final[Mapping[str, type[Any]]] = MappingProxyType(
    {
        "counter": CounterMetricFamily,
        "gauge": GaugeMetricFamily,
        "histogram": HistogramMetricFamily,
        "info": InfoMetricFamily,
    }
)


def _metric(kind: str, name: str, text: str, labels: tuple[str, ...], rows: Rows) -> Metric:
    metric = _TYPES[kind](name, text, labels=labels)
    for values, value in rows:
        metric.add_metric(values, *(value if kind == "histogram" else (value,)))
    assert isinstance(metric, Metric)
    return metric


def _totals(reading: Reading) -> Iterator[Metric]:
    """Yield one metric for each row of TOTALS whose metric has no labels."""
    for one in TOTALS:
        if not one.by_backend and not (one.only_direct_return and reading.mode in _RETURNING_MODES):
            yield _metric(one.kind, one.metric, one.text, (), [((), reading.totals[one.name])])


def _by(values: Mapping[str, float]) -> Rows:
    """Return one row for each value of a single label."""
    return [((label,), value) for label, value in values.items()]


def _one(value: Callable[[Reading], Any]) -> Callable[[Reading], Rows]:
    """Return the row of a metric without labels."""
    return lambda reading: [((), value(reading))]


def _present(value: Callable[[BackendReading], float]) -> Callable[[Reading], Rows]:
    """Return a row for each backend that has not left."""
    return lambda reading: [((row.name,), value(row)) for row in reading.backends if row.state != REMOVED]


def _listeners(value: Callable[[ListenerReading], int | None]) -> Callable[[Reading], Rows]:
    """Return a row for each listener with a value."""
    return lambda reading: [((row.listen,), found) for row in reading.listeners if (found := value(row)) is not None]


def _sources(value: Callable[[SourceReading], float]) -> Callable[[Reading], Rows]:
    return lambda reading: [((row.name,), value(row)) for row in reading.discovery]


def _send_errors(reading: Reading) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield calls by cause and direction. For a backend, only causes that have occurred have a row."""
    for error, count in reading.return_send_errors.items():
        yield (error, "client", ""), count
    for backend in reading.backends:
        for error, count in backend.send_errors.items():
            yield (error, "backend", backend.name), count


def _packets_by_config(reading: Reading) -> Rows:
    """Return packets by config ID, of the present CID configs and of removed ones that still have counts."""
    counts = {config.config_id: config.packets for config in reading.cid_configs}
    for outcome in OUTCOMES:
        packets = reading.outcomes.get(outcome.name, 0)
        if outcome.config_id >= 0 and packets:
            counts.setdefault(outcome.config_id, packets)
    return [((str(config_id),), counts[config_id]) for config_id in sorted(counts)]


def _forwarded(reading: Reading) -> Rows:
    return [((row.name, route), packets) for row in reading.backends for route, packets in row.forwarded.items()]


def _each(value: Callable[[BackendReading], int]) -> Callable[[Reading], Rows]:
    """Return a row for each backend, including those that have left."""
    return lambda reading: [((row.name,), value(row)) for row in reading.backends]


def _each_that_returns(value: Callable[[BackendReading], int]) -> Callable[[Reading], Rows]:
    """Return the same rows in the modes in which replies come back through the balancer, and none in the others."""
    return lambda reading: _each(value)(reading) if reading.mode in _RETURNING_MODES else []


def _text(name: str) -> str:
    """Return the text of a metric of TOTALS."""
    return next(one.text for one in TOTALS if one.metric == name)


def _buckets(row: LatencyReading) -> tuple[list[tuple[str, int]], float]:
    return [("+Inf" if math.isinf(bound) else str(bound), samples) for bound, samples in row.buckets], row.sum_s


def _last_packet_to(reading: Reading) -> Rows:
    return [
        ((row.name,), reading.taken_at - row.last_seen_s)
        for row in reading.backends
        if row.state != REMOVED and row.last_seen_s is not None
    ]


def _last_packet_by(reading: Reading) -> Rows:
    return [
        ((str(row.config_id),), reading.taken_at - row.last_seen_s)
        for row in reading.cid_configs
        if row.last_seen_s is not None
    ]


def _cid_configs(reading: Reading) -> Rows:
    return [
        ((str(row.config_id),), {"algorithm": row.algorithm, "state": row.state, "fingerprint": row.fingerprint})
        for row in reading.cid_configs
    ]


def _build(reading: Reading) -> Mapping[str, str]:
    python = ".".join(map(str, sys.version_info[:3]))
    return {"version": reading.version, "python": python, "plane": reading.plane, "mode": reading.mode}


_BACKEND, _CONFIG, _LISTEN, _SOURCE = ("backend",), ("config_id",), ("listen",), ("source",)

# One row for each metric, short enough to read as a table.
# fmt: off
_FAMILIES: Final = (
    _Family("counter", "qlb_packets_dropped", "Datagrams from clients that were dropped.", ("reason",),
            lambda reading: _by({**dict.fromkeys(_DROP_REASONS, 0), **reading.dropped})),
    _Family("counter", "qlb_unroutable_packets",
            "Datagrams with an unroutable connection ID that were forwarded by flow or fallback.", ("reason",),
            lambda reading: _by({**dict.fromkeys(REASONS, 0), **reading.unroutable})),
    _Family("counter", "qlb_cid_config_packets",
            "Datagrams forwarded by a connection ID that decoded under a CID config.", _CONFIG, _packets_by_config),
    _Family("counter", "qlb_send_errors",
            "Calls to send that the system refused, by cause and direction, including those whose retry succeeded.",
            ("error", "direction", "backend"), _send_errors),
    _Family("gauge", "qlb_receive_buffer_bytes", "Receive buffer that the system grants each worker's socket.",
            _LISTEN, _listeners(lambda row: row.receive_buffer_bytes)),
    _Family("gauge", "qlb_send_buffer_bytes", "Send buffer that the system grants each worker's socket.",
            _LISTEN, _listeners(lambda row: row.send_buffer_bytes)),
    _Family("gauge", "qlb_listen_strangers",
            "Sockets of other processes on a service address, which receive a part of its clients.",
            _LISTEN, _listeners(lambda row: row.strangers)),
    _Family("counter", "qlb_kernel_dropped_packets",
            "Datagrams from clients that the system dropped because a listener's receive queue was full; qlb never "
            "received them, so they are not part of received = forwarded + dropped.",
            _LISTEN, _listeners(lambda row: row.kernel_dropped), is_optional=True),
    _Family("counter", "qlb_packets_forwarded", "Datagrams sent to a backend.", ("backend", "route"), _forwarded),
    _Family("counter", "qlb_packets_returned", "Datagrams from a backend that were sent to its client.",
            _BACKEND, _each_that_returns(lambda row: row.returned)),
    _Family("counter", "qlb_bytes_forwarded", _text("qlb_bytes_forwarded"),
            _BACKEND, _each(lambda row: row.forwarded_bytes)),
    _Family("counter", "qlb_bytes_returned", _text("qlb_bytes_returned"),
            _BACKEND, _each_that_returns(lambda row: row.returned_bytes)),
    _Family("counter", "qlb_new_flows", _text("qlb_new_flows"), _BACKEND, _each(lambda row: row.new_flows)),
    _Family("histogram", "qlb_forwarding_latency_seconds",
            "Time from the arrival of a datagram until qlb has sent it on, by direction; one datagram of each 64th "
            "batch is measured.", ("direction",),
            lambda reading: [((row.direction,), _buckets(row)) for row in reading.latency], is_optional=True),
    _Family("gauge", "qlb_backend_up", "1 if the health probe finds the backend alive.",
            _BACKEND, _present(lambda row: row.healthy)),
    _Family("gauge", "qlb_backend_draining", "1 if the backend gets no new connections because it is draining.",
            _BACKEND, _present(lambda row: row.state == "draining")),
    _Family("gauge", "qlb_backend_drained",
            "1 if the backend is draining and no packet has gone to it for drain.quiet_period.",
            _BACKEND, _present(lambda row: row.drained)),
    _Family("gauge", "qlb_backend_cid_mismatch",
            "1 if a probe or an answer to a client shows that the backend's connection IDs do not lead back to it.",
            _BACKEND, _present(lambda row: bool(row.finding))),
    _Family("gauge", "qlb_backend_without_cids",
            "1 if packets go to a backend that has server IDs, and none was routed by its ID for a minute.",
            _BACKEND, _present(lambda row: row.without_ids)),
    _Family("gauge", "qlb_backend_unknown_cids",
            "1 if clients that the backend has answered send connection IDs with a server ID of no backend.",
            _BACKEND, _present(lambda row: row.unknown_ids)),
    _Family("gauge", "qlb_backend_excluded",
            "1 if the backend gets no packets because its address is this balancer itself, so they would loop.",
            _BACKEND, _present(lambda row: bool(row.excluded))),
    _Family("gauge", "qlb_fallback_share", "Share of new connections that the backend gets now, 0 to 1.",
            _BACKEND, _present(lambda row: row.fallback_share)),
    _Family("gauge", "qlb_backend_last_packet_timestamp_seconds",
            "Unix time of the last datagram that was sent to the backend.", _BACKEND, _last_packet_to),
    _Family("counter", "qlb_probes", "Health probes, by result.", ("result",), lambda reading: _by(reading.probes)),
    _Family("counter", "qlb_health_probe_errors",
            "Health probes that this node could not send, by the error of its own socket.",
            ("error",), lambda reading: _by(reading.probe_errors)),
    _Family("gauge", "qlb_health_all_failing",
            "1 if all probes fail at once, so that backends are retained against their verdict.",
            (), _one(lambda reading: reading.all_failing)),
    _Family("info", "qlb_cid_config", "The CID configs under which IDs are decoded.", _CONFIG, _cid_configs),
    _Family("gauge", "qlb_cid_config_last_packet_timestamp_seconds",
            "Unix time of the last datagram that was routed by an ID under a CID config.", _CONFIG, _last_packet_by),
    _Family("counter", "qlb_unconfigured_cid_packets",
            "Datagrams with a short header whose ID has a config ID without a CID config here.", _CONFIG,
            lambda reading: _by({str(row.config_id): row.packets for row in reading.unconfigured})),
    _Family("counter", "qlb_unknown_server_id_packets",
            "Datagrams with a short header whose ID decodes under a CID config to a server ID of no backend.", _CONFIG,
            lambda reading: _by({str(row.config_id): row.packets for row in reading.unknown})),
    _Family("gauge", "qlb_rotation_phase", "1 for the phase in which a rotation is.", ("phase",),
            lambda reading: _by({name: name == reading.rotation.phase for name in ROTATION_PHASES})),
    _Family("gauge", "qlb_discovery_up", "1 if the last question to a source of backends was answered.",
            _SOURCE, _sources(lambda row: row.up)),
    _Family("gauge", "qlb_discovery_backends", "Backends that a source has now.",
            _SOURCE, _sources(lambda row: row.backends)),
    _Family("gauge", "qlb_discovery_remarks",
            "Remarks on the last answer of a source: questions that failed, backends that were omitted.",
            _SOURCE, _sources(lambda row: len(row.remarks))),
    _Family("gauge", "qlb_config_last_reload_successful", "1 if the last reload took effect.",
            (), _one(lambda reading: reading.last_reload_ok)),
    _Family("gauge", "qlb_config_last_reload_success_timestamp_seconds",
            "Unix time at which the configuration took effect.", (), _one(lambda reading: reading.loaded_at)),
    _Family("gauge", "qlb_config_generation", "Configurations that took effect, including the first.",
            (), _one(lambda reading: reading.generation)),
    _Family("gauge", "qlb_worker_heartbeat_age_seconds",
            "Time since the worker last began a round of its loop; usually below 1.5.", ("worker",),
            lambda reading: _by({str(row.index): row.heartbeat_age_s for row in reading.workers}), is_optional=True),
    _Family("counter", "qlb_worker_cpu_seconds",
            "Processor time of the worker; its rate is the share of one core that the worker uses.", ("worker",),
            lambda reading: _by({str(row.index): row.cpu_s for row in reading.workers}), is_optional=True),
    _Family("gauge", "qlb_worker_resident_memory_bytes", "Resident memory of the worker.", ("worker",),
            lambda reading: _by({str(row.index): row.resident_bytes for row in reading.workers
                                 if row.resident_bytes is not None}), is_optional=True),
    _Family("info", "qlb_build", "The version, the Python, the plane and the mode of this daemon.",
            (), _one(_build)),
    _Family("gauge", "qlb_xdp_detached_interfaces",
            "Interfaces of forwarding.interfaces to which the XDP program is not attached.",
            (), lambda reading: [] if reading.xdp is None else [((), reading.xdp.detached_interfaces)],
            is_optional=True),
    _Family("gauge", "qlb_xdp_refused_backends",
            "Backends behind an interface that accepts no packets from the XDP program.",
            (), lambda reading: [] if reading.xdp is None else [((), reading.xdp.refused_backends)],
            is_optional=True),
)
# fmt: on
