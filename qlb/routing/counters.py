"""The counters of one worker: a flat array of unsigned 64-bit integers in memory that two processes share.

Each array has one writer, the worker, so there are no locks; the supervisor reads it. This file defines the layout, and
`make generate` writes it for C. Sizes are in 64-bit slots. The memory is sparse: untouched slots use no memory.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from qlb.routing.backends import MAX_BACKENDS
from qlb.routing.outcomes import CONFIG_IDS, DROP_WORKER_DIED, OUTCOMES, ROUTE_OF

PACKETS_RECEIVED: Final = 0
BYTES_RECEIVED: Final = 1
SESSIONS: Final = 2
SESSIONS_EVICTED: Final = 3
RETURN_DROPPED: Final = 4
RETURN_OVERFLOWED: Final = 5
SEND_ERRORS: Final = 6
"""Failed calls to send, in both directions. The counters by cause add up to it."""
SESSIONS_REOPENED: Final = 7
SESSIONS_PROTECTED: Final = 8
RETURN_PAUSES: Final = 9
WRONG_IDS: Final = 10
"""Connection IDs in servers' answers that do not lead back to the server; the counters of backends add up to it."""
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
"""Causes of a failed send. A call counts once, for any number of packets, even if a second try succeeded. So these are
not packets, and no sum of packets includes them."""
TOO_LARGE: Final = SEND_ERROR_KINDS.index("too_large")
ICMP_FORWARDED: Final = 12
ICMP_SENT: Final = 13
"""TOTALS describes the slots above. Datagrams in ICMP_FORWARDED and ICMP_SENT are in none of the sums of packets."""
HEARTBEAT_MS: Final = 14
"""Milliseconds of the monotonic clock when the worker's plane last began a round; at least once a second, 0 = never."""

OUTCOME: Final = 16
"""First of one counter for each outcome."""
CONFIG_LAST_SEEN_MS: Final = 80
"""First of one time for each config ID: when an ID of its CID config was last routed, in milliseconds of the monotonic
clock, 0 = never."""
UNCONFIGURED: Final = 88
"""First of one counter for each config ID: short headers with an ID of a CID config that is not configured. Their
outcomes count them too. The cause is a server with another configuration, or an ID that outlives its CID config."""
UNCONFIGURED_LAST_SEEN_MS: Final = 96
UNKNOWN: Final = 104
"""First of one counter for each config ID: short headers with an ID that decodes under that CID config to a server ID
of no backend. Their outcomes count them too. Random octets look like this, so a few of them prove nothing."""
UNKNOWN_LAST_SEEN_MS: Final = 112
BACKEND: Final = 120
"""First of BACKEND_SLOTS for each backend index."""

FORWARDED: Final = 0
"""First of three in a backend's slots: by cid, flow, fallback."""
RETURNED: Final = 3
LAST_SEEN_MS: Final = 4
TOO_LARGE_BYTES: Final = 5
"""Octets of the last datagram that was too large for the path to the backend; 0 = none."""
BACKEND_SEND_ERRORS: Final = 8
"""First of one counter for each of SEND_ERROR_KINDS: failed calls to send to this backend."""
BACKEND_SLOTS: Final = 16

SAMPLE: Final = BACKEND + BACKEND_SLOTS * MAX_BACKENDS
"""First of SAMPLE_SLOTS for each outcome that is a drop: the last such datagram, for operators."""
SAMPLE_SLOTS: Final = 10
"""The time (milliseconds of the monotonic clock), the length, and the first SAMPLE_BYTES octets."""
SAMPLE_BYTES: Final = 64

RETURN_SEND_ERRORS: Final = SAMPLE + SAMPLE_SLOTS * len(OUTCOMES)
"""First of one counter for each of SEND_ERROR_KINDS: failed calls to send to clients."""

SHOWN: Final = RETURN_SEND_ERRORS + len(SEND_ERROR_KINDS)
"""First of SHOWN_SLOTS for each backend index: the connection IDs in the backend's answers, one for each connection.
They begin with three counters, by SHOWN_KINDS."""
SHOWN_KINDS: Final = ("right", "wrong", "unroutable")
"""The ID leads back to the backend; it does not; it is unroutable on purpose: empty, or of the reserved config ID."""
SHOWN_UNKNOWN: Final = 3
"""Short headers as in UNKNOWN, from clients that this backend has answered with a long header. Such a client has its
IDs from this server, unless the client is malicious."""
SHOWN_LENGTH: Final = 4
"""Octets of the last wrong ID."""
SHOWN_ID: Final = 5
"""The last wrong ID: up to SHOWN_ID_BYTES octets."""
SHOWN_ID_BYTES: Final = 24
SHOWN_SLOTS: Final = 8

SLOTS: Final = SHOWN + SHOWN_SLOTS * MAX_BACKENDS
SIZE_BYTES: Final = 8 * SLOTS
"""12 MiB of address space for a worker, of which it uses a few pages."""

NO_SLOT: Final = -1
"""The slot of a total that the supervisor counts itself."""


class Total(NamedTuple):
    """A number of the whole daemon. /metrics, /status and the page show every row of TOTALS.

    slot: in the counters of each worker, summed over the workers. name: in /status. metric: in /metrics, without
    ``_total``. kind: ``counter`` or ``gauge``. only_direct_return: the metric exists only in the direct-return modes.
    """

    slot: int
    name: str
    metric: str
    kind: str
    text: str
    only_direct_return: bool = False


# One row for each total, short enough to read as a table.
# fmt: off
TOTALS: Final = (
    Total(PACKETS_RECEIVED, "received_packets", "qlb_packets_received", "counter",
          "Datagrams received from clients."),
    Total(BYTES_RECEIVED, "received_bytes", "qlb_bytes_received", "counter",
          "Octets of UDP payload received from clients."),
    Total(RETURN_DROPPED, "return_dropped_packets", "qlb_return_packets_dropped", "counter",
          "Datagrams from backends that could not be sent to their clients."),
    Total(RETURN_OVERFLOWED, "return_overflowed_packets", "qlb_return_overflowed_packets", "counter",
          "Datagrams from backends that the system dropped because a session's receive queue was full; a plane may "
          "learn of them only when the session closes."),
    Total(ICMP_FORWARDED, "icmp_forwarded", "qlb_icmp_forwarded", "counter",
          "ICMP errors about servers' packets that were forwarded to the server concerned.", only_direct_return=True),
    Total(ICMP_SENT, "icmp_sent", "qlb_icmp_sent", "counter",
          "ICMP messages sent to clients whose packets were too big to be forwarded.", only_direct_return=True),
    Total(SESSIONS, "sessions", "qlb_sessions", "gauge", "Open sessions."),
    Total(NO_SLOT, "sessions_max", "qlb_sessions_max", "gauge",
          "Sessions that may be open at once, in all workers."),
    Total(SESSIONS_EVICTED, "sessions_evicted", "qlb_sessions_evicted", "counter",
          "Sessions that were closed before their timeout to make room."),
    Total(SESSIONS_PROTECTED, "sessions_protected", "qlb_sessions_protected", "gauge",
          "Open sessions that their clients used in two separate seconds; evicted last."),
    Total(SESSIONS_REOPENED, "sessions_reopened", "qlb_sessions_reopened", "counter",
          "Sessions that got a new socket because the old one did not work any more."),
    Total(RETURN_PAUSES, "return_pauses", "qlb_return_pauses", "counter",
          "Times that a worker paused reading from a session because the send queue to clients was filling up."),
    Total(WRONG_IDS, "wrong_ids", "qlb_wrong_cids_shown", "counter",
          "Connection IDs in backends' answers that do not lead back to the backend, one for each connection."),
    Total(NO_SLOT, "worker_restarts", "qlb_worker_restarts", "counter", "Workers that died and were replaced."),
    Total(NO_SLOT, "worker_hangs", "qlb_worker_hangs", "counter",
          "Workers that were killed because they hung; they count as restarts too."),
)
# fmt: on

assert BACKEND_SEND_ERRORS + len(SEND_ERROR_KINDS) <= BACKEND_SLOTS, "the causes have outgrown a backend's slots"
assert OUTCOME + len(OUTCOMES) <= CONFIG_LAST_SEEN_MS, "the outcomes have outgrown their slots"


class BackendCounts(NamedTuple):
    """Packets of one backend. last_seen_ms: of the monotonic clock, 0 = never."""

    forwarded: tuple[int, int, int]
    returned: int
    last_seen_ms: int


class UnconfiguredCounts(NamedTuple):
    """Packets with an ID that leads nowhere, of one config ID. last_seen_ms: of the monotonic clock, 0 = never."""

    packets: int
    last_seen_ms: int


class Sample(NamedTuple):
    """The last datagram with one drop outcome. octets: its first 64. length: of the whole datagram."""

    octets: bytes
    length: int
    seen_ms: int


class Counters:
    """The counters of one worker.

    Planes write to ``slots`` directly, except for the counts of each packet, which have methods.
    """

    __slots__ = ("_octets", "slots")

    def __init__(self, memory: bytearray | memoryview) -> None:
        """Use writable memory of SIZE_BYTES octets; counting continues from its values."""
        self._octets = memoryview(memory).cast("B")
        self.slots = self._octets.cast("Q")

    def count(self, outcome: int, index: int, now_ms: int) -> None:
        """Count a handled packet. index: of its backend, -1 for a drop. now_ms: monotonic clock."""
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
        """Count a short header whose ID has a config ID that is not configured."""
        self.slots[UNCONFIGURED + config_id] += 1
        self.slots[UNCONFIGURED_LAST_SEEN_MS + config_id] = now_ms

    def count_unknown(self, config_id: int, now_ms: int) -> None:
        """Count a short header whose ID decodes to a server ID of no backend."""
        self.slots[UNKNOWN + config_id] += 1
        self.slots[UNKNOWN_LAST_SEEN_MS + config_id] = now_ms

    def count_unknown_of(self, index: int) -> None:
        """Count the same for the backend that has answered this client before."""
        self.slots[SHOWN + SHOWN_SLOTS * index + SHOWN_UNKNOWN] += 1

    def count_shown(self, kind: int, index: int, cid: bytes) -> None:
        """Count the ID of a new connection in a backend's answer. kind: index in SHOWN_KINDS."""
        at = SHOWN + SHOWN_SLOTS * index
        self.slots[at + kind] += 1
        if SHOWN_KINDS[kind] == "wrong":
            self.slots[WRONG_IDS] += 1
            self.slots[at + SHOWN_LENGTH] = len(cid)
            octets = cid[:SHOWN_ID_BYTES]
            start = 8 * (at + SHOWN_ID)
            self._octets[start : start + len(octets)] = octets

    def last_wrong_id(self, index: int) -> bytes:
        """Return the last wrong ID of a backend, at most SHOWN_ID_BYTES octets of it; empty if there was none."""
        at = SHOWN + SHOWN_SLOTS * index
        start = 8 * (at + SHOWN_ID)
        return bytes(self._octets[start : start + min(self.slots[at + SHOWN_LENGTH], SHOWN_ID_BYTES)])

    def record_sample(self, outcome: int, datagram: bytes, now_ms: int) -> None:
        """Store the first octets of a dropped datagram, in place of the previous one."""
        at = SAMPLE + SAMPLE_SLOTS * outcome
        octets = datagram[:SAMPLE_BYTES]
        self.slots[at] = now_ms
        self.slots[at + 1] = len(datagram)
        self._octets[8 * (at + 2) : 8 * (at + 2) + len(octets)] = octets

    def sample(self, outcome: int) -> Sample:
        """Return the last datagram with this outcome; seen_ms is 0 if there was none."""
        at = SAMPLE + SAMPLE_SLOTS * outcome
        seen_ms, length = self.slots[at], self.slots[at + 1]
        start = 8 * (at + 2)
        return Sample(bytes(self._octets[start : start + min(length, SAMPLE_BYTES)]), length, seen_ms)

    def count_received(self, packets: int, size_bytes: int) -> None:
        """Count packets from clients, before the decision about them."""
        self.slots[PACKETS_RECEIVED] += packets
        self.slots[BYTES_RECEIVED] += size_bytes

    def count_returned(self, index: int) -> None:
        """Count a packet that was sent from a backend to its client."""
        self.slots[BACKEND + BACKEND_SLOTS * index + RETURNED] += 1

    def count_send_error(self, kind: int, index: int = -1, size_bytes: int = 0) -> None:
        """Count a failed call to send.

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
        """Count packets without an outcome as drops, after the worker was killed. Return how many they are.

        The gauges of sessions become 0: the sessions ended with the worker.
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
    """Return failed calls to send to clients by cause, all of SEND_ERROR_KINDS."""
    return {kind: total(workers, RETURN_SEND_ERRORS + number) for number, kind in enumerate(SEND_ERROR_KINDS)}


def total_backend_send_errors(workers: Sequence[Counters], index: int) -> dict[str, int]:
    """Return failed calls to send to one backend by cause, all of SEND_ERROR_KINDS."""
    at = BACKEND + BACKEND_SLOTS * index + BACKEND_SEND_ERRORS
    return {kind: total(workers, at + number) for number, kind in enumerate(SEND_ERROR_KINDS)}


def last_too_large_bytes(workers: Sequence[Counters], index: int) -> int:
    """Return the octets of a datagram that was too large for the path to one backend; 0 if there was none."""
    at = BACKEND + BACKEND_SLOTS * index + TOO_LARGE_BYTES
    return max((counters.slots[at] for counters in workers), default=0)


def total_backend(workers: Sequence[Counters], index: int) -> BackendCounts:
    """Return one backend's counts."""
    at = BACKEND + BACKEND_SLOTS * index
    by_cid, by_flow, by_fallback = (total(workers, at + route) for route in range(3))
    last_seen_ms = max((counters.slots[at + LAST_SEEN_MS] for counters in workers), default=0)
    return BackendCounts((by_cid, by_flow, by_fallback), total(workers, at + RETURNED), last_seen_ms)


def config_last_seen_ms(workers: Sequence[Counters], config_id: int) -> int:
    """Return when an ID of a CID config was last routed: milliseconds of the monotonic clock, 0 = never."""
    assert 0 <= config_id < CONFIG_IDS
    return max((counters.slots[CONFIG_LAST_SEEN_MS + config_id] for counters in workers), default=0)


def total_unconfigured(workers: Sequence[Counters], config_id: int) -> UnconfiguredCounts:
    """Return the packets with a config ID while it was not configured."""
    assert 0 <= config_id < CONFIG_IDS
    at = UNCONFIGURED_LAST_SEEN_MS + config_id
    last_seen_ms = max((counters.slots[at] for counters in workers), default=0)
    return UnconfiguredCounts(total(workers, UNCONFIGURED + config_id), last_seen_ms)


def total_unknown(workers: Sequence[Counters], config_id: int) -> UnconfiguredCounts:
    """Return the packets with IDs of a CID config that decode to a server ID of no backend."""
    assert 0 <= config_id < CONFIG_IDS
    at = UNKNOWN_LAST_SEEN_MS + config_id
    last_seen_ms = max((counters.slots[at] for counters in workers), default=0)
    return UnconfiguredCounts(total(workers, UNKNOWN + config_id), last_seen_ms)


def last_sample(workers: Sequence[Counters], outcome: int) -> Sample:
    """Return the latest of all workers' samples of one outcome."""
    none = Sample(b"", 0, 0)
    return max((counters.sample(outcome) for counters in workers), key=lambda sample: sample.seen_ms, default=none)
