"""Faults of servers' connection IDs that the traffic shows, without a probe.

The planes only count (qlb/routing/shown.py, qlb/routing/router.py). Once a second this module compares the counters:

- **Wrong IDs.** An ID in a server's answer to a new connection does not lead back to the server. One is a finding; two,
  if the server shows right IDs too. The finding ends when the server shows right IDs again, to clients or to a probe.
  It never changes the verdict of the health check.
- **Unknown IDs of known clients.** Clients that a server has answered send IDs that decode to no backend. A stranger
  needs a QUIC handshake to cause this, so a few packets are enough.
- **Unknown IDs of all clients.** Packets with such IDs arrive in bulk, as after another balancer with another key.
  Random octets look alike. So this counts only above a rate, after a minute, and if every backend has server IDs.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from operator import sub
from typing import Final, NamedTuple, Protocol

from qlb.daemon.rows import column_at
from qlb.health.probe import Target
from qlb.observe.figures import UnknownReading
from qlb.routing import counters as layout
from qlb.routing import sums
from qlb.routing.backends import Backend
from qlb.routing.counters import Counters
from qlb.routing.outcomes import CONFIG_IDS

log = logging.getLogger("qlb")

ENOUGH_RIGHT: Final = 8
"""Right IDs in a row that end the finding about a server which shows both kinds, as two processes on one port do."""
CALM_S: Final = 10.0
"""The time without wrong IDs after which one right ID ends that finding, too."""
KNOWN_PACKETS: Final = 8
KNOWN_WINDOW_S: Final = 5.0
"""So many packets of known clients in this time are a fault."""
QUIET_S: Final = 60.0
"""The time without such packets that ends the fault."""
BULK_PACKETS: Final = 600
BULK_S: Final = 60.0
BULK_SHARE: Final = 0.01
"""Packets of all clients are a fault if so many came in BULK_S and if they were this share of all packets."""
AGAIN_S: Final = 3600.0  # the least time between two log lines about one fault of one backend


class Health(Protocol):
    """The part of the health monitor that this module reads."""

    def target(self, name: str) -> Target | None:
        """Return a backend as probes see it; None if it is unknown."""

    def right_ids(self, name: str) -> int:
        """Return the number of probes that found only right IDs."""

    def finding(self, name: str) -> str:
        """Return what is wrong with the connection IDs of a backend; "" if nothing is."""


class Shown(NamedTuple):
    """The IDs in a backend's answers, by SHOWN_KINDS, and the packets with unknown IDs of its known clients."""

    right: int = 0
    wrong: int = 0
    unroutable: int = 0
    unknown: int = 0


class _WrongIds:
    """The wrong IDs of one server: none, an exception, or a finding."""

    def __init__(self) -> None:
        self._right = self._wrong = 0
        self._counts = self._in_a_row = 0
        """Wrong IDs since the last finding, and right IDs since the last wrong one."""
        self._has_both = False
        self._last_s = 0.0
        self.is_finding = False

    @property
    def is_calm(self) -> bool:
        """True if no wrong ID is under consideration."""
        return not self._counts

    def note(self, right: int, wrong: int, now_s: float) -> None:
        """Note the present counts."""
        more_right, more_wrong = right - self._right, wrong - self._wrong
        self._right, self._wrong = right, wrong
        if more_wrong:
            self._has_both = right > 0 if self.is_calm else self._has_both or more_right + self._in_a_row > 0
            self._counts += more_wrong
            self._in_a_row, self._last_s = 0, now_s
            self.is_finding = self._counts > self._has_both
            return
        self._in_a_row += more_right
        enough = not self._has_both or self._in_a_row >= ENOUGH_RIGHT or now_s - self._last_s >= CALM_S
        if self._in_a_row and enough:
            self.forgive()

    def forgive(self) -> None:
        """End the finding."""
        self._counts = self._in_a_row = 0
        self.is_finding = False


class _KnownClients:
    """Packets with unknown IDs of one server's known clients."""

    def __init__(self) -> None:
        self._notes: deque[tuple[float, int]] = deque([(0.0, 0)])
        self._last_s: float | None = None

    @property
    def is_fault(self) -> bool:
        """True from enough packets until a quiet time."""
        return self._last_s is not None

    def note(self, packets: int, now_s: float) -> None:
        """Note the present count."""
        has_more = packets > self._notes[-1][1]
        self._notes.append((now_s, packets))
        while len(self._notes) > 2 and now_s - self._notes[1][0] >= KNOWN_WINDOW_S:
            self._notes.popleft()
        if has_more and (self.is_fault or packets - self._notes[0][1] >= KNOWN_PACKETS):
            self._last_s = now_s
        elif self._last_s is not None and now_s - self._last_s >= QUIET_S:
            self._last_s = None


class _Bulk:
    """Packets with unknown IDs of one CID config, from all clients."""

    def __init__(self) -> None:
        self._notes: deque[tuple[float, int, int]] = deque()
        self.is_fault = False

    def note(self, packets: int, received: int, now_s: float) -> None:
        """Note the present counts: of such packets and of all packets."""
        while len(self._notes) > 1 and now_s - self._notes[1][0] >= BULK_S:
            self._notes.popleft()
        first_s, packets_before, received_before = self._notes[0] if self._notes else (now_s, packets, received)
        self._notes.append((now_s, packets, received))
        more, half = packets - packets_before, self._notes[len(self._notes) // 2][1]
        self.is_fault = (
            now_s - first_s >= BULK_S
            and more >= max(BULK_PACKETS, BULK_SHARE * (received - received_before))
            and more / 4 <= packets - half <= more * 3 / 4  # not one burst
        )


class _Watched:
    """One backend. before: the counts from before its index had its name and its present server."""

    def __init__(self, target: Target, before: Shown, right_before: int) -> None:
        self.target = target
        self.before = before
        self.right_before = right_before
        self.wrong = _WrongIds()
        self.known = _KnownClients()
        self.text = ""


class ShownIds:
    """The faults of the servers of one daemon, as the traffic shows them."""

    def __init__(self, health: Health, *, now: Callable[[], float] = time.monotonic) -> None:
        """Start without faults. health: has the targets. now: seconds of a monotonic clock."""
        self._health = health
        self._now = now
        self._watched: dict[str, _Watched] = {}
        self._bulk = tuple(_Bulk() for _ in range(CONFIG_IDS))
        self._logged_s: dict[tuple[str, str], float] = {}
        self._revision = -1
        self._last = 0, 0

    def finding(self, name: str) -> str:
        """Return what is wrong with the IDs that a backend shows to clients; "" if nothing is."""
        one = self._watched.get(name)
        return one.text if one is not None and one.wrong.is_finding else ""

    def has_unknown(self, name: str) -> bool:
        """Return whether known clients of a backend send IDs that decode to no backend."""
        return name in self._watched and self._watched[name].known.is_fault

    def is_sustained(self, config_id: int) -> bool:
        """Return whether packets arrive in bulk whose IDs decode under a CID config to no backend."""
        return self._bulk[config_id].is_fault

    def read(self, workers: Sequence[Counters], names: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
        """Return backend name → SHOWN_KINDS → the IDs that its present server has shown. names: by index."""
        if not self._watched:
            return {}
        shown = zip(names, read_shown(workers, len(names)), strict=True)
        return {
            name: dict(zip(layout.SHOWN_KINDS, map(sub, now, self._watched[name].before), strict=False))
            for name, now in shown
            if name in self._watched
        }

    def note(
        self, workers: Sequence[Counters], backends: Sequence[Backend | None], names: Sequence[str], revision: int
    ) -> None:
        """Note the present counters. Call this every second.

        backends, names: by index. revision: changes whenever they do.
        """
        now_s = self._now()
        if revision != self._revision:
            self._follow(workers, backends, names)
            self._revision = revision
        unknown = self._note_bulk(workers, backends, now_s)
        before, self._last = self._last, (sums.total(workers, layout.WRONG_IDS), unknown)
        if before == self._last and all(one.wrong.is_calm and not one.known.is_fault for one in self._watched.values()):
            return  # usually there is nothing to compare, and there may be thousands of backends
        shown = read_shown(workers, len(names))
        for index, name in enumerate(names):
            if name in self._watched:
                self._compare(workers, index, self._watched[name], shown[index], now_s)

    def _follow(self, workers: Sequence[Counters], backends: Sequence[Backend | None], names: Sequence[str]) -> None:
        """Watch the present backends that have server IDs. The counts of an earlier server do not concern a new one."""
        shown, watched = read_shown(workers, len(names)), {}
        for index, (name, backend) in enumerate(zip(names, backends, strict=False)):
            target = self._health.target(name)
            if backend is None or target is None or not target.server_ids:
                continue
            one = self._watched.get(name)
            if one is None or one.target != target:
                one = _Watched(target, Shown() if self._revision < 0 else shown[index], self._health.right_ids(name))
            one.target = target  # an equal one may have other CID configs
            watched[name] = one
        self._watched = watched
        self._logged_s = {key: at_s for key, at_s in self._logged_s.items() if key[1] in watched or key[1].isdecimal()}

    def _note_bulk(self, workers: Sequence[Counters], backends: Sequence[Backend | None], now_s: float) -> int:
        """Note the packets of all clients. Return their number."""
        received, sum_of_all = sums.total(workers, layout.PACKETS_RECEIVED), 0
        for config_id, one in enumerate(self._bulk):
            packets = sums.total(workers, layout.UNKNOWN + config_id)
            sum_of_all += packets
            one.note(packets, received, now_s)
            if one.is_fault and not all(backend.server_ids for backend in backends if backend is not None):
                one.is_fault = False
            if one.is_fault:
                text = "packets arrive in bulk with server IDs of no backend"
                self._warn(text, str(config_id), config_id=config_id, packets=packets)
        return sum_of_all

    def _compare(self, workers: Sequence[Counters], index: int, one: _Watched, shown: Shown, now_s: float) -> None:
        """Compare the counts of one backend with the earlier ones, and log what has changed."""
        name, was_finding, was_fault = one.target.name, one.wrong.is_finding, one.known.is_fault
        right = shown.right - one.before.right + self._health.right_ids(name) - one.right_before
        one.wrong.note(right, shown.wrong - one.before.wrong, now_s)
        if not one.wrong.is_calm:
            one.text = explain(workers, index, one.target)
            if not one.text:
                one.wrong.forgive()  # the configuration has changed since
        if one.wrong.is_finding and not was_finding and not self._health.finding(name):
            self._warn("a backend shows wrong connection IDs to clients", name, backend=name, finding=one.text)
        elif was_finding and not one.wrong.is_finding:
            log.info("a backend shows right connection IDs to clients again", extra={"backend": name})
        one.known.note(shown.unknown - one.before.unknown, now_s)
        if one.known.is_fault and not was_fault and not self.finding(name):
            self._warn("clients of a backend send server IDs of no backend", name, backend=name, packets=shown.unknown)

    def _warn(self, event: str, about: str, **extra: object) -> None:
        last_s, now_s = self._logged_s.get((event, about)), self._now()
        if last_s is None or now_s - last_s >= AGAIN_S:
            self._logged_s[event, about] = now_s
            log.warning(event, extra=extra)


def unknown_ids(shown: ShownIds, workers: Sequence[Counters], now_s: float) -> tuple[UnknownReading, ...]:
    """Return the packets with IDs of no backend, for each config ID that has any."""
    found = ((config_id, sums.total_unknown(workers, config_id)) for config_id in range(CONFIG_IDS))
    return tuple(
        UnknownReading(
            config_id=config_id,
            packets=one.packets,
            last_seen_s=max(now_s - one.last_seen_ms / 1000, 0.0),
            sustained=shown.is_sustained(config_id),
        )
        for config_id, one in found
        if one.packets
    )


def explain(workers: Sequence[Counters], index: int, target: Target) -> str:
    """Return what is wrong with the last wrong ID of a backend; "" if it is right under the present configuration."""
    cids = (worker.last_wrong_id(index) for worker in workers)
    text = next((found for cid in cids if cid and (found := target.mismatch(cid))), "")
    return f"{text}; seen in answers to clients, so it still gets new connections" if text else ""


def read_shown(workers: Sequence[Counters], backends: int) -> list[Shown]:
    """Return the counts of every backend, by index."""
    start, width = layout.SHOWN, layout.SHOWN_SLOTS
    columns = [column_at(workers, start + slot, width, backends, sum) for slot in range(len(Shown._fields))]
    return list(map(Shown, *columns))
