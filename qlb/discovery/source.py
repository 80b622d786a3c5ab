"""What a source of backends is, and what it answers."""

import ipaddress
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from qlb.addresses import Endpoint, Network, canonical_address
from qlb.cid.address_ids import is_within
from qlb.errors import QlbError
from qlb.routing.backends import Backend


class DiscoveryError(QlbError):
    """A source could not be asked, or has answered nonsense; the text says what happened."""


class Remark(NamedTuple):
    """Something about an answer that an operator should know.

    topic: one word for what it is about. The text of a remark may change with each answer; one topic is logged once.
    """

    topic: str
    text: str


class Answer(NamedTuple):
    """backends: all that there are now, without server IDs where those are made of addresses.

    again_s: seconds until the source is to be asked again. remarks: for the log and /status.
    """

    backends: tuple[Backend, ...]
    again_s: float
    remarks: tuple[Remark, ...] = ()


class Source(Protocol):
    """One place where backends are found."""

    @property
    def name(self) -> str:
        """What it is called, in names of its backends, metrics and the log."""
        ...

    @property
    def kind(self) -> str:
        """``dns``, ``file`` or ``kubernetes``."""
        ...

    @property
    def patience(self) -> int:
        """The number of answers in a row that must lack a backend until it counts as gone."""
        ...

    @property
    def most(self) -> int:
        """The most backends that it may have."""
        ...

    @property
    def retry_s(self) -> float:
        """Seconds until it is asked again after an error, and while a backend that an answer lacks may come back."""
        ...

    def recall(self, backends: Sequence[Backend]) -> None:
        """Learn what a source of the same name has found before this one, which may be in an earlier process."""
        ...

    async def ask(self) -> Answer:
        """Return what is there now. Raises DiscoveryError."""
        ...


FindOwn = Callable[[Iterable[Endpoint]], Collection[Endpoint]]
"""Return those of some places that are this balancer itself."""

_SHOWN: Final = 3
"""Addresses that a remark names; it only counts the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """networks: that a place must be in. find_own: finds places that are this balancer, so that packets would loop."""

    networks: tuple[Network, ...]
    find_own: FindOwn
    max_backends: int


@dataclass(frozen=True, slots=True)
class Found:
    """A place that a source has found. other_hosts: further addresses of the same server, which get no packets."""

    place: Endpoint
    weight: int
    other_hosts: tuple[str, ...] = ()


def choose(name: str, found: Iterable[Found], limits: Limits) -> tuple[tuple[Backend, ...], tuple[Remark, ...]]:
    """Return the backends, the same on every balancer, and remarks on what was left out.

    name: the source's. found: with IP literals in canonical form. Of a place that is there twice, the greater weight
    counts.
    """
    by_place: dict[Endpoint, Found] = {}
    for one in found:
        known = by_place.get(one.place)
        if known is None or known.weight < one.weight:
            by_place[one.place] = one
    within = {place for place in by_place if 0 < place.port < 1 << 16 and _may_be(place.host, limits.networks)}
    own = frozenset(limits.find_own(within))
    chosen = sorted(within - own)
    backends = tuple(
        Backend(
            f"{name}-{place.host}:{place.port}",
            place,
            {},
            by_place[place].weight,
            other_hosts=tuple(host for host in by_place[place].other_hosts if _may_be(host, limits.networks)),
        )
        for place in chosen[: limits.max_backends]
    )
    remarks = (
        *_left_out("outside", by_place.keys() - within, "outside of `networks`, or no address of one host"),
        *_left_out("own", own, "this balancer itself: packets would loop"),
        *_too_many(len(chosen), limits.max_backends),
    )
    return backends, remarks


def of_one_server(hosts: Sequence[str], port: int, weight: int, networks: Sequence[Network]) -> Found:
    """Return one place for a server with several addresses: the first allowed one, IPv4 before IPv6.

    hosts: at least one. The rule makes all balancers choose the same.
    """
    first, *others = sorted(dict.fromkeys(hosts), key=lambda host: (not _may_be(host, networks), ":" in host, host))
    return Found(Endpoint(first, port), weight, tuple(others))


def canonical(host: str) -> str | None:
    """Return an IP literal in its one form, IPv4-mapped ones as IPv4; None where it is none."""
    try:
        return str(canonical_address(host))
    except ValueError:
        return None


def _may_be(host: str, networks: Sequence[Network]) -> bool:
    """Whether an address may be a backend's. Link-local IPv6 ones lack the interface that they are reached by."""
    address = ipaddress.ip_address(host)
    return is_within(host, networks) and not (address.version == 6 and address.is_link_local)


def _left_out(topic: str, places: Collection[Endpoint], why: str) -> Iterator[Remark]:
    if places:
        shown = ", ".join(map(str, sorted(places)[:_SHOWN]))
        more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
        yield Remark(topic, f"{shown}{more} left out: {why}")


def _too_many(found: int, most: int) -> Iterator[Remark]:
    if found > most:
        yield Remark("too-many", f"{found} addresses, and max_backends allows {most}: the others are left out")
