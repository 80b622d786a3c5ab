"""The draft's five forwarding steps, in order. A datagram and its 4-tuple become an outcome and a backend.

1. The ID decodes to a backend: forward there, whatever the backend's state. Only that backend has the keys.
2. A long header with a known 4-tuple and source ID: forward as before.
3. A long header with a known destination ID: forward as before.
4. A known 4-tuple: forward as before.
5. Otherwise the fallback hashes the 4-tuple. Steps 2 to 4 find the next packets of the flow by this decision.

A backend that accepts no new connections still receives the flows that the tables know. There are two exceptions, for
long headers only, since those may begin a connection. An unhealthy backend receives none while another backend can
answer. A draining backend receives no new connection because of an old one with the same 4-tuple.

The packet path never raises and never logs; time is an argument.

Spec: draft-ietf-quic-load-balancers, section "Load Balancer Forwarding".
"""

from typing import Final

from qlb.addresses import FourTuple
from qlb.routing.backends import Backend
from qlb.routing.flows import MISS, FlowTables, id_key
from qlb.routing.outcomes import (
    BY_DESTINATION_ID,
    BY_FALLBACK,
    BY_FOUR_TUPLE,
    BY_SOURCE_ID,
    DROP_EMPTY,
    DROP_NO_BACKEND,
    DROP_TRUNCATED,
    DROP_VERSION_NEGOTIATION,
    LENGTH_MISMATCH,
    NO_CONFIG,
    RESERVED_CONFIG,
    TOO_SHORT,
    UNKNOWN_SERVER_ID,
    unroutable,
)
from qlb.routing.snapshot import Snapshot
from qlb.wire.invariants import EMPTY, LONG, TRUNCATED, parse
from qlb.wire.versions import VERSION_NEGOTIATION

Decision = tuple[int, int]
"""(outcome, backend index); the index is -1 for a drop."""

_LENGTH_MASK: Final = 0x1F
_LONG_HEADER_BIT: Final = 0x80
_SHORT_WITHOUT_CONFIG: Final = (unroutable(BY_FOUR_TUPLE, NO_CONFIG), unroutable(BY_FALLBACK, NO_CONFIG))
_SHORT_OF_NOBODY: Final = (unroutable(BY_FOUR_TUPLE, UNKNOWN_SERVER_ID), unroutable(BY_FALLBACK, UNKNOWN_SERVER_ID))
_RESERVED: Final = 7
_STEP_4: Final = unroutable(BY_FOUR_TUPLE, 0)
_FIRST_DROP: Final = DROP_EMPTY


class Router:
    """The decision maker of one data plane, with the current snapshot and its own flow tables."""

    __slots__ = ("flows", "snapshot")

    def __init__(self, snapshot: Snapshot, flows: FlowTables) -> None:
        """Start with a snapshot. Assign ``snapshot`` to replace it; a decision in progress ends with the old one."""
        self.snapshot = snapshot
        self.flows = flows

    def decide(self, datagram: bytes, four_tuple: FourTuple, now_s: float) -> Decision:
        """Return (outcome, backend index) of one datagram.

        datagram: 0 to 65,527 octets, any content. now_s: seconds, monotonic. Never raises.
        Spec: draft-ietf-quic-load-balancers, section "Load Balancer Forwarding".
        """
        form, version, dcid, scid = parse(datagram)
        if form == LONG:
            if version == VERSION_NEGOTIATION:
                return DROP_VERSION_NEGOTIATION, -1
        elif form == EMPTY:
            return DROP_EMPTY, -1
        elif form == TRUNCATED:
            return DROP_TRUNCATED, -1
        snapshot = self.snapshot
        index = find(snapshot, form, dcid)
        if index >= 0:
            return dcid[0] >> 5, index
        if form == LONG:
            return self._unroutable_long(snapshot, ~index, four_tuple, dcid, scid, now_s)
        return self._unroutable_short(snapshot, ~index, four_tuple, now_s)

    def _unroutable_long(
        self, snapshot: Snapshot, reason: int, four_tuple: FourTuple, dcid: bytes, scid: bytes, now_s: float
    ) -> Decision:
        step, index = look_up_long(snapshot, self.flows, four_tuple, dcid, scid, now_s)
        if index < 0:
            step, index = BY_FALLBACK, snapshot.fallback_backend(four_tuple)
            if index < 0:
                return DROP_NO_BACKEND, -1
        self.flows.remember_long(four_tuple, dcid, scid, index, now_s)
        return unroutable(step, reason), index

    def _unroutable_short(self, snapshot: Snapshot, reason: int, four_tuple: FourTuple, now_s: float) -> Decision:
        step, index = BY_FOUR_TUPLE, self.flows.by_four_tuple.get(four_tuple, now_s)
        if backend_of(snapshot, index) is None:
            step, index = BY_FALLBACK, snapshot.fallback_backend(four_tuple)
            if index < 0:
                return DROP_NO_BACKEND, -1
        self.flows.by_four_tuple.remember(four_tuple, index, now_s)
        return unroutable(step, reason), index


def find(snapshot: Snapshot, form: int, dcid: bytes) -> int:
    """Step 1: return the backend index that a destination ID decodes to, or ~reason if it is unroutable.

    dcid: first octet included; of a short header, all octets after the first octet of the header.
    """
    if not dcid:
        return ~TOO_SHORT
    first = dcid[0]
    config = snapshot.configs[first >> 5]
    if config is None:
        return ~RESERVED_CONFIG if first >> 5 == _RESERVED else ~NO_CONFIG
    # Only a long header states a length to compare with the first octet. The check is optional because some servers
    # encode another length: Envoy does not count the octet that it appends.
    if form == LONG and config.codec.params.length_self_encoded and (first & _LENGTH_MASK) + 1 != len(dcid):
        return ~LENGTH_MISMATCH
    return config.find(dcid)


def unconfigured_id(outcome: int, datagram: bytes) -> int:
    """Return the config ID of a short header's ID if no CID config has it; MISS for any other datagram.

    outcome: of this datagram. A server issues such IDs from a CID config that this balancer does not have (any more).
    """
    if outcome not in _SHORT_WITHOUT_CONFIG or datagram[0] & _LONG_HEADER_BIT:
        return MISS
    return datagram[1] >> 5


def begins_flow(outcome: int, datagram: bytes) -> bool:
    """Return whether a forwarded datagram began a flow: it has a long header, and steps 1 to 3 did not know its IDs.

    outcome: of this datagram. A known 4-tuple does not matter, because a client may use a port again. The balancer
    cannot verify that the datagram is a client's first packet.
    """
    return _STEP_4 <= outcome < _FIRST_DROP and datagram[0] & _LONG_HEADER_BIT != 0


def unknown_id(outcome: int, datagram: bytes) -> int:
    """Return the config ID of a short header's ID if it decodes to no backend's server ID; MISS for any other datagram.

    outcome: of this datagram. A server with another key or server ID issues such IDs.
    """
    if outcome not in _SHORT_OF_NOBODY or datagram[0] & _LONG_HEADER_BIT:
        return MISS
    return datagram[1] >> 5


def look_up_long(
    snapshot: Snapshot, flows: FlowTables, four_tuple: FourTuple, dcid: bytes, scid: bytes, now_s: float
) -> Decision:
    """Steps 2 to 4 for a long header: return (step, backend index), or step 4 and MISS."""
    index = flows.by_source_id.get((four_tuple, id_key(scid)), now_s)
    # An empty source ID does not distinguish connections, so this entry is worth no more than one of the 4-tuple.
    if _may_continue(snapshot, index) if scid else _may_begin(snapshot, index):
        return BY_SOURCE_ID, index
    index = flows.by_destination_id.get(id_key(dcid), now_s)
    if _may_continue(snapshot, index):
        return BY_DESTINATION_ID, index
    index = flows.by_four_tuple.get(four_tuple, now_s)
    return BY_FOUR_TUPLE, index if _may_begin(snapshot, index) else MISS


def _may_continue(snapshot: Snapshot, index: int) -> bool:
    """Return whether a handshake in progress stays here: the backend is healthy, or no backend accepts new ones."""
    backend = backend_of(snapshot, index)
    return backend is not None and (backend.healthy or not snapshot.fallback)


def _may_begin(snapshot: Snapshot, index: int) -> bool:
    """Return whether a possibly new connection may follow its 4-tuple to this backend."""
    backend = backend_of(snapshot, index)
    return backend is not None and backend.accepts_new


def backend_of(snapshot: Snapshot, index: int) -> Backend | None:
    """Return the backend of a table entry; None for a miss, or if the backend was removed since."""
    return snapshot.backends[index] if 0 <= index < len(snapshot.backends) else None
