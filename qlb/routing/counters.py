"""The counters of one worker: a flat array of unsigned 64-bit integers in memory that two processes share.

Each array has one writer, the worker, so there are no locks; the supervisor reads it. This file defines the layout, and
`make generate` writes it for C. Sizes are in 64-bit slots. The memory is sparse: untouched slots use no memory.
"""

from bisect import bisect_left
from typing import Final, NamedTuple

from qlb.routing.backends import MAX_BACKENDS
from qlb.routing.outcomes import DROP_WORKER_DIED, OUTCOMES, ROUTE_OF

_NS: Final = 1_000_000_000

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
"""totals.py describes the slots above. Datagrams in ICMP_FORWARDED and ICMP_SENT are in none of the sums of packets."""
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
FORWARDED_BYTES: Final = 6
RETURNED_BYTES: Final = 7
"""Octets of UDP payload. They are in the same cache line as the counters of packets, because each send adds to both."""
BACKEND_SEND_ERRORS: Final = 8
"""First of one counter for each of SEND_ERROR_KINDS: failed calls to send to this backend."""
NEW_FLOWS: Final = 16
"""Forwarded datagrams for which begins_flow() in router.py is true. The counters by route include them."""
BACKEND_SLOTS: Final = 24
"""A multiple of 8, so that a backend's first eight slots are one cache line."""

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

CPU_NS: Final = SHOWN + SHOWN_SLOTS * MAX_BACKENDS
"""Processor time that the slot's workers have used since their assignment, one after the other."""
RESIDENT_BYTES: Final = CPU_NS + 1
"""Memory of the present worker; 0 = not known."""
DIRECTIONS: Final = ("backend", "client")
TO_BACKEND: Final = 0
TO_CLIENT: Final = 1
LATENCY_BOUNDS_US: Final = (
    *(10, 25, 50, 100, 250, 500),
    *(1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000),
)
"""Upper bounds of the buckets of the added latency; one more bucket has no bound."""
MAX_LATENCY_NS: Final = 60 * _NS
"""A longer time is not counted: the system's clock was set while the packet waited."""
LATENCY: Final = RESIDENT_BYTES + 1
"""First of LATENCY_SLOTS for each of DIRECTIONS: samples by bucket, and their sum in nanoseconds."""
LATENCY_BUCKETS: Final = len(LATENCY_BOUNDS_US) + 1
LATENCY_SLOTS: Final = LATENCY_BUCKETS + 1
LATENCY_EVERY: Final = 64
"""A plane measures the first datagram of every 64th batch that it receives."""
SLOTS: Final = LATENCY + LATENCY_SLOTS * len(DIRECTIONS)
SIZE_BYTES: Final = 8 * SLOTS
"""17 MiB of address space for a worker, of which it uses a few pages."""

assert BACKEND_SEND_ERRORS + len(SEND_ERROR_KINDS) <= NEW_FLOWS, "the causes have outgrown a backend's slots"
assert OUTCOME + len(OUTCOMES) <= CONFIG_LAST_SEEN_MS, "the outcomes have outgrown their slots"


class BackendCounts(NamedTuple):
    """Packets of one backend. last_seen_ms: of the monotonic clock, 0 = never."""

    forwarded: tuple[int, int, int]
    returned: int
    last_seen_ms: int


class Latency(NamedTuple):
    """Samples of the added latency in one direction. buckets: samples in each bucket, the one without a bound last."""

    buckets: tuple[int, ...]
    sum_ns: int


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

    def count(self, outcome: int, index: int, now_ms: int, size_bytes: int = 0) -> None:
        """Count a handled packet. index: of its backend, -1 for a drop. now_ms: monotonic clock.

        size_bytes: octets of a forwarded datagram. Those of a dropped one are not counted.
        """
        slots = self.slots
        slots[OUTCOME + outcome] += 1
        route = ROUTE_OF[outcome]
        if route >= 0:
            at = BACKEND + BACKEND_SLOTS * index
            slots[at + route] += 1
            slots[at + LAST_SEEN_MS] = now_ms
            slots[at + FORWARDED_BYTES] += size_bytes
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

    def count_new_flow(self, index: int) -> None:
        """Count a forwarded datagram that began a flow, beside count()."""
        self.slots[BACKEND + BACKEND_SLOTS * index + NEW_FLOWS] += 1

    def count_returned(self, index: int, size_bytes: int) -> None:
        """Count a packet that was sent from a backend to its client."""
        at = BACKEND + BACKEND_SLOTS * index
        self.slots[at + RETURNED] += 1
        self.slots[at + RETURNED_BYTES] += size_bytes

    def count_latency(self, direction: int, taken_ns: int) -> None:
        """Count a sample of the added latency. direction: index in DIRECTIONS. Omit a time that cannot be true."""
        if not 0 <= taken_ns <= MAX_LATENCY_NS:
            return
        at = LATENCY + LATENCY_SLOTS * direction
        self.slots[at + bisect_left(LATENCY_BOUNDS_US, taken_ns / 1000)] += 1
        self.slots[at + LATENCY_BUCKETS] += taken_ns

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

        The gauges of sessions and memory become 0: the sessions and the memory ended with the worker.
        """
        missing = self.slots[PACKETS_RECEIVED] - sum(self.slots[OUTCOME : OUTCOME + len(OUTCOMES)])
        if missing > 0:
            self.slots[OUTCOME + DROP_WORKER_DIED] += missing
        self.slots[SESSIONS] = self.slots[SESSIONS_PROTECTED] = self.slots[RESIDENT_BYTES] = 0
        return max(missing, 0)
