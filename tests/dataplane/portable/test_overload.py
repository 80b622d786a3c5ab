"""The number of sessions that full batches may open."""

from qlb.dataplane.portable.admission import MAX_OPENS, OPENS_PER_S, Admission
from qlb.routing.outcomes import BY_FALLBACK, NO_CONFIG, unroutable

ROUTABLE = 1
OTHER = unroutable(BY_FALLBACK, NO_CONFIG)


def test_each_kind_has_opens_of_its_own() -> None:
    """One kind of packets still has its own opens after the other kind has used all of its own."""
    admission = Admission(100.0)
    admission.refill(200.0)
    assert [admission.admits(OTHER) for _ in range(MAX_OPENS + 1)] == [True] * MAX_OPENS + [False]
    assert [admission.admits(ROUTABLE) for _ in range(MAX_OPENS + 1)] == [True] * MAX_OPENS + [False]


def test_opens_accumulate_over_time() -> None:
    """Both kinds get new opens at the configured rate."""
    admission = Admission(100.0)
    while admission.admits(OTHER) or admission.admits(ROUTABLE):
        pass
    admission.refill(100.0 + 2.5 / OPENS_PER_S)
    assert [admission.admits(OTHER) for _ in range(3)] == [True, True, False]
    assert [admission.admits(ROUTABLE) for _ in range(3)] == [True, True, False]
