"""A reading: every figure of a daemon at one moment, as plain data. The supervisor takes it.

Times that end in _s are seconds. A last_seen_s is the time since the last packet, None if there was none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

ROTATION_PHASES: Final = ("idle", "staged", "retiring", "done")
"""No rotation; a new configuration is decoded, not issued from; an old one is not issued from any more; it may go."""
REMOVED: Final = "removed"
"""The state of a backend that has left the configuration; its counts stay, so that sums hold."""
REMOVED_ROW: Final = "(removed)"
"""Stands in place of a name for all the backends whose rows were folded into one. No backend can have this name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendReading:
    """One backend. state: ``active``, ``draining``, or ``removed`` where only its counts are left.

    detail: what the last probe found. forwarded: packets by route (``cid``, ``flow``, ``fallback``).
    drained: it is draining, and no packet has gone to it for drain.quiet_period. healthy: the probes' verdict.
    fallback_share: of new connections, 0 to 1. finding: what a probe has found to be wrong with how the backend is set
    up, "" for nothing. source: of discovery; None where it is the configuration's own. without_ids: it has server IDs,
    and although packets keep going to it, none was routed by its ID. excluded: why it gets no packets at all, "" where
    it takes part.
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
    """It drains by itself: the configuration on disk was refused as long as packets go to it."""
    send_errors: Mapping[str, int] = field(default_factory=dict)
    """Cause → refused calls to send to this backend; causes that never occurred are left out."""
    too_large_bytes: int = 0
    """Octets of the last datagram that was too large for the path to the backend; 0 = none was."""
    excluded: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CidConfigReading:
    """One QUIC-LB configuration. packets: routed by an ID that decoded under it. fingerprint: CidParams.fingerprint."""

    config_id: int
    algorithm: str
    packets: int
    last_seen_s: float | None
    state: str = "active"
    fingerprint: str = ""
    packets_per_second: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UnconfiguredReading:
    """A config ID that has no configuration here, and short headers whose IDs carry it all the same.

    sustained: such packets keep coming; a few may be anybody's. configured_before: this daemon once had it.
    """

    config_id: int
    packets: int
    last_seen_s: float | None
    sustained: bool = False
    configured_before: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RotationReading:
    """Where the rotation of QUIC-LB configurations is, as this daemon sees it.

    phase: ``idle``, ``staged``, ``retiring`` or ``done``. next_step: for people; "" when idle.
    """

    phase: str
    from_config_id: int | None = None
    to_config_id: int | None = None
    next_step: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceReading:
    """One source of backends. kind: ``dns``, ``kubernetes`` or ``file``. up: it was answered the last time.

    backends: that it has now. last_success_s: since it was answered; None for never. error: why not, the last time,
    or "". remarks: on the last answer; what it lacks, and what was left out of it.
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
    """One worker's slot, and the process in it.

    heartbeat_age_s: since its plane last went round its loop, or since the process was put there. up_to_date: it goes
    by the current configuration.
    """

    index: int
    pid: int
    alive: bool
    heartbeat_age_s: float = 0.0
    up_to_date: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerReading:
    """One service address, all workers' sockets on it together.

    kernel_dropped: datagrams that the system dropped before a worker could receive them, since their queues
    were full: in no other figure. None where the system does not tell. receive_buffer_bytes, send_buffer_bytes: of
    each socket, as granted by the system.
    strangers: other processes' sockets on the same address, which get a part of the clients; 0 if they are allowed.
    """

    listen: str
    kernel_dropped: int | None
    receive_buffer_bytes: int
    send_buffer_bytes: int
    strangers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class XdpReading:
    """Faults of interfaces and routes that keep the XDP program's packets from backends.

    notices: sentences for an operator. detached_interfaces: how many of forwarding.interfaces lack the program.
    refused_backends: how many lie behind an interface that accepts no packets from it.
    """

    notices: tuple[str, ...] = ()
    detached_interfaces: int = 0
    refused_backends: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleReading:
    """The last datagram that was dropped for one reason: its first octets, and how many it had in all."""

    octets: bytes
    length: int
    seen_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """All of it. taken_at, loaded_at: Unix seconds. outcomes: name → packets. dropped, unroutable: reason → packets.
    samples: of drops, by reason. probes: result → how many. all_failing: all probes fail at once, and routing goes on
    as if they did not. sessions_max: of all workers together; 0 where there are no ways back. without_ids: packets keep
    coming, and none was routed by its ID.

    probe_errors: error → probes that this node could not send. probe_error: the error that it meets now, or "".

    return_send_errors: cause → calls to send to clients that the system refused. icmp_forwarded, icmp_sent: of
    direct return: ICMP errors about servers' packets passed on to them; messages to clients whose packets were too big.
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
    """Why the last reload was refused."""
    reload_retry_s: float | None = None
    """Until it is tried again by itself; None where only a changed file makes it be tried, or it was not refused."""
    backends: tuple[BackendReading, ...]
    cid_configs: tuple[CidConfigReading, ...]
    outcomes: Mapping[str, int]
    received_packets: int
    received_bytes: int
    dropped: Mapping[str, int]
    unroutable: Mapping[str, int]
    return_dropped: int
    return_overflowed: int
    return_send_errors: Mapping[str, int]
    icmp_forwarded: int
    icmp_sent: int
    sessions: int
    sessions_evicted: int
    sessions_max: int
    workers: tuple[WorkerReading, ...]
    worker_restarts: int
    sessions_protected: int = 0
    sessions_reopened: int = 0
    return_pauses: int = 0
    worker_hangs: int = 0
    samples: Mapping[str, SampleReading] = field(default_factory=dict)
    probes: Mapping[str, int] = field(default_factory=dict)
    probe_errors: Mapping[str, int] = field(default_factory=dict)
    probe_error: str = ""
    all_failing: bool = False
    without_ids: bool = False
    unconfigured: tuple[UnconfiguredReading, ...] = ()
    rotation: RotationReading = RotationReading(phase="idle")
    discovery: tuple[SourceReading, ...] = ()
    xdp: XdpReading | None = None
    """None on other planes."""
