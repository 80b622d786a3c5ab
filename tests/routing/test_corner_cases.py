"""Corner cases of the forwarding steps that were wrong once."""

from lab.pool import FLOW, backends, changed, compiled, long, router, short, snapshot
from qlb.routing.backends import BackendState
from qlb.routing.explain import explain
from qlb.routing.maglev import build_ring

UNKNOWN = b"\xe1" + b"\x55" * 7


def test_unhealthy_is_left_only_while_another_could_answer() -> None:
    """A handshake stays with its unhealthy backend if no other backend can answer."""
    r = router(backends(1))
    assert r.decide(long(UNKNOWN), FLOW, 0.0)[1] == 0
    r.snapshot = snapshot(changed(backends(1), 0, healthy=False))
    assert r.decide(long(UNKNOWN), FLOW, 1.0)[1] == 0


def test_draining_gets_no_new_connection_by_an_empty_source_id() -> None:
    """A draining backend receives no new connection because of an old one with its 4-tuple."""
    r = router()
    _, index = r.decide(long(UNKNOWN, b""), FLOW, 0.0)
    r.snapshot = snapshot(changed(backends(), index, state=BackendState.DRAINING))
    assert r.decide(long(b"\xe2" + b"\x66" * 7, b""), FLOW, 1.0)[1] != index


def test_ring_does_not_show_the_fallback_key() -> None:
    """The repr of a ring does not show the key: fallback.hash_key can be a secret."""
    key = b"sixteen secrets!"
    assert repr(key) not in repr(build_ring([], key))


def test_a_departed_backend_is_a_miss() -> None:
    """The explanation of an entry for a removed backend agrees with the decision."""
    r = router(backends(2))
    _, index = r.decide(short(UNKNOWN), FLOW, 0.0)
    holed = [None if n == index else b for n, b in enumerate(backends(2))]
    r.snapshot = compiled(holed)
    explanation = explain(r, short(UNKNOWN), FLOW, 1.0)
    assert explanation.outcome == "fallback_reserved_config"
    assert any("step 5" in step.text for step in explanation.steps)
