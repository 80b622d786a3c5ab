"""A watch for servers that issue no QUIC-LB IDs, or IDs that do not decode here.

As long as clients keep their addresses, such a server works by flow table and fallback, and nothing looks wrong. Its
connections break when an address changes. So it is a finding when packets keep going to a backend that has server IDs,
for a minute and without long pauses, and not one of them was routed by its ID.

Only packets of known flows count. The first packet of every connection goes by the fallback, and spoofed ones do so
without end; they say nothing about what servers issue. Without flow tables there are no known flows, and then the
fallback's packets count.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from qlb.control.rows import Row
from qlb.control.streak import Streak
from qlb.routing.backends import Backend

log = logging.getLogger("qlb")

_AGAIN_S: Final = 3600.0
"""From one log line about a backend to the next."""


class _Watched:
    """One backend, or all of them together. logged_s: when it was last told."""

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
    """The backends of one daemon whose packets never have an ID of theirs."""

    def __init__(self, *, now: Callable[[], float] = time.monotonic) -> None:
        """Start without any backend."""
        self._now = now
        self._watched: dict[str, _Watched] = {}
        self._all = _Watched()

    @property
    def none_at_all(self) -> bool:
        """Whether packets keep coming and none to any backend was routed by its ID."""
        return self._all.missing

    def is_missing(self, name: str) -> bool:
        """Whether packets keep going to a backend that has server IDs, and none was routed by its ID."""
        return name in self._watched and self._watched[name].missing

    def note(self, backends: Sequence[Backend | None], rows: Sequence[Row], *, has_flows: bool) -> None:
        """Note what was forwarded. To be called every second. backends, rows: by index. has_flows: flows are known."""
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
