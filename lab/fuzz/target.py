"""The fuzz target: octets become traffic for a router, and every invariant of the packet path is checked.

A plan is a sequence of (control, size, octets). The control octet selects the client, the form of the datagram, the
time that passes and the state of the pool. The target does not depend on the fuzzer that feeds it.
"""

from typing import Final

from lab import cid_oracle as oracle
from lab.pool import CONFIGS as PARAMS
from lab.pool import backends, changed, draining, long, short, snapshot
from qlb.addresses import FourTuple
from qlb.routing.backends import Backend, BackendState
from qlb.routing.counters import OUTCOME, PACKETS_RECEIVED, SIZE_BYTES, Counters
from qlb.routing.explain import explain
from qlb.routing.flows import FlowTables
from qlb.routing.outcomes import CONFIG_IDS, OUTCOMES
from qlb.routing.router import Router
from qlb.wire.invariants import EMPTY, LONG, MAX_ANY_CID_BYTES, SHORT, TRUNCATED, parse

_TABLE_SIZE: Final = 5
_MAX_PACKETS: Final = 60


def _textbook_parse(datagram: bytes) -> tuple[int, int, bytes, bytes]:
    """Parse RFC 8999 headers a second time, by reading from the front."""
    if not datagram:
        return EMPTY, 0, b"", b""
    if not datagram[0] & 0x80:
        return SHORT, 0, datagram[1:][:MAX_ANY_CID_BYTES], b""
    rest, taken = datagram[5:], []
    for _ in range(2):
        if not rest or len(rest) < 1 + rest[0]:
            return TRUNCATED, 0, b"", b""
        taken.append(rest[1 : 1 + rest[0]])
        rest = rest[1 + rest[0] :]
    return LONG, int.from_bytes(datagram[1:5], "big"), taken[0], taken[1]


class Target:
    """Pools that are compiled once. Each call of feed() uses a fresh pair of routers."""

    def __init__(self) -> None:
        """Compile the pool in all its states."""
        pools: list[list[Backend]] = [
            backends(),
            draining(backends(), 0),
            changed(backends(), 1, healthy=False),
            changed(backends(), 2, weight=0),
            backends(2),
            [changed(backends(1), 0, state=BackendState.DRAINING)[0]],
            [],
        ]
        self._snapshots = [snapshot(pool) for pool in pools]
        self._owners = {
            (config_id, server_id): index
            for index, backend in enumerate(backends())
            for config_id, server_ids in backend.server_ids.items()
            for server_id in server_ids
        }

    def feed(self, plan: bytes) -> int:
        """Send the packets of a plan and return their number.

        Raise AssertionError if an invariant is broken. Any other exception was raised by the packet path.
        """
        router, twin = (Router(self._snapshots[0], FlowTables(_TABLE_SIZE, 3.0)) for _ in range(2))
        counters, now_s = Counters(bytearray(SIZE_BYTES)), 0.0
        for number, (control, octets) in enumerate(_packets(plan)):
            router.snapshot = twin.snapshot = self._snapshots[control % len(self._snapshots)]
            now_s += control >> 6
            datagram, flow = _datagram(control, octets), _flow(control)
            decision = router.decide(datagram, flow, now_s)
            assert explain(twin, datagram, flow, now_s).decision == decision
            self._check(router, datagram, decision)
            counters.count_received(1, len(datagram))
            counters.count(*decision, number + 1)
        assert counters.slots[PACKETS_RECEIVED] == sum(counters.slots[OUTCOME : OUTCOME + len(OUTCOMES)])
        tables = (router.flows.by_source_id, router.flows.by_destination_id, router.flows.by_four_tuple)
        assert all(len(table) <= _TABLE_SIZE for table in tables)
        return int(counters.slots[PACKETS_RECEIVED])

    def _check(self, router: Router, datagram: bytes, decision: tuple[int, int]) -> None:
        outcome, index = decision
        parsed = parse(datagram)
        assert parsed == _textbook_parse(datagram)
        if OUTCOMES[outcome].route == "drop":
            assert index == -1
            return
        assert router.snapshot.backends[index] is not None
        form, _, dcid, _ = parsed
        expected = self._expected(router, form, dcid)
        assert (index if outcome < CONFIG_IDS else None) == expected, "an ID that decodes is routed by it, no other is"

    def _expected(self, router: Router, form: int, dcid: bytes) -> int | None:
        """Return the owner of an ID by the draft's text, or None if the ID is unroutable."""
        params = next((p for p in PARAMS if dcid and p.config_id == dcid[0] >> 5), None)
        if params is None:
            return None
        if form == LONG and params.length_self_encoded and dcid[0] & 0x1F != len(dcid) - 1:
            return None
        found = oracle.decode(params.key, params.server_id_length, params.nonce_length, dcid)
        index = self._owners.get((params.config_id, found[0])) if found else None
        return index if index is not None and index < len(router.snapshot.backends) else None


def _packets(plan: bytes) -> list[tuple[int, bytes]]:
    packets: list[tuple[int, bytes]] = []
    at = 0
    while at + 2 <= len(plan) and len(packets) < _MAX_PACKETS:
        end = at + 2 + plan[at + 1]
        packets.append((plan[at], plan[at + 2 : end]))
        at = end
    return packets


def _flow(control: int) -> FourTuple:
    host = "2001:db8::1" if control & 8 else "192.0.2.1"
    return host, 1000 + (control & 3), host, 443


def _datagram(control: int, octets: bytes) -> bytes:
    """Return raw octets, or an ID in a short or a long header, or a backend's ID and some more octets."""
    kind = control >> 2 & 7
    if kind < 3:
        return octets
    if kind == 3:
        return short(octets)
    if kind == 4:
        return long(octets)
    params = PARAMS[len(octets) % len(PARAMS)]
    server_id = bytes([0xA0 + len(octets) % 4]) * params.server_id_length
    nonce = octets[: params.nonce_length].ljust(params.nonce_length, b"\0")
    low = params.plaintext_len if params.length_self_encoded else 0
    cid = bytes([params.config_id << 5 | low]) + oracle.encode_block(params.key, server_id, nonce)
    return {5: short(cid), 6: long(cid, octets[:8]), 7: long(cid + octets[:2])}[kind]
