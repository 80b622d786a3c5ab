"""Backends by DNS: the addresses of a name, or its SRV records, for as long as they may be kept.

dnspython does the talking: random ports and query IDs, TCP where an answer is cut off.

Spec: RFC 1035; RFC 2782 (SRV); RFC 2181, section 5.2 (TTL).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from qlb.discovery.choice import Limits, choose
from qlb.discovery.source import Answer, DiscoveryError
from qlb.errors import ConfigError
from qlb.routing.backends import Endpoint

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver
    from dns.resolver import Answer as DnsAnswer

_LIFETIME_S: Final = 5.0
"""How long one question may take, tries with every resolver included."""
_MAX_SRV_TARGETS: Final = 64
_KINDS: Final = {"address": ("A", "AAAA"), "a": ("A",), "aaaa": ("AAAA",), "srv": ("A", "AAAA")}


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsSettings:
    """One source. record: address (A and AAAA), a, aaaa or srv. port: of address records. weight: of each backend.

    resolvers: where questions go; none = the system's. min_s, max_s: bounds on TTLs.
    """

    name: str
    host: str
    record: str
    port: int
    resolvers: tuple[Endpoint, ...]
    limits: Limits
    weight: int
    min_s: float
    max_s: float


class DnsSource:
    """A name that is asked for."""

    kind: Final = "dns"
    patience: Final = 3

    def __init__(self, settings: DnsSettings) -> None:
        """Raises ConfigError where dnspython, or a resolver, is missing."""
        self._settings = settings
        self._resolver = _resolver(settings.resolvers)

    @property
    def name(self) -> str:
        """What it is called."""
        return self._settings.name

    @property
    def retry_s(self) -> float:
        """Seconds from an error to the next question."""
        return self._settings.min_s

    async def ask(self) -> Answer:
        """Ask for every kind of record that is wanted; all must be answered."""
        ttls: list[float] = []
        if self._settings.record == "srv":
            places = await self._services(ttls)
        else:
            hosts = await self._addresses(self._settings.host, ttls)
            places = [(Endpoint(host, self._settings.port), self._settings.weight) for host in hosts]
        backends, remarks = choose(self.name, dict(places), self._settings.limits)
        again_s = min(max(min(ttls, default=0.0), self._settings.min_s), self._settings.max_s)
        return Answer(backends, again_s, remarks)

    async def _services(self, ttls: list[float]) -> list[tuple[Endpoint, int]]:
        """Return the places that SRV records name. Those of other than the best priority get nothing new."""
        found = await self._resolve(self._settings.host, "SRV")
        if found is None:
            return []
        ttls.append(found.rrset.ttl)  # type: ignore[union-attr]
        records = sorted(found, key=lambda record: (record.priority, str(record.target), record.port))
        places = []
        for record in records[:_MAX_SRV_TARGETS]:
            target = record.target.to_text(omit_final_dot=True)
            weight = max(record.weight, 1) if record.priority == records[0].priority else 0
            places += [(Endpoint(host, record.port), weight) for host in await self._addresses(target, ttls)]
        return places

    async def _addresses(self, host: str, ttls: list[float]) -> list[str]:
        hosts = []
        for kind in _KINDS[self._settings.record]:
            found = await self._resolve(host, kind)
            if found is not None:
                ttls.append(min(found.rrset.ttl, found.chaining_result.minimum_ttl))  # type: ignore[union-attr]
                hosts += [record.address for record in found]
        return hosts

    async def _resolve(self, host: str, kind: str) -> "DnsAnswer | None":
        """Return an answer; None where the name, or such records of it, do not exist. Raises DiscoveryError."""
        from dns.exception import DNSException
        from dns.resolver import NXDOMAIN

        try:
            found = await self._resolver.resolve(
                host, kind, raise_on_no_answer=False, lifetime=_LIFETIME_S, search=False
            )
        except NXDOMAIN:
            return None
        except (DNSException, OSError, ValueError, EOFError) as error:
            raise DiscoveryError(f"{kind} records of {host}: {type(error).__name__}: {error}") from error
        return found if found.rrset is not None else None


def _resolver(resolvers: Sequence[Endpoint]) -> "Resolver":
    try:
        from dns.asyncresolver import Resolver
        from dns.nameserver import Do53Nameserver
        from dns.resolver import NoResolverConfiguration
    except ImportError as error:
        raise ConfigError("discovery by dns needs the discovery extra: pip install 'qlb[discovery]'") from error
    try:
        resolver = Resolver(configure=not resolvers)
    except NoResolverConfiguration as error:
        raise ConfigError(
            f"discovery by dns: this machine has no resolver ({error}); name some in `resolvers`"
        ) from error
    if resolvers:
        resolver.nameservers = [Do53Nameserver(one.host, one.port) for one in resolvers]
    resolver.cache = None
    return resolver
