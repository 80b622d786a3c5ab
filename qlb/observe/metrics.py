"""Prometheus metrics, made from a reading. No packet ever touches a metrics library.

The sums hold: received = forwarded + dropped, forwarded = by every route to every backend, those that have
left included. Rows of what is known (backends × routes, reasons, config IDs) are there from the start with 0,
so that a rate exists from the first packet on.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from qlb.observe.figures import REMOVED, ROTATION_PHASES, Reading
from qlb.routing.outcomes import OUTCOMES, REASONS

_DROP_REASONS: Final = tuple(outcome.reason for outcome in OUTCOMES if outcome.route == "drop")
_RETURNING_MODES: Final = ("proxy", "proxy-protocol")
"""Modes in which replies come back through the balancer."""
_LATER_VERSION: Final = re.compile(r"version=0*[1-9]\d*\.\d+\.\d+")
_ODD_VERSION: Final = re.compile(r"version=(?!\d{1,3}\.\d{1,3}\.\d{1,3}\s*(?:[,;]|$))")


class Format(NamedTuple):
    """A format of the metrics page. There are few, whatever an Accept header asks for."""

    content_type: str
    encode: Callable[[Collector], bytes]


class QlbCollector(Collector):
    """All of qlb's own metrics, from one reading for each collection."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        """read: takes a reading."""
        self._read = read

    def collect(self) -> Iterable[Metric]:
        """Return every metric as it is now."""
        reading = self._read()
        yield from _packets(reading)
        yield from _listeners(reading)
        yield from _backends(reading)
        yield from _cid_configs(reading)
        yield from _discovery(reading)
        yield from _daemon(reading)
        yield from _xdp(reading)


class Metrics:
    """The metrics page: qlb's metrics and its process's, in a registry of their own."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        """read: takes a reading."""
        self._registry = CollectorRegistry()
        self._registry.register(QlbCollector(read))
        ProcessCollector(registry=self._registry)

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """Return the page and its content type. accept: as choose_format() takes it."""
        chosen = choose_format(accept)
        return chosen.encode(self._registry), chosen.content_type


def choose_format(accept: str) -> Format:
    """Return OpenMetrics or the Prometheus text format, as an HTTP Accept header asks.

    Text of version 0.0.4 where it asks for nothing newer or is malformed (the library compares versions unchecked).
    Versions after 1.0.0 are answered with 1.0.0: the library would name any version that a stranger makes up.
    """
    sound = accept.isascii() and not _ODD_VERSION.search(accept)
    encode, content_type = choose_encoder(_LATER_VERSION.sub("version=1.0.0", accept) if sound else "")
    return Format(content_type, encode)


def _packets(reading: Reading) -> Iterator[Metric]:
    yield _counter("qlb_packets_received", "Datagrams that came from clients.", reading.received_packets)
    yield _counter("qlb_bytes_received", "Octets of UDP payload that came from clients.", reading.received_bytes)
    yield _counters(
        "qlb_packets_dropped",
        "Datagrams from clients that went nowhere.",
        "reason",
        {**dict.fromkeys(_DROP_REASONS, 0), **reading.dropped},
    )
    yield _counters(
        "qlb_unroutable_packets",
        "Datagrams with an unroutable connection ID that were forwarded by flow or fallback.",
        "reason",
        {**dict.fromkeys(REASONS, 0), **reading.unroutable},
    )
    yield _counters(
        "qlb_cid_config_packets",
        "Datagrams forwarded by a connection ID that decoded under a QUIC-LB configuration.",
        "config_id",
        _by_config(reading),
    )
    yield _counter(
        "qlb_return_packets_dropped", "Datagrams from backends that went to no client.", reading.return_dropped
    )
    yield _counter(
        "qlb_return_overflowed_packets",
        "Datagrams from backends that the system dropped because a way back was full, known when it closes.",
        reading.return_overflowed,
    )
    yield _send_errors(reading)
    if reading.mode not in _RETURNING_MODES:
        yield _counter(
            "qlb_icmp_forwarded",
            "ICMP errors about servers' packets that were passed on to the server which they concern.",
            reading.icmp_forwarded,
        )
        yield _counter(
            "qlb_icmp_sent", "ICMP messages to clients whose packets were too big to be passed on.", reading.icmp_sent
        )


def _send_errors(reading: Reading) -> Metric:
    """Count by cause; for backends, only causes that occurred have a row."""
    refused = CounterMetricFamily(
        "qlb_send_errors",
        "Calls to send that the system refused, by cause and direction; retries that succeeded included.",
        labels=("error", "direction", "backend"),
    )
    for error, count in reading.return_send_errors.items():
        refused.add_metric((error, "client", ""), count)
    for backend in reading.backends:
        for error, count in backend.send_errors.items():
            refused.add_metric((error, "backend", backend.name), count)
    return refused


def _listeners(reading: Reading) -> Iterator[Metric]:
    """Yield what is known of the service addresses' sockets; a system that tells nothing makes no row of zeros."""
    dropped = CounterMetricFamily(
        "qlb_kernel_dropped_packets",
        "Datagrams from clients that the system dropped because a listener's receive queue was full; qlb never "
        "received them, so they stand outside of received = forwarded + dropped.",
        labels=("listen",),
    )
    buffers = GaugeMetricFamily(
        "qlb_receive_buffer_bytes", "Receive buffer that the system grants each worker's socket.", labels=("listen",)
    )
    send_buffers = GaugeMetricFamily(
        "qlb_send_buffer_bytes", "Send buffer that the system grants each worker's socket.", labels=("listen",)
    )
    strangers = GaugeMetricFamily(
        "qlb_listen_strangers",
        "Sockets of other processes on a service address, which get a part of its clients.",
        labels=("listen",),
    )
    for row in reading.listeners:
        strangers.add_metric((row.listen,), row.strangers)
        buffers.add_metric((row.listen,), row.receive_buffer_bytes)
        send_buffers.add_metric((row.listen,), row.send_buffer_bytes)
        if row.kernel_dropped is not None:
            dropped.add_metric((row.listen,), row.kernel_dropped)
    yield from (buffers, send_buffers, strangers)
    if dropped.samples:
        yield dropped


def _by_config(reading: Reading) -> dict[str, int]:
    """Packets by config ID: those that are configured, and those that were and still have counts."""
    counts = {config.config_id: config.packets for config in reading.cid_configs}
    for outcome in OUTCOMES:
        packets = reading.outcomes.get(outcome.name, 0)
        if outcome.config_id >= 0 and packets:
            counts.setdefault(outcome.config_id, packets)
    return {str(config_id): counts[config_id] for config_id in sorted(counts)}


def _backends(reading: Reading) -> Iterator[Metric]:
    forwarded = CounterMetricFamily(
        "qlb_packets_forwarded", "Datagrams sent to a backend.", labels=("backend", "route")
    )
    returned = CounterMetricFamily(
        "qlb_packets_returned", "Datagrams from a backend sent on to its client.", labels=("backend",)
    )
    up = GaugeMetricFamily("qlb_backend_up", "Whether the health probe finds the backend alive.", labels=("backend",))
    draining = GaugeMetricFamily(
        "qlb_backend_draining", "Whether the backend gets no new connections.", labels=("backend",)
    )
    drained = GaugeMetricFamily(
        "qlb_backend_drained",
        "Whether the backend is draining and no packet has gone to it for drain.quiet_period.",
        labels=("backend",),
    )
    mismatch = GaugeMetricFamily(
        "qlb_backend_cid_mismatch",
        "Whether a probe has found that the backend's connection IDs do not lead back to it.",
        labels=("backend",),
    )
    without_cids = GaugeMetricFamily(
        "qlb_backend_without_cids",
        "Whether packets keep going to a backend that has server IDs, and none was routed by its ID for a minute.",
        labels=("backend",),
    )
    excluded = GaugeMetricFamily(
        "qlb_backend_excluded",
        "Whether the backend gets no packets because it is this balancer itself, so that they would loop.",
        labels=("backend",),
    )
    share = GaugeMetricFamily(
        "qlb_fallback_share", "Share of new connections that the backend gets now, 0 to 1.", labels=("backend",)
    )
    seen = GaugeMetricFamily(
        "qlb_backend_last_packet_timestamp_seconds",
        "Unix time of the last datagram that was sent to the backend.",
        labels=("backend",),
    )
    for backend in reading.backends:
        for route, packets in backend.forwarded.items():
            forwarded.add_metric((backend.name, route), packets)
        if reading.mode in _RETURNING_MODES:
            returned.add_metric((backend.name,), backend.returned)
        if backend.state != REMOVED:
            up.add_metric((backend.name,), backend.healthy)
            draining.add_metric((backend.name,), backend.state == "draining")
            drained.add_metric((backend.name,), backend.drained)
            mismatch.add_metric((backend.name,), bool(backend.finding))
            without_cids.add_metric((backend.name,), backend.without_ids)
            excluded.add_metric((backend.name,), bool(backend.excluded))
            share.add_metric((backend.name,), backend.fallback_share)
            if backend.last_seen_s is not None:
                seen.add_metric((backend.name,), reading.taken_at - backend.last_seen_s)
    yield from (forwarded, returned, up, draining, drained, mismatch, without_cids, excluded, share, seen)
    yield _counters("qlb_probes", "Health probes, by result.", "result", reading.probes)
    yield _counters(
        "qlb_health_probe_errors",
        "Health probes that this node could not send, by the error of its own socket.",
        "error",
        reading.probe_errors,
    )
    yield _gauge(
        "qlb_health_all_failing",
        "Whether all probes fail at once and backends count as healthy all the same.",
        reading.all_failing,
    )


def _cid_configs(reading: Reading) -> Iterator[Metric]:
    """Yield what a rotation is watched by."""
    info = InfoMetricFamily("qlb_cid_config", "The QUIC-LB configurations that are decoded.", labels=("config_id",))
    seen = GaugeMetricFamily(
        "qlb_cid_config_last_packet_timestamp_seconds",
        "Unix time of the last datagram that an ID under a QUIC-LB configuration has routed.",
        labels=("config_id",),
    )
    for config in reading.cid_configs:
        told = {"algorithm": config.algorithm, "state": config.state, "fingerprint": config.fingerprint}
        info.add_metric((str(config.config_id),), told)
        if config.last_seen_s is not None:
            seen.add_metric((str(config.config_id),), reading.taken_at - config.last_seen_s)
    yield from (info, seen)
    yield _counters(
        "qlb_unconfigured_cid_packets",
        "Datagrams with a short header whose ID carries a config ID that no configuration here has.",
        "config_id",
        {str(row.config_id): row.packets for row in reading.unconfigured},
    )
    phase = GaugeMetricFamily("qlb_rotation_phase", "1 for the phase that a rotation is in.", labels=("phase",))
    for name in ROTATION_PHASES:
        phase.add_metric((name,), name == reading.rotation.phase)
    yield phase


def _discovery(reading: Reading) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "qlb_discovery_up", "Whether a source of backends was answered the last time.", labels=("source",)
    )
    backends = GaugeMetricFamily("qlb_discovery_backends", "Backends that a source has now.", labels=("source",))
    remarks = GaugeMetricFamily(
        "qlb_discovery_remarks",
        "Remarks on the last answer of a source: questions that failed, backends that were left out.",
        labels=("source",),
    )
    for source in reading.discovery:
        remarks.add_metric((source.name,), len(source.remarks))
        up.add_metric((source.name,), source.up)
        backends.add_metric((source.name,), source.backends)
    yield from (up, backends, remarks)


def _daemon(reading: Reading) -> Iterator[Metric]:
    yield _gauge("qlb_sessions", "Ways back to clients that are open.", reading.sessions)
    yield _gauge("qlb_sessions_max", "Ways back that may be open at once, in all workers.", reading.sessions_max)
    yield _counter("qlb_sessions_evicted", "Ways back closed before their time to make room.", reading.sessions_evicted)
    yield _gauge(
        "qlb_sessions_protected",
        "Open sessions that their clients used in two separate seconds; evicted last.",
        reading.sessions_protected,
    )
    yield _counter(
        "qlb_sessions_reopened",
        "Sessions that got a new socket because the old one did not work any more.",
        reading.sessions_reopened,
    )
    yield _counter(
        "qlb_return_pauses",
        "Times that a worker paused reading from one backend session because the send queue to clients was filling up.",
        reading.return_pauses,
    )
    yield _gauge("qlb_config_last_reload_successful", "Whether the last reload took effect.", reading.last_reload_ok)
    yield _gauge(
        "qlb_config_last_reload_success_timestamp_seconds",
        "Unix time at which the configuration took effect.",
        reading.loaded_at,
    )
    yield _gauge("qlb_config_generation", "Configurations that took effect, the first included.", reading.generation)
    yield _counter("qlb_worker_restarts", "Workers that died and were started again.", reading.worker_restarts)
    yield _counter(
        "qlb_worker_hangs",
        "Workers that were killed because they hung; they count as restarts too.",
        reading.worker_hangs,
    )
    heartbeats = GaugeMetricFamily(
        "qlb_worker_heartbeat_age_seconds",
        "Time since the worker last went round its loop: below 1.5 where all is well.",
        labels=("worker",),
    )
    for worker in reading.workers:
        heartbeats.add_metric((str(worker.index),), worker.heartbeat_age_s)
    if heartbeats.samples:
        yield heartbeats
    yield InfoMetricFamily(
        "qlb_build",
        "What runs here.",
        {
            "version": reading.version,
            "python": ".".join(map(str, sys.version_info[:3])),
            "plane": reading.plane,
            "mode": reading.mode,
        },
    )


def _xdp(reading: Reading) -> Iterator[Metric]:
    if reading.xdp is None:
        return
    yield _gauge(
        "qlb_xdp_detached_interfaces",
        "Interfaces of forwarding.interfaces where the XDP program is not attached.",
        reading.xdp.detached_interfaces,
    )
    yield _gauge(
        "qlb_xdp_refused_backends",
        "Backends that the kernel routes by an interface which accepts no packets from the XDP program.",
        reading.xdp.refused_backends,
    )


def _counter(name: str, text: str, value: float) -> Metric:
    """name: without ``_total``, which the library adds."""
    return CounterMetricFamily(name, text, value=value)


def _counters(name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for row, value in values.items():
        family.add_metric((row,), value)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
