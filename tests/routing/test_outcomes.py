"""The table of outcomes, and proof that the router reaches each one that it can decide."""

import random

import pytest

from lab.pool import FLOW, long, router, short
from qlb.addresses import Endpoint, FourTuple
from qlb.cid import CidCodec, CidParams
from qlb.routing import outcomes as o
from qlb.routing.backends import Backend
from qlb.routing.flows import FlowTables
from qlb.routing.maglev import DEFAULT_KEY
from qlb.routing.outcomes import CONFIG_IDS, OUTCOMES, REASONS, ROUTE_OF, ROUTES, STEPS
from qlb.routing.router import Router
from qlb.routing.snapshot import compile_snapshot

ELSEWHERE: FourTuple = ("203.0.113.9", 1234, "198.51.100.1", 443)
NOT_THE_ROUTERS = {
    *("drop_send_failed", "drop_no_session", "drop_worker_died"),
    *("drop_fragment", "drop_hop_limit", "drop_too_big", "drop_no_route", "drop_no_neighbour"),
    *("drop_bad_source", "drop_overload"),
}
"""Outcomes that planes or the supervisor decide."""

DCIDS = {
    "no_config": b"\x9f" * 9,
    "reserved_config": b"\xff" * 9,
    "too_short": b"\x5f" * 9,
    "length_mismatch": b"\x7f" * 9,
    "unknown_server_id": b"\x5f" * 12,
}
"""Unroutable destination IDs for the CID configs of the pool; with 8 octets or more, tables store them."""


def test_table_is_consistent() -> None:
    """Names are unique, routes and reasons are known ones, and the integers match the table."""
    assert len({outcome.name for outcome in OUTCOMES}) == len(OUTCOMES) == CONFIG_IDS + len(STEPS) * len(REASONS) + 14
    for number, outcome in enumerate(OUTCOMES):
        assert outcome.route in (*ROUTES, "drop")
        assert outcome.config_id == (number if number < CONFIG_IDS else -1)
        assert ROUTE_OF[number] == (ROUTES.index(outcome.route) if outcome.route != "drop" else -1)
    drops = (o.DROP_EMPTY, o.DROP_TRUNCATED, o.DROP_VERSION_NEGOTIATION, o.DROP_NO_BACKEND)
    assert [OUTCOMES[n].reason for n in drops] == ["empty", "truncated", "version_negotiation", "no_backend"]


@pytest.mark.parametrize("step", range(len(STEPS)), ids=STEPS)
@pytest.mark.parametrize("reason", range(len(REASONS)), ids=REASONS)
def test_unroutable_names_its_step_and_reason(step: int, reason: int) -> None:
    """unroutable() returns the outcome with the name of the step and the reason."""
    outcome = OUTCOMES[o.unroutable(step, reason)]
    assert outcome.name == f"{STEPS[step]}_{REASONS[reason]}"
    assert outcome.reason == REASONS[reason]
    assert outcome.route == ("fallback" if STEPS[step] == "fallback" else "flow")


def _reached_by_tables(dcid: bytes) -> list[str]:
    """Return the names of the outcomes of one ID at steps 5, 2, 4 and 3, in this order."""
    r = router()
    packets = [(long(dcid), FLOW), (long(dcid), FLOW), (long(dcid[:-1] + b"?", b"other"), FLOW)]
    packets += [(long(dcid, b"third"), ELSEWHERE)]
    return [OUTCOMES[r.decide(datagram, flow, 0.0)[0]].name for datagram, flow in packets]


@pytest.mark.parametrize("reason", REASONS)
def test_every_step_with_every_reason(reason: str) -> None:
    """The fallback comes first; then the source ID, the 4-tuple and the destination ID find the flow."""
    steps = ("fallback", "source_id", "four_tuple", "destination_id")
    assert _reached_by_tables(DCIDS[reason]) == [f"{step}_{reason}" for step in steps]


def _every_config() -> Router:
    params = [CidParams(n, 2, 4 + n, bytes([n]) * 16 if n % 2 else None) for n in range(CONFIG_IDS)]
    pool = [Backend("b0", Endpoint("127.0.0.1", 1), dict.fromkeys(range(CONFIG_IDS), (b"ab",)))]
    return Router(compile_snapshot(1, params, pool, fallback_key=DEFAULT_KEY), FlowTables(0, 1.0))


@pytest.mark.parametrize("config_id", range(CONFIG_IDS))
def test_every_config_id(config_id: int) -> None:
    """With seven CID configs at once, each ID is routed and counted under its own."""
    r = _every_config()
    config = r.snapshot.configs[config_id]
    assert config is not None
    cid = config.codec.encode(b"ab", bytes(config.codec.params.nonce_length))
    assert [r.decide(build(cid), FLOW, 0.0) for build in (long, short)] == [(config_id, 0)] * 2


def test_every_outcome_of_the_router_is_reached() -> None:
    """The router reaches all outcomes except those that planes and the supervisor decide."""
    reached = {name for dcid in DCIDS.values() for name in _reached_by_tables(dcid)}
    seven = _every_config()
    for config in seven.snapshot.configs[:CONFIG_IDS]:
        assert config is not None
        cid = config.codec.encode(b"ab", bytes(config.codec.params.nonce_length))
        reached.add(OUTCOMES[seven.decide(short(cid), FLOW, 0.0)[0]].name)
    without_backends = router([])
    odd = [(router(), b""), (router(), b"\x80"), (router(), long(b"", version=0)), (without_backends, short(b"\xff"))]
    reached |= {OUTCOMES[r.decide(datagram, FLOW, 0.0)[0]].name for r, datagram in odd}
    assert reached == {outcome.name for outcome in OUTCOMES} - NOT_THE_ROUTERS


def test_accidents_have_the_documented_odds() -> None:
    """Random first IDs decode by accident with odds servers x configs / (8 x 256**length): here 10 %."""
    params = CidParams(3, 1, 6, bytes(16))
    pool = [Backend(f"b{n}", Endpoint("127.0.0.1", n + 1), {3: (bytes([n]),)}) for n in range(200)]
    r = Router(compile_snapshot(1, [params], pool, fallback_key=DEFAULT_KEY), FlowTables(0, 1.0))
    dice = random.Random(2026)
    hits = sum(r.decide(long(dice.randbytes(8)), FLOW, 0.0)[0] < CONFIG_IDS for _ in range(10_000))
    assert hits / 10_000 == pytest.approx(200 / (8 * 256), abs=0.01)


def test_flood_of_random_packets_stays_within_bounds() -> None:
    """Under a flood of random packets, tables do not exceed their size and a live ID is still routed."""
    r, dice = router(flow_table_size=50), random.Random(4)
    for number in range(6000):
        head = dice.choice((b"\x40", b"\xc0\0\0\0\1\x08", b""))
        flow = (f"192.0.2.{dice.randrange(256)}", dice.randrange(1, 65536), "198.51.100.1", 443)
        outcome, index = r.decide(head + dice.randbytes(dice.randrange(60)), flow, number / 1000)
        assert (index >= 0) == (OUTCOMES[outcome].route != "drop")
    tables = (r.flows.by_source_id, r.flows.by_destination_id, r.flows.by_four_tuple)
    assert [len(table) for table in tables] == [50, 50, 50]
    config = r.snapshot.configs[2]
    assert config is not None
    assert r.decide(short(CidCodec(config.codec.params).encode(b"\xa1" * 3, bytes(8))), FLOW, 6.0) == (2, 1)
