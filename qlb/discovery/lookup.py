"""Questions to DNS servers, many at a time. A failing question does not affect the others.

dnspython implements the protocol: random ports and query IDs, and TCP for truncated answers.

Spec: RFC 1035; RFC 2181, section 5.2 (TTL).
"""

import asyncio
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from qlb.addresses import Endpoint
from qlb.discovery.source import DiscoveryError, Remark
from qlb.errors import ConfigError

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver
    from dns.rdata import Rdata
    from dns.resolver import Answer as DnsAnswer

RESOLV_CONF: Final = Path("/etc/resolv.conf")
_LIFETIME_S: Final = 5.0
"""The longest time for one question, with all tries at every resolver."""
_ROUND_S: Final = 10.0
"""The longest time for all questions of one round. The remaining ones then fail, and their earlier answers count."""
_AT_ONCE: Final = 32
_ADDRESS_KINDS: Final = ("A", "AAAA")
_MAX_REASON_CHARACTERS: Final = 120


class Question(NamedTuple):
    """A name and a type of records."""

    host: str
    kind: str


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a question. failure: why there is no answer, or "". exists: False if the name does not exist.

    ttl_s: how long the records are valid. additional: addresses of the additional section, in their order on the wire.
    """

    records: "Sequence[Rdata]" = ()
    ttl_s: float = 0.0
    failure: str = ""
    exists: bool = True
    additional: Mapping[Question, tuple[str, ...]] = field(default_factory=dict)


class Lookup:
    """The DNS client: it asks the configured resolvers, or those of this machine as they are now."""

    def __init__(self, resolvers: Sequence[Endpoint], resolv_conf: Path = RESOLV_CONF) -> None:
        """resolvers: empty = those in resolv_conf, which is read again when it changes and after failures.

        Raises ConfigError if dnspython is not installed.
        """
        # `qlb check` creates a source, too. The import would take it 0.2 s, so it waits for the first question.
        if find_spec("dns") is None:
            raise ConfigError("discovery by dns needs the discovery extra: pip install 'qlb[discovery]'")
        self._resolv_conf = resolv_conf
        self._seen: tuple[int, ...] | None = None
        self._all_failed = False
        self._resolver: Resolver | None = None
        self._resolvers = tuple(resolvers)

    async def ask(self, questions: Iterable[Question]) -> dict[Question, Result]:
        """Ask all questions at once. Return the result of each, in their order.

        Raises DiscoveryError if this machine has no DNS server.
        """
        await asyncio.to_thread(import_module, "dns.asyncresolver")
        resolver = self._current()
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(question: Question) -> Result:
            async with slots:
                return await _ask(resolver, question)

        tasks = {question: asyncio.create_task(one(question)) for question in questions}
        if not tasks:
            return {}
        try:
            await asyncio.wait(tasks.values(), timeout=_ROUND_S)
        finally:
            for task in tasks.values():
                task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        late = Result(failure=f"no answer within {_ROUND_S:g} s")
        results = {question: late if task.cancelled() else task.result() for question, task in tasks.items()}
        self._all_failed = all(result.failure for result in results.values())
        return results

    def _current(self) -> "Resolver":
        """Return the resolver; a new one if the file with the servers has changed or all questions have failed.

        A file that cannot be read, or is half written, changes nothing.
        """
        from dns.asyncresolver import Resolver
        from dns.exception import DNSException
        from dns.nameserver import Do53Nameserver

        if self._resolvers:
            if self._resolver is None:
                self._resolver = Resolver(configure=False)
                self._resolver.nameservers = [Do53Nameserver(one.host, one.port) for one in self._resolvers]
            return self._resolver
        seen = _signature(self._resolv_conf)
        if self._resolver is not None and (seen is None or (seen == self._seen and not self._all_failed)):
            return self._resolver
        try:
            self._resolver, self._seen = Resolver(filename=str(self._resolv_conf)), seen
        except (DNSException, OSError, ValueError) as error:
            if self._resolver is None:
                raise DiscoveryError(f"this machine has no DNS server ({error}); name some in `resolvers`") from error
        return self._resolver


async def _ask(resolver: "Resolver", question: Question) -> Result:
    from dns.resolver import NXDOMAIN

    try:
        found = await resolver.resolve(
            question.host, question.kind, raise_on_no_answer=False, lifetime=_LIFETIME_S, search=False
        )
    except NXDOMAIN:
        return Result(exists=False)
    except Exception as error:  # hostile octets may raise any error of the library, and none may end the source
        return Result(failure=_reason(error))
    if found.rrset is None:
        return Result()
    ttl_s = min(found.rrset.ttl, found.chaining_result.minimum_ttl)
    return Result(tuple(found.rrset), ttl_s, additional=_additional(found))


def _additional(found: "DnsAnswer") -> dict[Question, tuple[str, ...]]:
    return {
        Question(name_text(rrset.name), rrset.rdtype.name): tuple(record.address for record in rrset)
        for rrset in found.response.additional
        if rrset.rdtype.name in _ADDRESS_KINDS
    }


def name_text(name: object) -> str:
    """Return a name of the library in the form for comparisons: lower case, with the final dot."""
    return str(name).lower()


def _reason(error: Exception) -> str:
    """Return why a question has no answer, in the same words each time: the library's texts contain times and ports."""
    from dns.exception import Timeout
    from dns.resolver import NoNameservers

    if isinstance(error, Timeout):
        return f"no answer within {_LIFETIME_S:g} s"
    if isinstance(error, NoNameservers) and (tries := error.kwargs.get("errors")):
        last = tries[-1][3]
        return last if isinstance(last, str) else type(last).__name__
    return f"{type(error).__name__}: {error}"[:_MAX_REASON_CHARACTERS]


def _signature(path: Path) -> tuple[int, ...] | None:
    """Return a value that changes when the file does; None if there is no regular file."""
    try:
        status = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


if TYPE_CHECKING:
    from dns.rdtypes.IN.SRV import SRV

_NOWHERE: Final = "."
"""The target of a service that does not exist (RFC 2782)."""


class Service(NamedTuple):
    """One SRV record. weight: of new connections; 0 if there are records of a better priority."""

    target: str
    port: int
    weight: int


def read_services(result: Result, most: int) -> tuple[list[Service], list[Remark]]:
    """Return the records in the order of the answer. If there are more than most, those of the best priority stay."""
    records = [
        cast("SRV", record)
        for record in result.records
        if cast("SRV", record).port and name_text(cast("SRV", record).target) != _NOWHERE
    ]
    remarks = []
    if len(records) > most:
        kept = set(sorted(records, key=lambda one: (one.priority, name_text(one.target), one.port))[:most])
        remarks = [Remark("too-many", f"{len(records)} SRV records, but max_backends allows {most}")]
        records = [record for record in records if record in kept]
    best = min((record.priority for record in records), default=0)
    services = [
        Service(name_text(record.target), record.port, max(record.weight, 1) if record.priority == best else 0)
        for record in records
    ]
    return services, remarks


@dataclass
class Pairing:
    """The pairing of ports with addresses of one target that several records share.

    If an answer has as many addresses as records for the target, they belong together in their order. A resolver on
    the path may change that order. Answers that contradict each other prove that, and such a target is never paired
    again.
    """

    _before: dict[str, Mapping[str, int]] = field(default_factory=dict)
    _mixed: set[str] = field(default_factory=set)

    def pair(self, services: Sequence[Service], result: Result) -> dict[Service, tuple[str, ...]]:
        """Return the addresses of each service that can be paired. result: the answer with all services."""
        pairs: dict[Service, tuple[str, ...]] = {}
        groups = dict(_groups(services))
        self._mixed &= groups.keys()
        self._before = {target: ports for target, ports in self._before.items() if target in groups}
        for target, group in groups.items():
            lists = [
                hosts
                for kind in ("A", "AAAA")
                if len(hosts := result.additional.get(Question(target, kind), ())) == len(group)
            ]
            if lists and not self._contradicts(target, group, lists[0]):
                pairs |= dict(zip(group, zip(*lists, strict=True), strict=True))
        return pairs

    def _contradicts(self, target: str, group: Sequence[Service], hosts: Sequence[str]) -> bool:
        """Return whether answers contradict each other: a port that is still in use has another address than before."""
        now = dict(zip(hosts, (one.port for one in group), strict=True))
        before = self._before.get(target, {})
        self._before[target] = now
        if any(before.get(host, port) != port and before[host] in now.values() for host, port in now.items()):
            self._mixed.add(target)
        return target in self._mixed


def remarks_on(services: Iterable[Service], paired: Iterable[Service], hosts: Mapping[str, int]) -> Iterator[Remark]:
    """Yield remarks on targets that several records share. hosts: target → number of its addresses."""
    done = set(paired)
    for target, group in _groups(services):
        if group[0] in done:
            text = "ports and addresses are paired in the order of the answer"
        elif hosts.get(target, 0) > 1:
            text = f"it is unknown which address has which port, so each address is used with all {len(group)} ports"
        else:
            continue
        yield Remark("one-target", f"{len(group)} SRV records name {target}: {text}; give each instance its own name")
        return


def _groups(services: Iterable[Service]) -> Iterator[tuple[str, list[Service]]]:
    """Yield the targets that have several ports, with their services in order."""
    by_target: dict[str, list[Service]] = {}
    for service in services:
        by_target.setdefault(service.target, []).append(service)
    for target, group in by_target.items():
        if len({service.port for service in group}) > 1:
            yield target, group
