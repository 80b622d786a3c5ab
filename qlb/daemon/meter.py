"""Faults that the counters show: refused sends, and backends whose packets never have one of their IDs.

The packet path only counts. Once a second the supervisor compares the counters. An operator who looks for lost packets
finds the backend, the cause and the next step in one line of the log. The line is repeated after an hour if the fault
persists.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from qlb.daemon.rows import Row
from qlb.dataplane.sockets import path_mtu
from qlb.routing import counters as layout
from qlb.routing.backends import Backend
from qlb.routing.counters import SEND_ERROR_KINDS, Counters
from qlb.routing.sums import last_too_large_bytes, total, total_return_send_errors

log = logging.getLogger("qlb")

REPEAT_S: Final = 3600.0
"""Seconds until a persistent cause is logged again."""

HINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "would_block": "the send buffer is full: a slow link or device; see forwarding.send_buffer",
        "no_buffers": "the kernel or the device has no memory for packets",
        "too_large": "datagrams are larger than the path's MTU: lower the maximum datagram size at clients and "
        "servers, or raise the MTU of the link",
        "unreachable": "no route, or a router rejected the packets: check the routes (`ip route get`)",
        "not_permitted": "a firewall rule (OUTPUT) drops them, or the connection tracking table is full "
        "(net.netfilter.nf_conntrack_max)",
        "invalid": "the source address or the interface does not exist any more",
        "other": "unexpected error of the system",
    }
)
"""Cause → hint. A cause without a hint is not logged: the health probes report a backend that refuses packets."""


class SendErrorWatch:
    """The log of refused sends of one daemon: one line for each backend and cause."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        """now: seconds of a monotonic clock."""
        self._now = now
        self._total = 0
        self._seen: dict[tuple[str, str], int] = {}
        self._logged_at: dict[tuple[str, str], float] = {}

    def look(
        self, workers: Sequence[Counters], rows: Callable[[], Sequence[Row]], backends: Sequence[Backend | None]
    ) -> None:
        """Log causes that occurred since the last call. rows: returns the counts by index. backends: by index."""
        refused = total(workers, layout.SEND_ERRORS)
        if refused == self._total:
            return
        self._total = refused
        for index, (row, backend) in enumerate(zip(rows(), backends, strict=False)):
            if backend is not None:
                counts = dict(zip(SEND_ERROR_KINDS, row.send_errors, strict=True))
                self._compare(backend.name, counts, _details(workers, index, backend))
        self._compare("", total_return_send_errors(workers), dict)

    def _compare(self, name: str, counts: Mapping[str, int], details: Callable[[], Mapping[str, object]]) -> None:
        for cause, count in counts.items():
            key = name, cause
            new = count - self._seen.get(key, 0)
            if not new:
                continue
            self._seen[key] = count
            last = self._logged_at.get(key)
            if cause not in HINTS or (last is not None and self._now() - last < REPEAT_S):
                continue
            self._logged_at[key] = self._now()
            log.warning(
                "sends to a backend fail" if name else "sends to clients fail",
                extra={
                    **({"backend": name} if name else {}),
                    "error": cause,
                    "refused": new,
                    **(details() if cause == "too_large" else {}),
                    "hint": HINTS[cause],
                },
            )


def _details(workers: Sequence[Counters], index: int, backend: Backend) -> Callable[[], Mapping[str, object]]:
    def details() -> Mapping[str, object]:
        mtu = path_mtu(backend.endpoint)
        size = {"datagram_bytes": last_too_large_bytes(workers, index)}
        return size if mtu is None else {**size, "path_mtu": mtu}

    return details


LASTS_S: Final = 60.0
"""The duration from which a streak counts."""
PAUSE_S: Final = 10.0
"""The time without packets that ends a streak."""
PACKETS: Final = 60
"""The number of packets from which a streak counts."""


class Streak:
    """A counter that grows without long pauses. A single packet proves nothing; a minute of packets is evidence."""

    __slots__ = ("_last_s", "_packets", "_since_s", "_total")

    def __init__(self) -> None:
        """Start at a counter of zero."""
        self._total = 0
        self._packets = 0
        self._since_s = 0.0
        self._last_s = 0.0

    def note(self, total: int, now_s: float) -> None:
        """Note the present value of the counter."""
        if self._packets and now_s - self._last_s > PAUSE_S:
            self._packets = 0
        if total > self._total:
            if not self._packets:
                self._since_s = now_s
            self._packets += total - self._total
            self._last_s = now_s
        self._total = total

    def end(self) -> None:
        """End the streak. The next packet starts a new one."""
        self._packets = 0

    @property
    def counts(self) -> bool:
        """True if at least PACKETS packets arrived over at least LASTS_S, without a long pause until the last note."""
        return self._packets >= PACKETS and self._last_s - self._since_s >= LASTS_S

    @property
    def has_begun(self) -> bool:
        """True if packets arrived and no long pause followed until the last note."""
        return self._packets > 0


_AGAIN_S: Final = 3600.0
"""The least time between two log lines about one backend."""


class _Watched:
    """One backend, or all of them together. logged_s: the time of the last log line."""

    __slots__ = ("by_cid", "logged_s", "missing", "streak")

    def __init__(self) -> None:
        self.by_cid = 0
        self.streak = Streak()
        self.missing = False
        self.logged_s: float | None = None

    def note(self, by_cid: int, others: int, now_s: float) -> None:
        if by_cid != self.by_cid:
            self.by_cid = by_cid
            self.streak.note(others, now_s)
            self.streak.end()
        else:
            self.streak.note(others, now_s)
        self.missing = self.streak.counts

    def is_to_be_logged(self, now_s: float) -> bool:
        if not self.missing or (self.logged_s is not None and now_s - self.logged_s < _AGAIN_S):
            return False
        self.logged_s = now_s
        return True


class IdUse:
    """The backends of one daemon whose packets never have one of their IDs."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        """Start without backends."""
        self._now = now
        self._watched: dict[str, _Watched] = {}
        self._all = _Watched()

    @property
    def none_at_all(self) -> bool:
        """True if packets arrive continually and none was routed by its ID to any backend."""
        return self._all.missing

    def is_missing(self, name: str) -> bool:
        """Return whether packets go continually to a backend with server IDs and none was routed by its ID."""
        return name in self._watched and self._watched[name].missing

    def note(self, backends: Sequence[Backend | None], rows: Sequence[Row], *, has_flows: bool) -> None:
        """Note the forwarded packets. Call this every second. backends, rows: by index.

        has_flows: the plane has flow tables. Then packets by fallback are only first packets and prove nothing.
        """
        now_s, watched, by_cid, others = self._now(), {}, 0, 0
        for backend, row in zip(backends, rows, strict=False):
            if backend is None or not backend.server_ids:
                continue
            one = watched[backend.name] = self._watched.get(backend.name) or _Watched()
            own = row.forwarded[1] if has_flows else row.forwarded[1] + row.forwarded[2]
            one.note(row.forwarded[0], own, now_s)
            by_cid += row.forwarded[0]
            others += own
        self._watched = watched
        self._all.note(by_cid, others, now_s)
        self._log(now_s)

    def _log(self, now_s: float) -> None:
        if self._all.is_to_be_logged(now_s):
            log.warning(
                "no packet carries a QUIC-LB ID that decodes: check which IDs the servers issue, and their keys"
            )
        if self._all.missing:
            return
        for name, one in self._watched.items():
            if one.is_to_be_logged(now_s):
                log.warning(
                    "packets to a backend carry none of its QUIC-LB IDs: check which IDs the server issues",
                    extra={"backend": name},
                )
