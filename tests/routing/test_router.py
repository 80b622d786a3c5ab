"""Tests of the draft's five forwarding steps, in order, and of every outcome that the router can return."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.pool import (
    CONFIGS,
    FLOW,
    FOUR_PASS,
    STRICT,
    backends,
    changed,
    cid,
    compiled,
    draining,
    long,
    router,
    short,
    snapshot,
)
from qlb.cid import CidParams
from qlb.routing import outcomes as o
from qlb.routing.backends import BackendState
from qlb.routing.counters import OUTCOME, PACKETS_RECEIVED, SIZE_BYTES, Counters
from qlb.routing.explain import explain
from qlb.routing.flows import MISS
from qlb.routing.outcomes import OUTCOMES
from qlb.routing.router import Router, begins_flow, unconfigured_id

ELSEWHERE = ("203.0.113.9", 1234, "198.51.100.1", 443)
UNKNOWN = b"\xe1" + b"\x55" * 7  # the reserved config: always unroutable
OTHER_UNKNOWN = b"\xe2" + b"\x66" * 7


Build = Callable[[bytes], bytes]


def _name(decision: tuple[int, int]) -> str:
    return OUTCOMES[decision[0]].name


def _fallback(of: Router) -> int:
    return of.snapshot.fallback_backend(FLOW)


def _not(index: int) -> int:
    return (index + 1) % 3


@pytest.mark.parametrize("params", CONFIGS, ids=lambda params: params.algorithm)
@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("build", [short, long])
def test_step_1_routable(params: CidParams, index: int, build: Build) -> None:
    """An ID that decodes goes to its backend, in a long or short header, and counts under its CID config."""
    for _ in range(2):  # decoded, then from the memo
        assert router().decide(build(cid(params, index)), FLOW, 0.0) == (params.config_id, index)


def test_step_1_comes_before_every_table() -> None:
    """A table entry never overrides an ID that decodes."""
    r = router()
    known = _fallback(r)
    r.decide(long(UNKNOWN), FLOW, 0.0)
    other = _not(known)
    assert r.decide(long(cid(FOUR_PASS, other)), FLOW, 1.0) == (FOUR_PASS.config_id, other)
    assert r.decide(short(cid(FOUR_PASS, other)), FLOW, 1.0) == (FOUR_PASS.config_id, other)


@pytest.mark.parametrize("fields", [{"state": BackendState.DRAINING}, {"healthy": False}, {"weight": 0}])
def test_step_1_whatever_the_backends_state(fields: dict) -> None:
    """Draining, unhealthy and weightless backends still receive packets with their IDs."""
    assert router(changed(backends(), 1, **fields)).decide(short(cid(FOUR_PASS, 1)), FLOW, 0.0)[1] == 1


def test_step_2_before_3_before_4_before_5() -> None:
    """The tables are searched in order, and the first hit decides."""
    r = router()
    four, flows = FLOW, r.flows
    assert _name(r.decide(long(UNKNOWN), four, 0.0)) == "fallback_reserved_config"
    fallback = _fallback(r)
    other, third = _not(fallback), _not(_not(fallback))
    flows.by_four_tuple.remember(four, other, 0.0)
    assert r.decide(long(OTHER_UNKNOWN, b"new"), four, 0.0) == (o.unroutable(o.BY_FOUR_TUPLE, o.RESERVED_CONFIG), other)
    flows.by_destination_id.remember(OTHER_UNKNOWN, third, 0.0)
    assert r.decide(long(OTHER_UNKNOWN, b"newer"), four, 0.0)[1] == third
    flows.by_source_id.remember((four, b"newest"), fallback, 0.0)
    decision = r.decide(long(OTHER_UNKNOWN, b"newest"), four, 0.0)
    assert (_name(decision), decision[1]) == ("source_id_reserved_config", fallback)


def test_step_3_survives_a_new_address_in_mid_handshake() -> None:
    """A repeated first Initial from another address reaches the same backend, which then knows that address."""
    r = router()
    _, index = r.decide(long(UNKNOWN), FLOW, 0.0)
    r.flows.by_destination_id.remember(UNKNOWN, _not(index), 0.0)
    decision = r.decide(long(UNKNOWN), ELSEWHERE, 0.0)
    assert (_name(decision), decision[1]) == ("destination_id_reserved_config", _not(index))
    assert r.decide(short(UNKNOWN), ELSEWHERE, 0.0)[1] == _not(index)


def test_short_destination_ids_are_not_remembered() -> None:
    """IDs of fewer than 8 octets are not unique enough to be remembered."""
    r = router()
    r.decide(long(b"\xe0" * 7), FLOW, 0.0)
    assert len(r.flows.by_destination_id) == 0
    assert len(r.flows.by_four_tuple) == 1


def test_step_5_is_the_4_tuple_alone() -> None:
    """The fallback uses neither the ID nor the source ID, because a Retry may change both."""
    r = router(flow_table_size=0)
    index = _fallback(r)
    for datagram in (long(UNKNOWN), long(OTHER_UNKNOWN, b""), short(UNKNOWN), short(b"")):
        decision = r.decide(datagram, FLOW, 0.0)
        assert (OUTCOMES[decision[0]].route, decision[1]) == ("fallback", index)


def test_flows_outlive_the_pools_changes() -> None:
    """A known flow stays with its backend even if the fallback would now choose another one."""
    r = router(backends(2))
    _, index = r.decide(short(UNKNOWN), FLOW, 0.0)
    r.snapshot = snapshot(draining(backends(2), index))
    assert r.decide(short(UNKNOWN), FLOW, 1.0) == (o.unroutable(o.BY_FOUR_TUPLE, o.RESERVED_CONFIG), index)


def test_flows_expire_and_are_renewed() -> None:
    """An entry is valid for the timeout after its last use."""
    r = router()
    for now in (0.0, 29.0, 58.0):
        decision = r.decide(short(UNKNOWN), FLOW, now)
    assert _name(decision) == "four_tuple_reserved_config"
    assert _name(r.decide(short(UNKNOWN), FLOW, 88.0)) == "fallback_reserved_config"


@pytest.mark.parametrize("build", [short, long])
def test_a_backend_that_left_is_a_miss(build: Build) -> None:
    """An entry that names a removed backend counts as a miss."""
    r = router(backends(2))
    _, index = r.decide(build(UNKNOWN), FLOW, 0.0)
    holed = [None if n == index else b for n, b in enumerate(backends(2))]
    r.snapshot = compiled(holed)
    decision = r.decide(build(UNKNOWN), FLOW, 1.0)
    assert (_name(decision), decision[1]) == ("fallback_reserved_config", 1 - index)


def test_long_header_leaves_an_unhealthy_backend() -> None:
    """A handshake moves away from a backend that does not answer; a short header stays."""
    r = router()
    _, index = r.decide(long(UNKNOWN), FLOW, 0.0)
    r.snapshot = snapshot(changed(backends(), index, healthy=False))
    assert r.decide(short(UNKNOWN), FLOW, 1.0)[1] == index
    decision = r.decide(long(UNKNOWN), FLOW, 1.0)
    assert OUTCOMES[decision[0]].route == "fallback"
    assert decision[1] != index


def test_long_header_of_a_new_connection_leaves_a_draining_backend() -> None:
    """A known source ID stays with its draining backend; an unknown one goes elsewhere."""
    r = router()
    _, index = r.decide(long(UNKNOWN), FLOW, 0.0)
    r.snapshot = snapshot(draining(backends(), index))
    assert r.decide(long(UNKNOWN), FLOW, 1.0)[1] == index
    assert r.decide(long(OTHER_UNKNOWN, b"another"), FLOW, 1.0)[1] != index


@pytest.mark.parametrize(
    ("pool", "reached"),
    [
        (draining(backends(), 0), {1, 2}),
        (changed(backends(), 1, healthy=False), {0, 2}),
        (changed(backends(), 2, weight=0), {0, 1}),
        (draining(draining(backends(), 0), 1), {2}),
    ],
)
def test_new_connections_only_where_they_are_wanted(pool: list, reached: set[int]) -> None:
    """Only backends that accept new connections receive some, and each of them does."""
    r = router(pool, flow_table_size=0)
    decided = {r.decide(long(UNKNOWN), ("192.0.2.1", port, "198.51.100.1", 443), 0.0)[1] for port in range(1, 300)}
    assert decided == reached


@pytest.mark.parametrize(
    ("datagram", "reason"),
    [
        (long(b"\x85" + bytes(18)), "no_config"),
        (short(b"\xa0" + bytes(18)), "no_config"),
        (long(b"\xff" * 20), "reserved_config"),
        (long(b""), "too_short"),
        (b"\x40", "too_short"),
        (long(b"\x40" + bytes(10)), "too_short"),
        (b"\x40" + b"\x40" + bytes(10), "too_short"),
        (long(b"\x60" + bytes(13)), "length_mismatch"),
        (long(b"\x40" + b"\x99" * 11), "unknown_server_id"),
        (short(b"\x60" + bytes(13)), "unknown_server_id"),  # a short header has no length to compare with
    ],
)
def test_unroutable_reasons(datagram: bytes, reason: str) -> None:
    """Each reason occurs at each step at which it is possible."""
    r = router()
    names = [_name(r.decide(datagram, FLOW, 0.0)) for _ in range(2)]
    assert names[0] == f"fallback_{reason}"
    assert names[1] in (f"source_id_{reason}", f"four_tuple_{reason}")


def test_appended_octets_are_no_mismatch_unless_asked() -> None:
    """An appended octet, as Envoy's, is a mismatch only with length_self_encoded."""
    assert router().decide(long(cid(FOUR_PASS, 1) + b"!"), FLOW, 0.0)[1] == 1
    assert _name(router().decide(long(cid(STRICT, 1) + b"!"), FLOW, 0.0)) == "fallback_length_mismatch"


@pytest.mark.parametrize(
    ("datagram", "name"),
    [
        (b"", "drop_empty"),
        (b"\xc0\0\0\0\1", "drop_truncated"),
        (long(bytes(9), version=0), "drop_version_negotiation"),
    ],
)
def test_what_is_no_client_packet_is_dropped(datagram: bytes, name: str) -> None:
    """A datagram that no client sends is dropped with an outcome of its own."""
    decision = router().decide(datagram, FLOW, 0.0)
    assert (_name(decision), decision[1]) == (name, -1)


@pytest.mark.parametrize("build", [short, long])
@pytest.mark.parametrize("pool", [[], changed(backends(1), 0, healthy=False)], ids=["empty", "unhealthy"])
def test_no_backend_accepts_new_connections(build: Build, pool: list) -> None:
    """If no backend accepts new connections, an unroutable packet is dropped and not remembered."""
    r = router(pool)
    assert r.decide(build(UNKNOWN), FLOW, 0.0) == (o.DROP_NO_BACKEND, -1)
    assert len(r.flows.by_four_tuple) == 0


@pytest.mark.parametrize("version", [1, 0x6B3343CF, 0xFFFFFFFF, 0x0A0A0A0A])
def test_every_version_is_forwarded(version: int) -> None:
    """Packets of unknown versions are forwarded."""
    assert router().decide(long(cid(FOUR_PASS, 2), version=version), FLOW, 0.0)[1] == 2


@given(st.lists(st.binary(max_size=80), max_size=40), st.integers(0, 3))
def test_any_octets_have_one_outcome(datagrams: list[bytes], size: int) -> None:
    """Each datagram has one outcome and an existing backend, without exceptions; sums and bounds hold.

    The explanation of each ends with the same decision.
    """
    r, counters = router(flow_table_size=size), Counters(bytearray(SIZE_BYTES))
    twin = router(flow_table_size=size)
    for number, datagram in enumerate(datagrams):
        flow = ("192.0.2.1", number % 5 + 1, "198.51.100.1", 443)
        outcome, index = r.decide(datagram, flow, float(number))
        assert explain(twin, datagram, flow, float(number)).decision == (outcome, index)
        assert (index >= 0) == (OUTCOMES[outcome].route != "drop")
        assert unconfigured_id(outcome, datagram) in {MISS, 4, 5, 6}
        assert index < 3
        counters.count_received(1, len(datagram))
        counters.count(outcome, index, number)
    assert counters.slots[PACKETS_RECEIVED] == sum(counters.slots[OUTCOME : OUTCOME + len(OUTCOMES)])
    for table in (r.flows.by_source_id, r.flows.by_destination_id, r.flows.by_four_tuple):
        assert len(table) <= size


@pytest.mark.parametrize("params", CONFIGS, ids=lambda params: params.algorithm)
def test_every_prefix_of_a_packet_has_an_outcome(params: CidParams) -> None:
    """A packet that is cut anywhere is dropped as truncated, unroutable, or routed, without exceptions."""
    r = router()
    for packet in (long(cid(params, 1)), short(cid(params, 1))):
        routes = [OUTCOMES[r.decide(packet[:length], FLOW, 0.0)[0]].route for length in range(len(packet) + 1)]
        assert routes[0] == "drop"
        assert routes[-1] == "cid"


def test_accidents_are_as_rare_as_promised() -> None:
    """Random first IDs decode with odds servers x configs / (8 x 256**length); with 3 octets, none does here."""
    dice = random.Random(5)
    r = router()
    hits = sum(r.decide(long(dice.randbytes(16)), FLOW, 0.0)[0] < o.CONFIG_IDS for _ in range(3000))
    assert hits == 0


@pytest.mark.parametrize(
    ("datagram", "config_id"),
    [
        (short(b"\x80" + bytes(8)), 4),
        (short(b"\xc0" + bytes(8)), 6),
        (short(b"\xe0" + bytes(8)), MISS),
        (short(b"\x40" + bytes(11)), MISS),
        (short(cid(FOUR_PASS, 1)), MISS),
        (long(b"\x80" + bytes(8)), MISS),
        (b"", MISS),
    ],
    ids=["config 4", "config 6", "reserved", "unknown server", "routed", "long header", "empty"],
)
def test_an_unconfigured_config_id(datagram: bytes, config_id: int) -> None:
    """Only a short header counts, because a connection's first ID is random and not a server's."""
    r = router()
    for _ in range(2):
        assert unconfigured_id(r.decide(datagram, FLOW, 0.0)[0], datagram) == config_id


def test_a_flow_begins_with_a_long_header_of_unknown_ids() -> None:
    """The first Initial begins a flow, also from a known 4-tuple. A repeated one, a short header or a drop does not."""
    r = router()

    def begins(datagram: bytes) -> bool:
        return begins_flow(r.decide(datagram, FLOW, 0.0)[0], datagram)

    first, second = long(UNKNOWN, b"mine"), long(OTHER_UNKNOWN, b"other")
    assert [begins(datagram) for datagram in (first, first, second)] == [True, False, True]
    assert not any(map(begins, (short(UNKNOWN), long(cid(FOUR_PASS, 1)), short(cid(FOUR_PASS, 1)), b"")))
