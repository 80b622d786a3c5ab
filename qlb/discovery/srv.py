"""SRV records: which address belongs to which port.

Usually each instance has a name of its own as its target, and the addresses of the name are the instance's. Some
registries (Consul since 1.19) give one target to all instances. Multiplying ports by addresses would then make
backends that do not exist.

Spec: RFC 2782.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from qlb.discovery.lookup import Question, Result, name_text
from qlb.discovery.source import Remark

if TYPE_CHECKING:
    from dns.rdtypes.IN.SRV import SRV

_NOWHERE: Final = "."
"""The target of a service that is decidedly not there."""


class Service(NamedTuple):
    """One SRV record. weight: of new connections; 0 where there are records of a better priority."""

    target: str
    port: int
    weight: int


def read_services(result: Result, most: int) -> tuple[list[Service], list[Remark]]:
    """Return the records in the order in which they came; no more than so many, those of the best priority first."""
    records = [
        cast("SRV", record)
        for record in result.records
        if cast("SRV", record).port and name_text(cast("SRV", record).target) != _NOWHERE
    ]
    remarks = []
    if len(records) > most:
        kept = set(sorted(records, key=lambda one: (one.priority, name_text(one.target), one.port))[:most])
        remarks = [Remark("too-many", f"{len(records)} SRV records, and max_backends allows {most}")]
        records = [record for record in records if record in kept]
    best = min((record.priority for record in records), default=0)
    services = [
        Service(name_text(record.target), record.port, max(record.weight, 1) if record.priority == best else 0)
        for record in records
    ]
    return services, remarks


@dataclass
class Pairing:
    """Pairs the ports and addresses of one target that several records share.

    Where the same answer holds as many addresses as records for the target, they belong together in their order. A
    resolver on the way may mix that order. Answers that contradict each other show it, and such a target is never
    paired again.
    """

    _before: dict[str, Mapping[str, int]] = field(default_factory=dict)
    _mixed: set[str] = field(default_factory=set)

    def pair(self, services: Sequence[Service], result: Result) -> dict[Service, tuple[str, ...]]:
        """Return the addresses of each service that could be paired. result: the answer with all of them."""
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
        """Whether an answer moves ports that stay from one address to another."""
        now = dict(zip(hosts, (one.port for one in group), strict=True))
        before = self._before.get(target, {})
        self._before[target] = now
        if any(before.get(host, port) != port and before[host] in now.values() for host, port in now.items()):
            self._mixed.add(target)
        return target in self._mixed


def remarks_on(services: Iterable[Service], paired: Iterable[Service], hosts: Mapping[str, int]) -> Iterator[Remark]:
    """Yield what an operator should know of targets that several records share. hosts: target → its addresses."""
    done = set(paired)
    for target, group in _groups(services):
        if group[0] in done:
            text = "ports and addresses are paired in the order in which they came"
        elif hosts.get(target, 0) > 1:
            text = f"no way to tell which address has which port, so each is tried with all {len(group)}"
        else:
            continue
        yield Remark("one-target", f"{len(group)} SRV records name {target}: {text}; give each instance its own name")
        return


def _groups(services: Iterable[Service]) -> Iterator[tuple[str, list[Service]]]:
    """Yield the targets that several ports share, with their services in order."""
    by_target: dict[str, list[Service]] = {}
    for service in services:
        by_target.setdefault(service.target, []).append(service)
    for target, group in by_target.items():
        if len({service.port for service in group}) > 1:
            yield target, group
