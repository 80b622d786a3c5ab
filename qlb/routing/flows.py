"""Bounded tables of decisions for packets with unroutable IDs. A lost entry breaks no routable connection.

The router looks a packet up here only if its connection ID is unroutable. An entry expires when it was not used for
the timeout; a full table removes the least recently used one.

Spec: draft-ietf-quic-load-balancers, sections "Load Balancer Forwarding" (steps 2 to 4) and "Baseline
Fallback Algorithm".
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from qlb.addresses import FourTuple

MISS: Final = -1

_EXPIRED_PER_INSERT: Final = 2
"""Expired entries removed on each insert: more than one, so they disappear without a scan of the whole table."""

MIN_DESTINATION_ID_BYTES: Final = 8
"""Shorter destination IDs are not remembered because they are not unique enough. A client's first destination ID has at
least 8 octets (RFC 9000, section 7.2)."""

KEPT_ID_BYTES: Final = 24
"""Octets of a connection ID that a key contains, so that keys in C and in the kernel have a fixed size. QUIC versions 1
and 2 allow 20. Longer IDs of equal length that begin with the same octets count as one flow."""


def id_key(cid: bytes) -> Hashable:
    """Return the key of an ID in a table: the ID, or start and length if it is long. cid: 0 to 255 octets."""
    return cid if len(cid) <= KEPT_ID_BYTES else (cid[:KEPT_ID_BYTES], len(cid))


class FlowTable:
    """A table key → backend index of at most ``size`` entries, each valid for ``timeout_s`` after its last use.

    Entries are in the order of last use, so the first one is the oldest. A table of size 0 remembers nothing.
    An OrderedDict, because a plain dict finds its first entry by walking over all deleted ones before it: 27 µs in a
    full table of 65,536 entries, against 0.8 µs.
    """

    __slots__ = ("_entries", "size", "timeout_s")

    def __init__(self, size: int, timeout_s: float) -> None:
        """Start empty. size: entries. timeout_s: seconds."""
        self.size = size
        self.timeout_s = timeout_s
        self._entries: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of entries, including expired ones that were not removed yet."""
        return len(self._entries)

    def get(self, key: Hashable, now_s: float) -> int:
        """Return the backend index, or MISS. Only remember() counts as a use. now_s: seconds, monotonic."""
        entry = self._entries.get(key)
        return MISS if entry is None or entry[1] <= now_s else entry[0]

    def remember(self, key: Hashable, index: int, now_s: float) -> None:
        """Set or renew an entry; in a full table, replace the oldest one. now_s: seconds, monotonic."""
        entries = self._entries
        if key in entries:
            entries.move_to_end(key)
        else:
            self._make_room(now_s)
        if self.size:
            entries[key] = (index, now_s + self.timeout_s)

    def resize(self, size: int, timeout_s: float) -> None:
        """Apply new bounds. Entries beyond the size are removed, the least recently used ones first."""
        self.size, self.timeout_s = size, timeout_s
        while len(self._entries) > size:
            self._entries.popitem(last=False)

    def _make_room(self, now_s: float) -> None:
        entries = self._entries
        for _ in range(_EXPIRED_PER_INSERT):
            if entries and next(iter(entries.values()))[1] <= now_s:
                self._entries.popitem(last=False)
        if entries and len(entries) >= self.size:
            self._entries.popitem(last=False)


class FlowTables:
    """The three tables of the draft's forwarding steps 2, 3 and 4, of equal bounds."""

    __slots__ = ("by_destination_id", "by_four_tuple", "by_source_id")

    def __init__(self, size: int, timeout_s: float) -> None:
        """Start empty. size: entries of each table. timeout_s: seconds after the last use."""
        self.by_source_id = FlowTable(size, timeout_s)
        self.by_destination_id = FlowTable(size, timeout_s)
        self.by_four_tuple = FlowTable(size, timeout_s)

    def remember_long(self, four_tuple: FourTuple, dcid: bytes, scid: bytes, index: int, now_s: float) -> None:
        """Remember the flow of a long header in all three tables; a short destination ID is left out."""
        self.by_source_id.remember((four_tuple, id_key(scid)), index, now_s)
        if len(dcid) >= MIN_DESTINATION_ID_BYTES:
            self.by_destination_id.remember(id_key(dcid), index, now_s)
        self.by_four_tuple.remember(four_tuple, index, now_s)

    def resize(self, size: int, timeout_s: float) -> None:
        """Apply new bounds to all three tables. size: entries. timeout_s: seconds."""
        for table in (self.by_source_id, self.by_destination_id, self.by_four_tuple):
            table.resize(size, timeout_s)
