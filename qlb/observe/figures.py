"""A reading: every figure of a daemon at one moment, as plain data. The supervisor takes readings.

Times whose names end in _s are seconds. last_seen_s is the time since the last packet, None if there was none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

ROTATION_PHASES: Final = ("idle", "staged", "retiring", "done")
"""No rotation; the new CID config is decoded but not used for new IDs; the old one is not used for new IDs any more;
the old one can be removed."""
REMOVED: Final = "removed"
"""The state of a backend that has left the configuration. Its counts stay, so that the sums are exact."""
REMOVED_ROW: Final = "(removed)"
"""The name of the row that sums all backends whose rows were folded. No backend can have this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendReading:
    """One backend. state: ``active``, ``draining``, or ``removed`` if only its counts are left.

    healthy, detail: the probes' verdict, and the result of the last probe in words. finding: what is wrong with its
    connection IDs, "" if nothing is. forwarded: packets by route (``cid``, ``flow``, ``fallback``).
    drained: it is draining, and no packet has gone to it for drain.quiet_period. fallback_share: its share of new
    connections, 0 to 1. source: the discovery source that found it; None if it is in the configuration.
    without_ids: it has server IDs, packets go to it, and none was routed by its ID. excluded: why it gets no packets
    at all, "" if it gets packets. leaving: it drains by itself, because the configuration on disk no longer has it and
    is rejected as long as packets go to it.
    send_errors: cause → refused calls to send to this backend, without causes that never occurred.
    too_large_bytes: octets of the last datagram that was too large for the path to the backend; 0 = there was none.
    forwarded_bytes, returned_bytes: octets of UDP payload. new_flows: forwarded packets that began a flow.
    shown_ids: SHOWN_KINDS → connection IDs that it has shown to clients; None for a backend without server IDs.
    unknown_ids: clients that it has answered send IDs that decode to no backend.
    """

    name: str
    address: str
    state: str
    healthy: bool
    detail: str
    weight: int
    forwarded: Mapping[str, int]
    returned: int
    last_seen_s: float | None
    packets_per_second: float = 0.0
    drained: bool = False
    finding: str = ""
    fallback_share: float = 0.0
    without_ids: bool = False
    source: str | None = None
    leaving: bool = False
    send_errors: Mapping[str, int] = field(default_factory=dict)
    too_large_bytes: int = 0
    forwarded_bytes: int = 0
    returned_bytes: int = 0
    new_flows: int = 0
    excluded: str = ""
    shown_ids: Mapping[str, int] | None = None
    unknown_ids: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CidConfigReading:
    """One CID config. packets: routed by an ID that decoded under it. fingerprint: CidParams.fingerprint."""

    config_id: int
    algorithm: str
    packets: int
    last_seen_s: float | None
    state: str = "active"
    fingerprint: str = ""
    packets_per_second: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnconfiguredReading:
    """A config ID without a CID config here, and the short headers whose IDs have this config ID.

    sustained: such packets arrive continually; a few of them prove nothing, because any host can send them.
    configured_before: this daemon has had a CID config with this ID. over: their share of the packets of the last
    minute if it exceeds the bound of a notice, otherwise 0.
    """

    config_id: int
    packets: int
    last_seen_s: float | None
    sustained: bool = False
    configured_before: bool = False
    over: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownReading:
    """The short headers whose IDs decode under one CID config to a server ID of no backend.

    sustained: they arrive in bulk; a few of them prove nothing, because any host can send random octets.
    """

    config_id: int
    packets: int
    last_seen_s: float | None
    sustained: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationReading:
    """The state of the rotation of CID configs, as this daemon sees it.

    phase: ``idle``, ``staged``, ``retiring`` or ``done``. next_step: a text for the operator; "" when idle.
    """

    phase: str
    from_config_id: int | None = None
    to_config_id: int | None = None
    next_step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReading:
    """One source of backends. kind: ``dns``, ``kubernetes`` or ``file``. up: its last question was answered.

    backends: their number now. last_success_s: the time since the last answer; None if there was none.
    error: why the last question was not answered, or "". remarks: what the last answer lacks or what was omitted.
    """

    name: str
    kind: str
    up: bool
    backends: int
    last_success_s: float | None
    error: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReading:
    """One worker's slot and the process in it.

    heartbeat_age_s: the time since its plane began a round of its loop, or since the process got the slot.
    up_to_date: it has applied the current configuration. cpu_s: processor time of all processes that had the slot, as
    long as they had it. busy_share: of one core, now. resident_bytes: memory of the process; None if it is not known.
    """

    index: int
    pid: int
    alive: bool
    heartbeat_age_s: float = 0.0
    up_to_date: bool = True
    cpu_s: float = 0.0
    busy_share: float = 0.0
    resident_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyReading:
    """Samples of the latency that the daemon adds to packets in one direction: to ``backend`` or to ``client``.

    buckets: upper bound in seconds (the last one is infinite), and the number of samples up to it.
    """

    direction: str
    buckets: tuple[tuple[float, int], ...]
    sum_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerReading:
    """One service address, with all workers' sockets on it.

    kernel_dropped: datagrams that the system dropped because a socket's receive queue was full. No other figure
    includes them. None if the system does not count them. receive_buffer_bytes, send_buffer_bytes: of each socket, as
    the system granted them. strangers: other processes' sockets on the same address, which receive a part of the
    clients; 0 if they are allowed.
    """

    listen: str
    kernel_dropped: int | None
    receive_buffer_bytes: int
    send_buffer_bytes: int
    strangers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class XdpReading:
    """Faults of interfaces and routes that prevent the XDP program from sending packets to backends.

    notices: texts for the operator. detached_interfaces: the number of forwarding.interfaces without the program.
    refused_backends: the number of backends behind an interface that accepts no packets from the program.
    """

    notices: tuple[str, ...] = ()
    detached_interfaces: int = 0
    refused_backends: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleReading:
    """The last datagram that was dropped for one reason: its first octets. length: of the whole datagram."""

    octets: bytes
    length: int
    seen_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All figures of a daemon. taken_at, loaded_at: Unix seconds.

    totals: value by name, for each row of TOTALS (qlb.routing.counters). outcomes: name → packets.
    dropped, unroutable: reason → packets. samples: the last dropped datagram, by reason.
    return_send_errors: cause → calls to send to clients that the system refused. latency: empty if the plane cannot
    measure it.

    reload_problems: why the last reload was rejected. reload_retry_s: the time until the daemon tries it again by
    itself; None if it was not rejected, or is tried again only when the file changes.

    probes: result → number of probes. probe_errors: error → probes that this node could not send. probe_error: the
    error that prevents probes now, or "". all_failing: all probes fail at once, and backends are retained.
    without_ids: packets arrive continually, and none was routed by its ID. xdp: None on other planes.
    kernel_drops_over: the share of packets that the system dropped in the last minute if it exceeds the bound of a
    notice, otherwise 0. balancers: URLs of the admin servers of all balancers of the service, as configured.
    """

    version: str
    taken_at: float
    uptime_s: float
    plane: str
    mode: str
    listen: tuple[str, ...]
    listeners: tuple[ListenerReading, ...]
    ready: bool
    generation: int
    loaded_at: float
    last_reload_ok: bool
    reload_problems: tuple[str, ...] = ()
    reload_retry_s: float | None = None
    backends: tuple[BackendReading, ...]
    cid_configs: tuple[CidConfigReading, ...]
    totals: Mapping[str, int]
    outcomes: Mapping[str, int]
    dropped: Mapping[str, int]
    unroutable: Mapping[str, int]
    return_send_errors: Mapping[str, int]
    workers: tuple[WorkerReading, ...]
    latency: tuple[LatencyReading, ...] = ()
    samples: Mapping[str, SampleReading] = field(default_factory=dict)
    probes: Mapping[str, int] = field(default_factory=dict)
    probe_errors: Mapping[str, int] = field(default_factory=dict)
    probe_error: str = ""
    all_failing: bool = False
    without_ids: bool = False
    unconfigured: tuple[UnconfiguredReading, ...] = ()
    unknown: tuple[UnknownReading, ...] = ()
    rotation: RotationReading = RotationReading(phase="idle")
    discovery: tuple[SourceReading, ...] = ()
    xdp: XdpReading | None = None
    kernel_drops_over: float = 0.0
    balancers: tuple[str, ...] = ()
