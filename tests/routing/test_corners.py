"""Regression tests of the forwarding steps."""

from lab.pool import FLOW, backends, changed, compiled, long, router, short, snapshot
from qlb.routing.backends import BackendState
from qlb.routing.explain import explain
from qlb.routing.maglev import build_ring

UNKNOWN = b"\xe1" + b"\x55" * 7


def test_an_unhealthy_backend_is_retained_without_an_alternative() -> None:
    """A long header stays with an unhealthy backend if no other backend could answer."""
    r = router(backends(1))
    assert r.decide(long(UNKNOWN), FLOW, 0.0)[1] == 0
    r.snapshot = snapshot(changed(backends(1), 0, healthy=False))
    assert r.decide(long(UNKNOWN), FLOW, 1.0)[1] == 0


def test_a_draining_backend_gets_no_new_connection_with_an_empty_source_id() -> None:
    """A draining backend gets no new connection only because an old one had the same 4-tuple."""
    r = router()
    _, index = r.decide(long(UNKNOWN, b""), FLOW, 0.0)
    r.snapshot = snapshot(changed(backends(), index, state=BackendState.DRAINING))
    assert r.decide(long(b"\xe2" + b"\x66" * 7, b""), FLOW, 1.0)[1] != index


def test_ring_does_not_show_the_fallback_key() -> None:
    """The repr of a ring does not contain the fallback key, which may be a secret."""
    key = b"sixteen secrets!"
    assert repr(key) not in repr(build_ring([], key))


def test_a_removed_backend_is_explained_as_a_miss() -> None:
    """If the table entry of a short header names a removed backend, the explanation matches the decision."""
    r = router(backends(2))
    _, index = r.decide(short(UNKNOWN), FLOW, 0.0)
    holed = [None if n == index else b for n, b in enumerate(backends(2))]
    r.snapshot = compiled(holed)
    explanation = explain(r, short(UNKNOWN), FLOW, 1.0)
    assert explanation.outcome == "fallback_reserved_config"
    assert any("step 5" in step.text for step in explanation.steps)
