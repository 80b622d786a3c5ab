"""The notices of a reading: what needs an operator's attention now, in words.

``/status`` contains them. The page, ``qlb status`` and ``qlb top`` show that list and have no texts of their own. A
notice ends with its cause. Causes that any host can feign, by sending packets, have bounds: see bounds.py.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final, NamedTuple

from qlb.observe.bounds import SESSIONS
from qlb.observe.figures import REMOVED, BackendReading, Reading

CRITICAL: Final = "critical"
"""Clients lose packets, or will soon."""
WARNING: Final = "warning"
"""Something is wrong, and clients do not notice it yet."""
INFO: Final = "info"
"""An operator can continue a task."""
SEVERITIES: Final = (CRITICAL, WARNING, INFO)
"""The severities of the alerts in deploy/prometheus, the most severe first."""

_LEVELS: Final[Mapping[str, str]] = MappingProxyType({CRITICAL: "error", WARNING: "warning", INFO: "info"})

_NAMED: Final = 5
"""Backends that notices of one kind name one by one. The others are counted."""

_LATE_S: Final = 2.0
"""The age of a heartbeat above which there is a notice. A worker that is not late stays below 1.5 s."""

_REASON_CHARACTERS: Final = 300
"""The length of the reason of a refused reload. The log has it all."""

_PAGES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "no_backend": "runbooks/loss-of-a-node.md",
        "reload_refused": "operating.md#start-stop-and-reload",
        "worker_behind": "operating.md#reloads-that-are-incomplete",
        "worker_silent": "operating.md#workers-that-hang",
        "address_shared": "operating.md#one-daemon-to-an-address",
        "all_probes_failing": "health.md#when-all-fail-at-once",
        "probes_not_sent": "health.md#when-this-node-cannot-probe",
        "backend_finding": "health.md#findings",
        "backend_unknown_ids": "health.md#what-the-traffic-shows",
        "unknown_server_id": "health.md#what-the-traffic-shows",
        "backend_excluded": "discovery.md#the-balancer-itself",
        "kernel_drops": "operating.md#overload",
        "sessions_near_max": "operating.md#limits",
        "xdp": "xdp.md#ways-out",
        "discovery_failing": "discovery.md#watch-it",
        "discovery_remark": "discovery.md#watch-it",
        "no_cids": "operating.md#servers-without-quic-lb-ids",
        "backend_without_cids": "operating.md#servers-without-quic-lb-ids",
        "unconfigured_config_id": "runbooks/rotation.md",
        "rotation": "runbooks/rotation.md",
        "backend_leaving": "operating.md#files-that-another-program-writes",
    }
)
"""Kind of notice → the page in docs/ that explains it, if it is not the list of notices."""


class Notice(NamedTuple):
    """One notice. severity: one of SEVERITIES. kind: a name for programs. text: for operators."""

    severity: str
    kind: str
    text: str

    @property
    def level(self) -> str:
        """The severity in the words of a log: error, warning or info."""
        return _LEVELS[self.severity]

    @property
    def see(self) -> str:
        """The page in docs/ that explains it."""
        return _PAGES.get(self.kind, "watching.md#notices")


def notices(reading: Reading) -> list[Notice]:
    """Return the notices of a reading, the most severe first."""
    every = (
        *_backends(reading),
        *_workers(reading),
        *_health(reading),
        *_load(reading),
        *_xdp(reading),
        *_reload(reading),
        *_discovery(reading),
        *_ids(reading),
        *_unknown_ids(reading),
        *_rotation(reading),
    )
    return sorted(every, key=lambda notice: SEVERITIES.index(notice.severity))


def _backends(reading: Reading) -> Iterator[Notice]:
    """Yield the notice that no backend can be used, which explains most others."""
    present = [row for row in reading.backends if row.state != REMOVED]
    up = sum(row.healthy for row in present)
    if not present:
        yield Notice(CRITICAL, "no_backend", "no backend is configured: packets are dropped")
    elif not up:
        which = "the only backend is" if len(present) == 1 else f"all {len(present)} backends are"
        yield Notice(CRITICAL, "no_backend", f"no healthy backend: {which} down{_words(present)}")
    elif not any(row.healthy and row.state == "active" for row in present):
        text = f"no backend for new connections: {_count(up, 'backend')} of {len(present)} up, but draining"
        yield Notice(CRITICAL, "no_backend", text)


def _words(rows: Sequence[BackendReading]) -> str:
    """Return the words of the probes in parentheses, if they are the same for all backends."""
    details = {row.detail.partition(";")[0] for row in rows}
    detail = next(iter(details)) if len(details) == 1 else ""
    return f" ({detail})" if detail else ""


def _reload(reading: Reading) -> Iterator[Notice]:
    if not reading.last_reload_ok:
        yield Notice(WARNING, "reload_refused", _refusal(reading))
    found = [
        f"{row.name} drains by itself: the reload of the configuration on disk waits until no packet goes to it"
        for row in reading.backends
        if row.leaving
    ]
    yield from _some(INFO, "backend_leaving", found, "more backends that drain for a reload")


def _refusal(reading: Reading) -> str:
    if not reading.reload_problems:
        return "a worker has not applied the last reload; the log has the reason"
    first, *others = reading.reload_problems
    reason = first if len(first) <= _REASON_CHARACTERS else f"{first[:_REASON_CHARACTERS]}…"
    more = f" (and {_count(len(others), 'more reason')}, see the log)" if others else ""
    again = "" if reading.reload_retry_s is None else f"; the next try is in {reading.reload_retry_s:.0f} s"
    return f"the last reload was refused, and the configuration on disk is not in force{again}: {reason}{more}"


def _workers(reading: Reading) -> Iterator[Notice]:
    for row in reading.workers:
        name = f"worker {row.index} (process {row.pid})"
        if row.heartbeat_age_s > _LATE_S:
            text = f"{name} has not completed a round of its loop for {row.heartbeat_age_s:.1f} s"
            yield Notice(CRITICAL, "worker_silent", text)
        if not row.up_to_date:
            yield Notice(WARNING, "worker_behind", f"{name} has not applied the current configuration yet")
    for listener in reading.listeners:
        if listener.strangers:
            text = f"another process receives a part of the clients of {listener.listen}; the log names it"
            yield Notice(CRITICAL, "address_shared", text)


def _health(reading: Reading) -> Iterator[Notice]:
    if reading.all_failing:
        text = "all probes fail at once, probably by this node's own fault: backends are retained, /readyz returns 503"
        yield Notice(CRITICAL, "all_probes_failing", text)
    if reading.probe_error:
        text = f"this node cannot send probes ({reading.probe_error}): the verdicts on backends do not change"
        yield Notice(WARNING, "probes_not_sent", text)
    found = [f"{row.name}: {row.finding}" for row in reading.backends if row.finding]
    yield from _some(CRITICAL, "backend_finding", found, "more backends with findings")
    excluded = [f"{row.name} gets no packets: {row.excluded}" for row in reading.backends if row.excluded]
    yield from _some(WARNING, "backend_excluded", excluded, "more backends that get no packets")


def _load(reading: Reading) -> Iterator[Notice]:
    if reading.kernel_drops_over:
        text = (
            f"kernel drops: in the last minute the system dropped {_percent(reading.kernel_drops_over)} of the packets "
            "before qlb received them, because receive queues were full"
        )
        yield Notice(CRITICAL, "kernel_drops", text)
    now, most = reading.totals["sessions"], reading.totals["sessions_max"]
    if now > SESSIONS.above * most:
        text = f"sessions nearly full: {now:,} of {most:,} are open; at the limit, new ones end old ones"
        yield Notice(WARNING, "sessions_near_max", text)


def _xdp(reading: Reading) -> Iterator[Notice]:
    if reading.xdp is not None:
        yield from (Notice(CRITICAL, "xdp", text) for text in reading.xdp.notices)


def _discovery(reading: Reading) -> Iterator[Notice]:
    for source in reading.discovery:
        if source.error:
            text = f"source {source.name} of backends fails; the backends that it found before stay: {source.error}"
            yield Notice(WARNING, "discovery_failing", text)
        for remark in source.remarks:
            yield Notice(INFO, "discovery_remark", f"source {source.name} of backends: {remark}")


def _ids(reading: Reading) -> Iterator[Notice]:
    if reading.without_ids:
        text = (
            "packets arrive continually, and for a minute none had a QUIC-LB ID that decodes here: the servers issue "
            "other IDs, or have another key or other server IDs; connections break when a client's address changes"
        )
        yield Notice(WARNING, "no_cids", text)
    else:
        found = [
            f"{row.name}: packets arrive continually, and for a minute none had one of its QUIC-LB IDs: check which "
            "IDs the server issues"
            for row in reading.backends
            if row.without_ids
        ]
        yield from _some(WARNING, "backend_without_cids", found, "more backends without packets by ID")
    over = {row.config_id: row.over for row in reading.unconfigured if row.over}
    if over:
        plural = "s" * (len(over) > 1)
        text = (
            f"{_percent(sum(over.values()))} of the packets in the last minute have IDs with the config ID{plural} "
            f"{', '.join(map(str, over))}, which this configuration does not have: it is older than that of the "
            "servers, or the servers issue no QUIC-LB IDs"
        )
        yield Notice(WARNING, "unconfigured_config_id", text)


def _unknown_ids(reading: Reading) -> Iterator[Notice]:
    """Yield notices about IDs of no backend. A finding about the backend gives the cause, and replaces the notice."""
    found = [
        f"{row.name}: its clients send connection IDs with a server ID of no backend: they break when their addresses "
        "change; check the server's key and server ID"
        for row in reading.backends
        if row.unknown_ids and not row.finding
    ]
    yield from _some(CRITICAL, "backend_unknown_ids", found, "more backends whose clients send unknown server IDs")
    for config in reading.unknown:
        if config.sustained:
            text = (
                f"many packets carry IDs of config {config.config_id} with a server ID of no backend ({config.packets} "
                "so far): a server or another balancer has another key, or a backend is missing here"
            )
            yield Notice(WARNING, "unknown_server_id", text)


def _rotation(reading: Reading) -> Iterator[Notice]:
    rotation = reading.rotation
    if rotation.phase != "idle":
        severity = INFO if rotation.phase == "done" else WARNING
        yield Notice(severity, "rotation", f"rotation, {rotation.phase}: {rotation.next_step}")


def _some(severity: str, kind: str, texts: Sequence[str], others: str) -> Iterator[Notice]:
    """Yield a notice for each of the first texts, and one with the number of the others."""
    for text in texts[:_NAMED]:
        yield Notice(severity, kind, text)
    if len(texts) > _NAMED:
        yield Notice(severity, kind, f"and {len(texts) - _NAMED} {others}")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"
