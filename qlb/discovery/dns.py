"""Backends by DNS: the addresses of a name, or its SRV records, until their TTL is over.

Spec: RFC 2782 (SRV); RFC 2181, section 5.2 (TTL).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from qlb.addresses import Endpoint
from qlb.discovery.lookup import RESOLV_CONF, Lookup, Pairing, Question, Result, Service, read_services, remarks_on
from qlb.discovery.source import Answer, DiscoveryError, Found, Limits, Remark, canonical, choose, of_one_server
from qlb.routing.backends import Backend

_KINDS: Final = {"address": ("A", "AAAA"), "a": ("A",), "aaaa": ("AAAA",), "srv": ("A", "AAAA")}


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsSettings:
    """One source. record: address (A and AAAA), a, aaaa or srv. port: of address records. weight: of each backend.

    resolvers: the servers to ask; empty = the system's. min_s, max_s: bounds on TTLs.
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


@dataclass(frozen=True, slots=True)
class _Hosts:
    """The addresses of some names. failed: question without an answer → the reason."""

    by_name: Mapping[str, Sequence[str]]
    failed: Mapping[Question, str]
    ttls: tuple[float, ...]
    exists: bool


class DnsSource:
    """A source that asks for one name.

    If a question fails, its earlier answer stays in use. So a failing address family or target affects no other one.
    """

    kind: Final = "dns"
    patience: Final = 3

    def __init__(self, settings: DnsSettings, resolv_conf: Path = RESOLV_CONF) -> None:
        """Raises ConfigError if dnspython is not installed."""
        self._settings = settings
        self._lookup = Lookup(settings.resolvers, resolv_conf)
        self._pairing = Pairing()
        self._answered: dict[Question, tuple[str, ...]] = {}
        """The last answer to each question of the last round."""
        self._recalled: tuple[Backend, ...] = ()
        """The backends of an earlier source. They replace answers that this source does not have yet."""

    @property
    def name(self) -> str:
        """Its name in the configuration."""
        return self._settings.name

    @property
    def most(self) -> int:
        """The most backends that it may have."""
        return self._settings.limits.max_backends

    @property
    def retry_s(self) -> float:
        """Seconds from an error to the next question."""
        return self._settings.min_s

    def recall(self, backends: Sequence[Backend]) -> None:
        """Use these backends for questions that fail before they were ever answered."""
        self._recalled = tuple(backends)

    async def ask(self) -> Answer:
        """Ask for every kind of record that is configured. Raises DiscoveryError if no question was answered."""
        if self._settings.record == "srv":
            found, hosts, remarks = await self._services()
        else:
            hosts = await self._ask_hosts([self._settings.host])
            port, weight = self._settings.port, self._settings.weight
            found = [Found(Endpoint(host, port), weight) for host in hosts.by_name[self._settings.host]]
            remarks = [] if found or hosts.failed else [self._nothing("A or AAAA", exists=hosts.exists)]
        found += self._stand_ins(hosts.failed, {one.endpoint for one in found})
        backends, left_out = choose(self.name, found, self._settings.limits)
        remarks += [*_failing(hosts.failed), *left_out]
        return Answer(backends, self._again_s(hosts), tuple(remarks))

    def _again_s(self, hosts: _Hosts) -> float:
        wanted_s = 0.0 if hosts.failed else min(hosts.ttls, default=0.0)
        return min(max(wanted_s, self._settings.min_s), self._settings.max_s)

    async def _services(self) -> tuple[list[Found], _Hosts, list[Remark]]:
        """Return the endpoints that SRV records name. Those without the best priority get weight 0."""
        question = Question(self._settings.host, "SRV")
        result = (await self._lookup.ask([question]))[question]
        if result.failure:
            raise DiscoveryError(_describe(question, result.failure))
        services, remarks = read_services(result, self._settings.limits.max_backends)
        if not services:
            text = self._nothing("SRV", exists=result.exists)
            return [], _Hosts({}, {}, (), result.exists), [text]
        pairs = {
            service: tuple(filter(None, map(canonical, hosts)))
            for service, hosts in self._pairing.pair(services, result).items()
        }
        rest = [service for service in services if service not in pairs]
        hosts = await self._ask_hosts(dict.fromkeys(service.target for service in rest))
        counts = {name: len(found) for name, found in hosts.by_name.items()}
        remarks += remarks_on(services, pairs, counts)
        networks, most = self._settings.limits.networks, self._settings.limits.max_backends
        found = [of_one_server(one, service.port, service.weight, networks) for service, one in pairs.items() if one]
        found += _bounded(_endpoints(rest, hosts, self._settings.limits), 16 * most)
        return found, _Hosts({}, hosts.failed, (*hosts.ttls, result.ttl_s), exists=True), remarks

    async def _ask_hosts(self, names: Iterable[str]) -> _Hosts:
        """Ask for the addresses of some names. Raises DiscoveryError if some failed and none returned records."""
        questions = [Question(name, kind) for name in names for kind in _KINDS[self._settings.record]]
        results = await self._lookup.ask(questions)
        failed = {question: result.failure for question, result in results.items() if result.failure}
        if failed and not any(result.records for result in results.values()):
            raise DiscoveryError(_describe(*next(iter(failed.items()))))
        known = {question: self._hosts_of(question, result) for question, result in results.items()}
        self._answered = {question: hosts for question, hosts in known.items() if hosts is not None}
        by_name: dict[str, dict[str, None]] = {question.host: {} for question in questions}
        for question, hosts in self._answered.items():
            by_name[question.host] |= dict.fromkeys(hosts)
        ttls = tuple(result.ttl_s for result in results.values() if result.records)
        exists = any(result.exists for result in results.values())
        return _Hosts({name: tuple(found) for name, found in by_name.items()}, failed, ttls, exists)

    def _hosts_of(self, question: Question, result: Result) -> tuple[str, ...] | None:
        """Return the addresses of a result, or the earlier ones if the question failed; None if there are none."""
        if result.failure:
            return self._answered.get(question)
        texts = (canonical(getattr(record, "address", "")) for record in result.records)
        return tuple(host for host in texts if host is not None)

    def _stand_ins(self, failed: Mapping[Question, str], found: Collection[Endpoint]) -> Iterator[Found]:
        """Yield recalled backends of the address families whose questions have failed and have no answer yet."""
        families = {question.kind == "AAAA" for question in failed if question not in self._answered}
        if not families:
            self._recalled = ()
        for one in self._recalled:
            fits = (":" in one.endpoint.host) in families and self._settings.port in (0, one.endpoint.port)
            if fits and one.endpoint not in found:
                yield Found(one.endpoint, one.weight, one.other_hosts)

    def _nothing(self, kind: str, *, exists: bool) -> Remark:
        why = f"has no {kind} records" if exists else "does not exist"
        return Remark("empty", f"no backends: {self._settings.host} {why}")


def _endpoints(services: Iterable[Service], hosts: _Hosts, limits: Limits) -> Iterator[Found]:
    """Yield the endpoints of services by the addresses of their targets. One address of each family is one server."""
    for service in sorted(services):
        found = hosts.by_name[service.target]
        if len(found) == 2 and len({":" in host for host in found}) == 2:
            yield of_one_server(found, service.port, service.weight, limits.networks)
        else:
            yield from (Found(Endpoint(host, service.port), service.weight) for host in sorted(found))


def _bounded(found: Iterator[Found], most: int) -> list[Found]:
    """Return the first ones only: ports times addresses could be a million."""
    return [one for one, _ in zip(found, range(most), strict=False)]


def _failing(failed: Mapping[Question, str]) -> Iterator[Remark]:
    if failed:
        more = f" and {len(failed) - 1} more questions" if len(failed) > 1 else ""
        text = f"{_describe(*next(iter(failed.items())))}{more} failed; their earlier answers stay in use"
        yield Remark("failing", text)


def _describe(question: Question, failure: str) -> str:
    return f"{question.kind} records of {question.host.removesuffix('.')}: {failure}"
