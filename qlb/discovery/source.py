"""The interface of a source of backends, and the rules by which its answers become backends."""

import ipaddress
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from qlb.addresses import Endpoint, Network, canonical_address
from qlb.cid.address_ids import is_within
from qlb.errors import QlbError
from qlb.routing.backends import Backend


class DiscoveryError(QlbError):
    """A source could not be asked or has sent an invalid answer. The text gives the reason."""


class Remark(NamedTuple):
    """A fact about an answer that an operator should know.

    topic: one word. The text of a remark may change with each answer, but each topic is logged once.
    """

    topic: str
    text: str


class Answer(NamedTuple):
    """One answer of a source. backends: all that exist now, without server IDs if these are made from addresses.

    again_s: seconds until the next question. remarks: for the log and /status.
    """

    backends: tuple[Backend, ...]
    again_s: float
    remarks: tuple[Remark, ...] = ()


class Source(Protocol):
    """One source of backends."""

    @property
    def name(self) -> str:
        """Its name, which the names of its backends, the metrics and the log contain."""
        ...

    @property
    def kind(self) -> str:
        """``dns``, ``file`` or ``kubernetes``."""
        ...

    @property
    def patience(self) -> int:
        """The number of answers in a row without a backend after which the backend is removed."""
        ...

    @property
    def most(self) -> int:
        """The most backends that it may have."""
        ...

    @property
    def retry_s(self) -> float:
        """Seconds until the next question after an error, or after an answer that lacks a known backend."""
        ...

    def recall(self, backends: Sequence[Backend]) -> None:
        """Store the backends that an earlier source of the same name has found, also in an earlier process."""
        ...

    async def ask(self) -> Answer:
        """Return the backends that exist now. Raises DiscoveryError."""
        ...


FindOwn = Callable[[Iterable[Endpoint]], Collection[Endpoint]]
"""Return those of some endpoints that are this balancer itself."""

_SHOWN: Final = 3
"""Addresses that a remark names. It counts the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds on a source's answers. networks: the allowed ones.

    find_own: finds endpoints that are this balancer itself, so that packets would loop.
    """

    networks: tuple[Network, ...]
    find_own: FindOwn
    max_backends: int


@dataclass(frozen=True, slots=True)
class Found:
    """An endpoint that a source has found. other_hosts: further addresses of the same server, which get no packets."""

    endpoint: Endpoint
    weight: int
    other_hosts: tuple[str, ...] = ()


def choose(name: str, found: Iterable[Found], limits: Limits) -> tuple[tuple[Backend, ...], tuple[Remark, ...]]:
    """Return the backends, the same on every balancer, and remarks on omitted ones.

    name: of the source. found: with IP literals in canonical form. If an endpoint occurs twice, the greater weight
    counts.
    """
    by_endpoint: dict[Endpoint, Found] = {}
    for one in found:
        known = by_endpoint.get(one.endpoint)
        if known is None or known.weight < one.weight:
            by_endpoint[one.endpoint] = one
    within = {one for one in by_endpoint if 0 < one.port < 1 << 16 and _is_allowed(one.host, limits.networks)}
    own = frozenset(limits.find_own(within))
    chosen = sorted(within - own)
    backends = tuple(
        Backend(
            f"{name}-{endpoint.host}:{endpoint.port}",
            endpoint,
            {},
            by_endpoint[endpoint].weight,
            other_hosts=tuple(h for h in by_endpoint[endpoint].other_hosts if _is_allowed(h, limits.networks)),
        )
        for endpoint in chosen[: limits.max_backends]
    )
    remarks = (
        *_omitted("outside", by_endpoint.keys() - within, "outside of `networks`, or no address of one host"),
        *_omitted("own", own, "this balancer itself: packets would loop"),
        *_too_many(len(chosen), limits.max_backends),
    )
    return backends, remarks


def of_one_server(hosts: Sequence[str], port: int, weight: int, networks: Sequence[Network]) -> Found:
    """Return one endpoint for a server with several addresses: the first allowed one, IPv4 before IPv6.

    hosts: at least one. By this rule all balancers choose the same one.
    """
    first, *others = sorted(dict.fromkeys(hosts), key=lambda host: (not _is_allowed(host, networks), ":" in host, host))
    return Found(Endpoint(first, port), weight, tuple(others))


def canonical(host: str) -> str | None:
    """Return an IP literal in canonical form, IPv4-mapped ones as IPv4; None if it is no IP literal."""
    try:
        return str(canonical_address(host))
    except ValueError:
        return None


def _is_allowed(host: str, networks: Sequence[Network]) -> bool:
    """Return whether an address may be a backend's. A link-local IPv6 address lacks its interface, so it may not."""
    address = ipaddress.ip_address(host)
    return is_within(host, networks) and not (address.version == 6 and address.is_link_local)


def _omitted(topic: str, endpoints: Collection[Endpoint], why: str) -> Iterator[Remark]:
    if endpoints:
        shown = ", ".join(map(str, sorted(endpoints)[:_SHOWN]))
        more = f" and {len(endpoints) - _SHOWN} more" if len(endpoints) > _SHOWN else ""
        yield Remark(topic, f"{shown}{more} omitted: {why}")


def _too_many(found: int, most: int) -> Iterator[Remark]:
    if found > most:
        yield Remark("too-many", f"{found} addresses, but max_backends allows {most}: the others are omitted")
