"""Which of the places that a source tells of become backends.

A source can be wrong or be taken over, so an address is a backend only within the networks that the operator has
named, and never the balancer itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from qlb.routing.address_ids import Network, is_within
from qlb.routing.backends import Backend, Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """networks: that a place must be in. is_own: whether it is this balancer's, so that packets would go round."""

    networks: tuple[Network, ...]
    is_own: Callable[[Endpoint], bool]
    max_backends: int


def choose(name: str, places: Mapping[Endpoint, int], limits: Limits) -> tuple[tuple[Backend, ...], tuple[str, ...]]:
    """Return the backends, the same on every balancer, and remarks on what was left out.

    name: the source's. places: with the weight of each.
    """
    allowed = sorted(place for place in places if _may_be(place, limits))
    outside = sorted({str(place) for place in places} - set(map(str, allowed)))
    backends = tuple(
        Backend(f"{name}-{place.host}:{place.port}", place, {}, places[place])
        for place in allowed[: limits.max_backends]
    )
    return backends, (*_outside(outside), *_too_many(len(allowed), limits.max_backends))


def _may_be(place: Endpoint, limits: Limits) -> bool:
    in_range = 0 < place.port < 1 << 16
    return in_range and is_within(place.host, limits.networks) and not limits.is_own(place)


def _outside(places: Sequence[str]) -> Iterator[str]:
    if places:
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        yield f"{places[0]}{more}: outside of `networks`, or this balancer itself, and so no backend"


def _too_many(found: int, most: int) -> Iterator[str]:
    if found > most:
        yield f"{found} addresses, and max_backends allows {most}: the others are left out"
