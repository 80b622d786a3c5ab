"""How many sessions a full batch may open, by the kind of the packets."""

import pytest

from qlb.dataplane.portable.overload import Admission
from qlb.routing.outcomes import BY_FALLBACK, NO_CONFIG, unroutable

ROUTABLE = 1
OTHER = unroutable(BY_FALLBACK, NO_CONFIG)


@pytest.mark.parametrize(
    ("routable", "others", "admitted"),
    [
        (64, 64, (4, 4)),
        (64, 0, (8, 0)),
        (0, 64, (0, 8)),
        (64, 1, (7, 1)),
        (3, 64, (3, 5)),
        (4, 4, (4, 4)),
        (0, 0, (0, 0)),
    ],
)
def test_each_kind_has_a_share_and_may_use_what_the_other_leaves(
    routable: int, others: int, admitted: tuple[int, int]
) -> None:
    """Eight in all. Several packets of one new session count once."""
    wanted = [(ROUTABLE, n) for n in range(routable)] + [(OTHER, -1 - n) for n in range(others)]
    admission = Admission(2 * wanted)
    found = tuple(
        sum(admission.admits(kind) for _ in range(count)) for kind, count in ((ROUTABLE, routable), (OTHER, others))
    )
    assert found == admitted
