"""Log refused sends: one line for each backend and cause, with a hint at the reason.

The packet path only counts. Once a second the supervisor compares the counters. An operator who looks for lost packets
finds the backend, the cause and the next step in one line. A cause is logged again after REPEAT_S if it goes on.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from qlb.control.rows import Row
from qlb.dataplane.sockets import path_mtu
from qlb.routing import counters as layout
from qlb.routing.backends import Backend
from qlb.routing.counters import (
    SEND_ERROR_KINDS,
    Counters,
    last_too_large_bytes,
    total,
    total_return_send_errors,
)

log = logging.getLogger("qlb")

REPEAT_S: Final = 3600.0
"""Seconds until a cause that goes on is logged again."""

HINTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "would_block": "the send buffer is full: a slow link or device; see forwarding.send_buffer",
        "no_buffers": "the kernel or the device has no memory for packets",
        "too_large": "datagrams are larger than the path's MTU: lower the maximum datagram size at clients and "
        "servers, or raise the MTU of the link",
        "unreachable": "no route, or a router rejected the packets: check the routes (`ip route get`)",
        "not_permitted": "a firewall rule (OUTPUT) drops them, or the connection tracking table is full "
        "(net.netfilter.nf_conntrack_max)",
        "invalid": "the source address or the interface is not there any more",
        "other": "unexpected error of the system",
    }
)
"""Cause → hint. A cause without a hint is not logged: the health probes report a backend that refuses packets."""


class SendErrorWatch:
    """The refused sends of one daemon that were logged."""

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
