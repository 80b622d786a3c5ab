"""The notices of a reading: what needs an operator's attention now, in words.

``/status`` contains them. The page, ``qlb status`` and ``qlb top`` show that list and have no texts of their own.
"""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from qlb.observe.figures import Reading

ERROR: Final = "error"
WARNING: Final = "warning"
INFO: Final = "info"

_NAMED: Final = 5
"""Backends that notices of one kind name one by one. The others are counted."""

_LATE_S: Final = 2.0
"""The age of a heartbeat above which there is a notice. A worker that is not late stays below 1.5 s."""


class Notice(NamedTuple):
    """One notice. level: error, warning or info. kind: a name for programs. text: for operators."""

    level: str
    kind: str
    text: str


def notices(reading: Reading) -> list[Notice]:
    """Return the notices of a reading, the most severe first."""
    every = (
        *_reload(reading),
        *_workers(reading),
        *_health(reading),
        *_xdp(reading),
        *_discovery(reading),
        *_ids(reading),
        *_unknown_ids(reading),
        *_rotation(reading),
    )
    return sorted(every, key=lambda notice: (ERROR, WARNING, INFO).index(notice.level))


def _reload(reading: Reading) -> Iterator[Notice]:
    if not reading.last_reload_ok:
        retry_s = reading.reload_retry_s
        again = "" if retry_s is None else f"; the next try is in {retry_s:.0f} s"
        text = f"the last reload was refused: the configuration on disk is not in force{again}; the log has the reasons"
        if not reading.reload_problems:
            text = "a worker has not applied the last reload; the log has the reason"
        yield Notice(ERROR, "reload_refused", text)
    found = [
        f"{row.name} drains by itself: the reload of the configuration on disk waits until no packet goes to it"
        for row in reading.backends
        if row.leaving
    ]
    yield from _some(INFO, "backend_leaving", found, "more backends that drain for a reload")


def _workers(reading: Reading) -> Iterator[Notice]:
    for row in reading.workers:
        name = f"worker {row.index} (process {row.pid})"
        if not row.up_to_date:
            yield Notice(ERROR, "worker_behind", f"{name} has not applied the current configuration yet")
        if row.heartbeat_age_s > _LATE_S:
            text = f"{name} has not completed a round of its loop for {row.heartbeat_age_s:.1f} s"
            yield Notice(ERROR, "worker_silent", text)
    for listener in reading.listeners:
        if listener.strangers:
            text = f"another process receives a part of the clients of {listener.listen}; the log names it"
            yield Notice(ERROR, "address_shared", text)


def _health(reading: Reading) -> Iterator[Notice]:
    if reading.all_failing:
        text = "all probes fail at once, probably by this node's own fault: backends are retained, /readyz returns 503"
        yield Notice(ERROR, "all_probes_failing", text)
    if reading.probe_error:
        text = f"this node cannot send probes ({reading.probe_error}): the verdicts on backends do not change"
        yield Notice(ERROR, "probes_not_sent", text)
    found = [f"{row.name}: {row.finding}" for row in reading.backends if row.finding]
    yield from _some(ERROR, "backend_finding", found, "more backends with findings")
    excluded = [f"{row.name} gets no packets: {row.excluded}" for row in reading.backends if row.excluded]
    yield from _some(ERROR, "backend_excluded", excluded, "more backends that get no packets")


def _xdp(reading: Reading) -> Iterator[Notice]:
    if reading.xdp is not None:
        yield from (Notice(ERROR, "xdp", text) for text in reading.xdp.notices)


def _discovery(reading: Reading) -> Iterator[Notice]:
    for source in reading.discovery:
        if source.error:
            text = f"source {source.name} of backends fails; the backends that it found before stay: {source.error}"
            yield Notice(ERROR, "discovery_failing", text)
        for remark in source.remarks:
            yield Notice(WARNING, "discovery_remark", f"source {source.name} of backends: {remark}")


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
    for config in reading.unconfigured:
        if config.sustained:
            text = (
                f"packets arrive continually with config ID {config.config_id}, which is not configured here "
                f"({config.packets} so far)"
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
    yield from _some(WARNING, "backend_unknown_ids", found, "more backends whose clients send unknown server IDs")
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
        level = INFO if rotation.phase == "done" else WARNING
        yield Notice(level, "rotation", f"rotation, {rotation.phase}: {rotation.next_step}")


def _some(level: str, kind: str, texts: Sequence[str], others: str) -> Iterator[Notice]:
    """Yield a notice for each of the first texts, and one with the number of the others."""
    for text in texts[:_NAMED]:
        yield Notice(level, kind, text)
    if len(texts) > _NAMED:
        yield Notice(level, kind, f"and {len(texts) - _NAMED} {others}")
