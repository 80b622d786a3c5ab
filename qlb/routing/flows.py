"""Bounded tables of decisions for packets whose IDs are unroutable. Losing one loses no routable connection.

A packet is here only after its connection ID told nothing. An entry that is used stays; one that is idle
for the timeout goes, and so does the least recently used one when a table is full.

Spec: draft-ietf-quic-load-balancers, sections "Load Balancer Forwarding" (steps 2 to 4) and "Baseline
Fallback Algorithm".
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from qlb.addresses import FourTuple

MISS: Final = -1

_EXPIRED_PER_INSERT: Final = 2
"""Entries dropped on each insert: more than are added, so idle entries drain without a sweep of everything."""

MIN_DESTINATION_ID_BYTES: Final = 8
"""Shorter destination IDs are not remembered: they are not unique enough. Clients begin with 8 or more octets
(RFC 9000, section 7.2)."""

KEPT_ID_BYTES: Final = 24
"""Octets of a connection ID that a key keeps, so that keys in C and in the kernel have one size. QUIC versions 1
and 2 have 20 at most; who invents longer ones that begin alike has made one flow of them."""


def id_key(cid: bytes) -> Hashable:
    """Return what an ID is known by in a table. cid: 0 to 255 octets; beyond KEPT_ID_BYTES start and length count."""
    return cid if len(cid) <= KEPT_ID_BYTES else (cid[:KEPT_ID_BYTES], len(cid))


class FlowTable:
    """Key → backend index, at most ``size`` entries, each for ``timeout_s`` after its last use.

    Entries are kept in the order of last use, so the oldest is always the first. size 0: remembers nothing.
    An OrderedDict, since a plain dict finds its first entry by walking over all that were deleted before it:
    27 µs in a full table of 65,536, against 0.8.
    """

    __slots__ = ("_entries", "size", "timeout_s")

    def __init__(self, size: int, timeout_s: float) -> None:
        """Start empty. size: entries. timeout_s: seconds."""
        self.size = size
        self.timeout_s = timeout_s
        self._entries: OrderedDict[Hashable, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        """Entries that are held, expired ones that nobody has asked for included."""
        return len(self._entries)

    def get(self, key: Hashable, now_s: float) -> int:
        """Return the backend index, or MISS. Does not count as a use: remember() does."""
        entry = self._entries.get(key)
        return MISS if entry is None or entry[1] <= now_s else entry[0]

    def remember(self, key: Hashable, index: int, now_s: float) -> None:
        """Set or renew an entry; makes room where there is none."""
        entries = self._entries
        if key in entries:
            entries.move_to_end(key)
        else:
            self._make_room(now_s)
        if self.size:
            entries[key] = (index, now_s + self.timeout_s)

    def resize(self, size: int, timeout_s: float) -> None:
        """Apply new bounds to what is there: the least recently used entries go first."""
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
        """Remember a long header's flow under all that the flow can be known by later."""
        self.by_source_id.remember((four_tuple, id_key(scid)), index, now_s)
        if len(dcid) >= MIN_DESTINATION_ID_BYTES:
            self.by_destination_id.remember(id_key(dcid), index, now_s)
        self.by_four_tuple.remember(four_tuple, index, now_s)

    def resize(self, size: int, timeout_s: float) -> None:
        """Apply new bounds to all three."""
        for table in (self.by_source_id, self.by_destination_id, self.by_four_tuple):
            table.resize(size, timeout_s)
