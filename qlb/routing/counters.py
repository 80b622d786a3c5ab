"""The counters of one worker: a flat array of unsigned 64-bit integers in memory that two processes share.

The worker that handled a packet counts it here, one writer each and no locks; the supervisor reads. The
layout is written down in this file alone. Sizes are in 64-bit slots. The memory is sparse: slots that
were never touched take no room.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from qlb.routing.backends import MAX_BACKENDS
from qlb.routing.outcomes import CONFIG_IDS, DROP_WORKER_DIED, OUTCOMES, ROUTE_OF

PACKETS_RECEIVED: Final = 0
BYTES_RECEIVED: Final = 1
SESSIONS: Final = 2
"""A gauge: sockets for the way back that are open."""
SESSIONS_EVICTED: Final = 3
RETURN_DROPPED: Final = 4
"""Packets from backends that could not be sent on to their clients."""
RETURN_OVERFLOWED: Final = 5
"""Packets from backends that the system dropped because a session's receive queue was full, as far as a plane
has seen: it may learn of them only when the session closes."""
SEND_ERRORS: Final = 6
"""Calls to send that the system refused, in both directions. The counters by cause add up to it."""
SESSIONS_REOPENED: Final = 7
"""Sessions that got a new socket because the old one could not work any more."""
SESSIONS_PROTECTED: Final = 8
"""A gauge: open sessions that their clients have used in two separate seconds."""
RETURN_PAUSES: Final = 9
"""Times that a plane stopped reading a session because the send queue towards clients was filling up."""
SEND_ERROR_KINDS: Final = (
    "would_block",
    "no_buffers",
    "refused",
    "too_large",
    "unreachable",
    "not_permitted",
    "invalid",
    "other",
)
"""Causes of a refused send. A call counts once, however many packets it carried, and also if a second try succeeded.
So these are not packets, and no sum of packets includes them."""
TOO_LARGE: Final = SEND_ERROR_KINDS.index("too_large")
ICMP_FORWARDED: Final = 12
"""Direct return: ICMP errors about packets of servers, passed on to the backend that they concern."""
ICMP_SENT: Final = 13
"""Direct return: ICMP messages to clients whose packets were too big. Both are in none of the sums."""
HEARTBEAT_MS: Final = 14
"""Milliseconds of the monotonic clock when the worker's plane last began a round; at least once a second, 0 = never."""

OUTCOME: Final = 16
"""First of one counter for each outcome."""
CONFIG_LAST_SEEN_MS: Final = 80
"""First of one time for each config ID: milliseconds of the monotonic clock, 0 = never."""
UNCONFIGURED: Final = 88
"""First of one counter for each config ID: short headers whose ID carries it while no configuration has it. They are
counted by their outcomes too: servers that issue what this balancer cannot read, or IDs that outlive their removal."""
UNCONFIGURED_LAST_SEEN_MS: Final = 96
BACKEND: Final = 104
"""First of BACKEND_SLOTS for each backend index."""

FORWARDED: Final = 0
"""First of three in a backend's slots: by cid, flow, fallback."""
RETURNED: Final = 3
LAST_SEEN_MS: Final = 4
TOO_LARGE_BYTES: Final = 5
"""Octets of the last datagram that was too large for the path to the backend; 0 = none was."""
BACKEND_SEND_ERRORS: Final = 8
"""First of one counter for each of SEND_ERROR_KINDS: refused calls to send to this backend."""
BACKEND_SLOTS: Final = 16

SAMPLE: Final = BACKEND + BACKEND_SLOTS * MAX_BACKENDS
"""First of SAMPLE_SLOTS for each outcome that is a drop: the last such datagram, to be looked at by people."""
SAMPLE_SLOTS: Final = 10
"""When (milliseconds of the monotonic clock), how long it was, and its first SAMPLE_BYTES octets."""
SAMPLE_BYTES: Final = 64

RETURN_SEND_ERRORS: Final = SAMPLE + SAMPLE_SLOTS * len(OUTCOMES)
"""First of one counter for each of SEND_ERROR_KINDS: refused calls to send to clients."""
SLOTS: Final = RETURN_SEND_ERRORS + len(SEND_ERROR_KINDS)
SIZE_BYTES: Final = 8 * SLOTS
"""8 MiB of addresses a worker, a few pages of memory."""

assert BACKEND_SEND_ERRORS + len(SEND_ERROR_KINDS) <= BACKEND_SLOTS, "the causes have outgrown a backend's slots"
assert OUTCOME + len(OUTCOMES) <= CONFIG_LAST_SEEN_MS, "the outcomes have outgrown their slots"


class BackendCounts(NamedTuple):
    """Packets of one backend. last_seen_ms: of the monotonic clock, 0 = never."""

    forwarded: tuple[int, int, int]
    returned: int
    last_seen_ms: int


class UnconfiguredCounts(NamedTuple):
    """Packets that carry a config ID which nobody has configured. last_seen_ms: of the monotonic clock, 0 = never."""

    packets: int
    last_seen_ms: int


class Sample(NamedTuple):
    """The last datagram that was dropped for one reason. octets: its first 64; length: of all of it."""

    octets: bytes
    length: int
    seen_ms: int


class Counters:
    """Count on behalf of one worker.

    Public slots are written directly by planes; the methods count what happens once per packet.
    """

    __slots__ = ("_octets", "slots")

    def __init__(self, memory: bytearray | memoryview) -> None:
        """Lay the counters over writable memory of SIZE_BYTES octets; what it holds is gone on with."""
        self._octets = memoryview(memory).cast("B")
        self.slots = self._octets.cast("Q")

    def count(self, outcome: int, index: int, now_ms: int) -> None:
        """Count a packet that was handled. index: of its backend, -1 for a drop. now_ms: monotonic clock."""
        slots = self.slots
        slots[OUTCOME + outcome] += 1
        route = ROUTE_OF[outcome]
        if route >= 0:
            at = BACKEND + BACKEND_SLOTS * index
            slots[at + route] += 1
            slots[at + LAST_SEEN_MS] = now_ms
            if not route:
                slots[CONFIG_LAST_SEEN_MS + outcome] = now_ms

    def count_unconfigured(self, config_id: int, now_ms: int) -> None:
        """Count a short header whose ID carries a config ID that no configuration has."""
        self.slots[UNCONFIGURED + config_id] += 1
        self.slots[UNCONFIGURED_LAST_SEEN_MS + config_id] = now_ms

    def keep_sample(self, outcome: int, datagram: bytes, now_ms: int) -> None:
        """Keep the beginning of a datagram that was dropped, in place of the one before it."""
        at = SAMPLE + SAMPLE_SLOTS * outcome
        octets = datagram[:SAMPLE_BYTES]
        self.slots[at] = now_ms
        self.slots[at + 1] = len(datagram)
        self._octets[8 * (at + 2) : 8 * (at + 2) + len(octets)] = octets

    def sample(self, outcome: int) -> Sample:
        """Return the last datagram with this outcome; seen_ms is 0 where there was none."""
        at = SAMPLE + SAMPLE_SLOTS * outcome
        seen_ms, length = self.slots[at], self.slots[at + 1]
        start = 8 * (at + 2)
        return Sample(bytes(self._octets[start : start + min(length, SAMPLE_BYTES)]), length, seen_ms)

    def count_received(self, packets: int, size_bytes: int) -> None:
        """Count what came from clients, before anything is decided."""
        self.slots[PACKETS_RECEIVED] += packets
        self.slots[BYTES_RECEIVED] += size_bytes

    def count_returned(self, index: int) -> None:
        """Count a packet that went from a backend to its client."""
        self.slots[BACKEND + BACKEND_SLOTS * index + RETURNED] += 1

    def count_send_error(self, kind: int, index: int = -1, size_bytes: int = 0) -> None:
        """Count a refused call to send.

        kind: index in SEND_ERROR_KINDS. index: of the backend; -1 if the datagram was for a client.
        size_bytes: octets of the datagram.
        """
        self.slots[SEND_ERRORS] += 1
        if index < 0:
            self.slots[RETURN_SEND_ERRORS + kind] += 1
            return
        at = BACKEND + BACKEND_SLOTS * index
        self.slots[at + BACKEND_SEND_ERRORS + kind] += 1
        if kind == TOO_LARGE:
            self.slots[at + TOO_LARGE_BYTES] = size_bytes

    def settle(self) -> int:
        """After the worker was killed: count what it received and never accounted for as drops; return how many.

        Its sessions are gone with it.
        """
        missing = self.slots[PACKETS_RECEIVED] - sum(self.slots[OUTCOME : OUTCOME + len(OUTCOMES)])
        if missing > 0:
            self.slots[OUTCOME + DROP_WORKER_DIED] += missing
        self.slots[SESSIONS] = self.slots[SESSIONS_PROTECTED] = 0
        return max(missing, 0)


def total(workers: Sequence[Counters], slot: int) -> int:
    """Return one slot, summed over workers."""
    return sum(counters.slots[slot] for counters in workers)


def total_outcomes(workers: Sequence[Counters]) -> tuple[int, ...]:
    """Return packets by outcome, in the order of OUTCOMES."""
    return tuple(total(workers, OUTCOME + outcome) for outcome in range(len(OUTCOMES)))


def total_return_send_errors(workers: Sequence[Counters]) -> dict[str, int]:
    """Return refused calls to send to clients by cause, all of SEND_ERROR_KINDS."""
    return {kind: total(workers, RETURN_SEND_ERRORS + number) for number, kind in enumerate(SEND_ERROR_KINDS)}


def total_backend_send_errors(workers: Sequence[Counters], index: int) -> dict[str, int]:
    """Return refused calls to send to one backend by cause, all of SEND_ERROR_KINDS."""
    at = BACKEND + BACKEND_SLOTS * index + BACKEND_SEND_ERRORS
    return {kind: total(workers, at + number) for number, kind in enumerate(SEND_ERROR_KINDS)}


def last_too_large_bytes(workers: Sequence[Counters], index: int) -> int:
    """Return octets of a datagram that was too large for the path to one backend; 0 if none was."""
    at = BACKEND + BACKEND_SLOTS * index + TOO_LARGE_BYTES
    return max((counters.slots[at] for counters in workers), default=0)


def total_backend(workers: Sequence[Counters], index: int) -> BackendCounts:
    """Return one backend's counts."""
    at = BACKEND + BACKEND_SLOTS * index
    by_cid, by_flow, by_fallback = (total(workers, at + route) for route in range(3))
    last_seen_ms = max((counters.slots[at + LAST_SEEN_MS] for counters in workers), default=0)
    return BackendCounts((by_cid, by_flow, by_fallback), total(workers, at + RETURNED), last_seen_ms)


def config_last_seen_ms(workers: Sequence[Counters], config_id: int) -> int:
    """Return when an ID under a config was last routed: milliseconds of the monotonic clock, 0 = never."""
    assert 0 <= config_id < CONFIG_IDS
    return max((counters.slots[CONFIG_LAST_SEEN_MS + config_id] for counters in workers), default=0)


def total_unconfigured(workers: Sequence[Counters], config_id: int) -> UnconfiguredCounts:
    """Return what has carried a config ID while nobody had configured it."""
    assert 0 <= config_id < CONFIG_IDS
    at = UNCONFIGURED_LAST_SEEN_MS + config_id
    last_seen_ms = max((counters.slots[at] for counters in workers), default=0)
    return UnconfiguredCounts(total(workers, UNCONFIGURED + config_id), last_seen_ms)


def last_sample(workers: Sequence[Counters], outcome: int) -> Sample:
    """Return the latest of all workers' samples of one outcome."""
    none = Sample(b"", 0, 0)
    return max((counters.sample(outcome) for counters in workers), key=lambda sample: sample.seen_ms, default=none)
